"""What can be done in OpenBao: a token or leases revoked, an entity disabled, a transit key withheld and given back."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any
from urllib.parse import quote

import msgspec

from connectors.containment import Action, Applied, Prepared, Snapshot, Undone, Verb, Verified
from connectors.containment._doing import OneWay, gone, kept, mark
from connectors.containment._http import CallFailed
from connectors.containment._marked import Marked
from connectors.containment._openbao_api import Api, data, place_of

#: Where, in an entity's own metadata, stands which action disabled it.
DISABLED_BY = "tocsin_disabled_by"
#: Most leases that are listed one by one; of more, those left after the revocation are told by the list being empty.
MOST_LEASES = 500
#: How soon leases are looked for again, in seconds: OpenBao revokes them one after another.
LOOK_AGAIN = 2.0


class _Entity(msgspec.Struct):
    id: str
    name: str = ""
    disabled: bool = False
    metadata: dict[str, str] | None = None


class _Key(msgspec.Struct):
    name: str
    soft_deleted: bool = False
    latest_version: int = 0


class _Group(msgspec.Struct):
    metadata: dict[str, str] | None = None


class _Keys(msgspec.Struct):
    keys: list[str]


class RevokeToken(OneWay):
    """Revoke a token, its children and all their leases, by its accessor."""

    verb = Verb(
        name="revoke_token",
        kinds=("token",),
        undoable=False,
        residual="Whoever can log in gets another token; secrets that were read are read.",
        needs=("auth/token/lookup-accessor: update", "auth/token/revoke-accessor: update"),
    )

    def __init__(self, api: Api) -> None:
        self.api = api

    def prepare(self, action: Action) -> Prepared:
        """See ``Doing``. A token revoked before and one that never was are the same to OpenBao: both are gone."""
        if not self._lives(action):
            raise gone(f"a live token with this accessor ({action.target})")
        return Prepared("ready", "", {"accessor": _name(action)})

    def apply(self, action: Action) -> Applied:
        """See ``Doing``."""
        if not self._lives(action):
            return Applied("already", "no token has this accessor any more")
        reply = self.api.call("POST", "auth/token/revoke-accessor", json={"accessor": _name(action)})
        if reply.status == 204:
            return Applied("applied", "revoked")
        # 200 and a warning: it was gone by then.
        return Applied("already", "no token has this accessor any more")

    def verify(self, action: Action) -> Verified:
        """See ``Doing``."""
        if self._lives(action):
            return Verified("not-effective", "the token lives")
        if action.snapshot is None:
            return Verified("unverified", "no token has this accessor; nobody knows whether one ever had")
        return Verified("verified", "no token has this accessor any more")

    def _lives(self, action: Action) -> bool:
        try:
            self.api.call("POST", "auth/token/lookup-accessor", json={"accessor": _name(action)})
        except CallFailed as error:
            # Which status an unknown accessor has differs between releases (400, 403, 404); its words do not.
            if error.status in (400, 403, 404) and "invalid accessor" in error.reason:
                return False
            raise
        return True


class RevokeLeases(OneWay):
    """Revoke every lease below a prefix: the credentials that a database role, or a login method, has given out."""

    verb = Verb(
        name="revoke_leases",
        kinds=("secret",),
        undoable=False,
        residual="Whoever may read the secret gets another lease; a system that cannot be reached keeps the credential until its end.",
        needs=("sys/leases/lookup/PREFIX: list, sudo", "sys/leases/revoke-prefix/PREFIX: update, sudo"),
        destructive=True,
    )

    def __init__(self, api: Api) -> None:
        self.api = api

    def prepare(self, action: Action) -> Prepared:
        """See ``Doing``."""
        found = self._leases(place_of(_name(action)))
        if not found:
            raise gone(f"a lease below {action.target}")
        return Prepared("ready", f"{len(found)} leases", {"leases": found})

    def apply(self, action: Action) -> Applied:
        """See ``Doing``."""
        if not self._left(action):
            return Applied("already", "none of those leases is left")
        self.api.call("POST", f"sys/leases/revoke-prefix/{place_of(_name(action))}", json={"sync": True})
        return Applied("applied", "revoked")

    def verify(self, action: Action) -> Verified:
        """See ``Doing``."""
        if action.snapshot is None:
            return Verified("unverified", "nobody knows which leases were meant")
        left = self._left(action)
        if left:
            return Verified("not-effective", f"{left} leases are left", again=LOOK_AGAIN)
        return Verified("verified", "none of those leases is left")

    def _left(self, action: Action) -> int:
        return len({*kept(action).get("leases", ())} & {*self._leases(place_of(_name(action)))})

    def _leases(self, prefix: str) -> list[str]:
        """Ids of the leases below a prefix, breadth first, at most MOST_LEASES."""
        found: list[str] = []
        folders = [prefix]
        for folder in folders:
            reply = self.api.call("LIST", f"sys/leases/lookup/{folder}", expect=(404,))
            keys = [] if reply.status == 404 else data(reply, _Keys).keys
            folders += [f"{folder}/{quote(key.rstrip('/'), safe='')}" for key in keys if key.endswith("/")]
            found += [f"{folder}/{key}" for key in keys if not key.endswith("/")]
            if len(found) >= MOST_LEASES or len(folders) > MOST_LEASES:
                break
        return found[:MOST_LEASES]


class DisableEntity(Marked[_Entity]):
    """Disable an entity: its tokens and logins are refused and not revoked, so that the undo brings them back."""

    verb = Verb(
        name="disable_entity",
        kinds=("user", "sa"),
        undoable=True,
        residual="Secrets that were read are read; leases already given out live until their end.",
        needs=(
            "identity/entity/name/*: read",
            "identity/entity/id/*: read, update",
            "identity/lookup/entity: update (with alias_mounts)",
        ),
    )

    def __init__(self, api: Api, alias_mounts: Mapping[str, str]) -> None:
        self.api = api
        self._mounts = alias_mounts

    def find(self, action: Action) -> _Entity:
        known = kept(action).get("id")
        found = self.api.read(f"identity/entity/id/{quote(str(known), safe='')}", _Entity) if known else self._named(action)
        if found is None:
            raise gone(action.target)
        return found

    def so(self, thing: _Entity) -> str:
        return "the entity is disabled" if thing.disabled else ""

    def read(self, thing: _Entity) -> tuple[str, Snapshot]:
        return "", {"id": thing.id}

    def do(self, action: Action, thing: _Entity) -> None:
        # The note is written in the same call. Metadata are replaced as a whole, so the others are written with it.
        self._write(thing, disabled=True, metadata={**(thing.metadata or {}), DISABLED_BY: mark(action)})

    def take_back(self, action: Action, thing: _Entity) -> None:
        self._write(thing, disabled=False)

    def seen(self, action: Action, thing: _Entity) -> Verified:
        if thing.disabled:
            return Verified("verified", "the entity is disabled: OpenBao refuses its tokens and logins")
        return Verified("not-effective", "the entity is enabled")

    def noted(self, action: Action) -> bool:
        try:
            return (self.find(action).metadata or {}).get(DISABLED_BY) == mark(action)
        except CallFailed as error:
            if error.trouble.kind != "gone":
                raise
            return False

    def note(self, action: Action) -> None:
        """Written by ``do``."""

    def forget(self, action: Action) -> None:
        if self.noted(action):
            thing = self.find(action)
            self._write(thing, metadata={key: value for key, value in (thing.metadata or {}).items() if key != DISABLED_BY})

    def _write(self, thing: _Entity, **fields: Any) -> None:
        self.api.call("POST", f"identity/entity/id/{quote(thing.id, safe='')}", json=fields)

    def _named(self, action: Action) -> _Entity | None:
        """The entity that has this name, or whose alias on the mount for this kind has."""
        mount = self._mounts.get(action.target.partition(":")[0])
        if mount is None:
            found = self.api.read(f"identity/entity/name/{quote(_name(action), safe='')}", _Entity)
            return found if found and found.name.lower() == _name(action).lower() else None
        asked = {"alias_name": _name(action), "alias_mount_accessor": mount}
        reply = self.api.call("POST", "identity/lookup/entity", json=asked)
        return None if reply.status == 204 else data(reply, _Entity)


class WithholdKey(Marked[_Key]):
    """Put a transit key out of use, so that models sealed with it cannot be opened, and give it back: nothing is destroyed."""

    verb = Verb(
        name="withhold_key",
        kinds=("secret", "model"),
        undoable=True,
        residual="A model that is opened already stays open; data keys that were unwrapped still decrypt.",
        needs=(
            "MOUNT/keys/KEY: read",
            "MOUNT/keys/KEY/soft-delete: delete",
            "MOUNT/keys/KEY/soft-delete-restore: update",
            "identity/group/name/tocsin-*: create, update, read, delete",
        ),
        destructive=True,
    )

    def __init__(self, api: Api, model_keys: Mapping[str, str]) -> None:
        self.api = api
        self._models = model_keys

    def find(self, action: Action) -> _Key:
        found = self.api.read(self._path(action), _Key)
        if found is None:
            raise gone(action.target)
        return found

    def so(self, thing: _Key) -> str:
        return "the key is withheld" if thing.soft_deleted else ""

    def read(self, thing: _Key) -> tuple[str, Snapshot]:
        return "", {"latest_version": thing.latest_version}

    def prepare(self, action: Action) -> Prepared:
        """See ``Doing``. A key that another containment of ours withholds is kept by this one too, beyond the other's end."""
        thing, path = self.find(action), self._path(action)
        if thing.soft_deleted and not self._others(action):
            return Prepared("already", self.so(thing))
        remark = "another containment of ours withholds the key: it stays until both have ended" if thing.soft_deleted else ""
        return Prepared("ready", remark, {"latest_version": thing.latest_version, "path": path})

    def apply(self, action: Action) -> Applied:
        """See ``Doing``."""
        if self.find(action).soft_deleted and not self.noted(action) and self._others(action):
            self.note(action)
            return Applied("applied", "another containment of ours withholds the key: it stays until both have ended")
        return super().apply(action)

    def undo(self, action: Action) -> Undone:
        """See ``Doing``. The key is given back by the last that holds it."""
        if action.snapshot is not None and self.noted(action) and len(self._holders(action)) > 1:
            self.forget(action)
            return Undone("undone", "another containment of ours still withholds the key")
        return super().undo(action)

    def do(self, action: Action, thing: _Key) -> None:
        # An unknown key is answered 204, as if it were done: ``apply`` reads back.
        self.api.call("DELETE", f"{self._path(action)}/soft-delete")

    def take_back(self, action: Action, thing: _Key) -> None:
        self.api.call("POST", f"{self._path(action)}/soft-delete-restore")

    def seen(self, action: Action, thing: _Key) -> Verified:
        if thing.soft_deleted:
            return Verified("verified", "the key is soft-deleted: OpenBao refuses to use it")
        return Verified("not-effective", "the key is in use")

    def noted(self, action: Action) -> bool:
        return mark(action) in self._holders(action)

    def note(self, action: Action) -> None:
        # A group without members or policies: what every server has and a key has not, a place for a word of ours.
        self._write(action, {**self._holders(action), mark(action): f"{action.target} alert={action.alert} due={action.due}"})

    def forget(self, action: Action) -> None:
        left = {holder: about for holder, about in self._holders(action).items() if holder != mark(action)}
        if left:
            self._write(action, left)
        else:
            self.api.call("DELETE", self._group(action), expect=(404,))

    def _holders(self, action: Action) -> dict[str, str]:
        """What withholds the key: the mark of each action, and what it is about."""
        found = self.api.read(self._group(action), _Group)
        return (found.metadata or {}) if found else {}

    def _others(self, action: Action) -> bool:
        """Whether actions of ours on other targets withhold the key; what is on the same target is the same containment."""
        holders = self._holders(action)
        return bool(holders) and not any(about.partition(" ")[0] == action.target for about in holders.values())

    def _write(self, action: Action, holders: dict[str, str]) -> None:
        # Only the responder writes here, and there is one: metadata are replaced as a whole.
        self.api.call("POST", self._group(action), json={"metadata": holders})

    def _group(self, action: Action) -> str:
        """The note of a key: one of all who withhold it."""
        return f"identity/group/name/tocsin-key-{blake2b(self._path(action).encode(), digest_size=16).hexdigest()}"

    def _path(self, action: Action) -> str:
        """``MOUNT/keys/KEY``. Where it was once looked up, the snapshot's: the settings may name another key by now."""
        known = kept(action).get("path")
        if known:
            return str(known)
        place = self._models.get(_name(action), "") if action.target.startswith("model:") else _name(action)
        mount, _, key = place.strip("/").rpartition("/")
        if not mount or not key:
            raise gone(f"a transit key of {action.target}")
        return f"{quote(mount, safe='/')}/keys/{quote(key, safe='')}"


def _name(action: Action) -> str:
    return action.target.partition(":")[2]
