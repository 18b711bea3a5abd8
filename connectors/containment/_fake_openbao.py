"""An OpenBao in memory. The answers to writes are those recorded on a real 2.6.2; those to look-ups are what its documentation says.

``policy`` confines the token that asks, as ACL policies do: the most specific path counts, ``+`` is one part, a last ``*`` any rest.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from connectors.containment._fake import Answer, Ask, Fake, Rehearsed

Fields = dict[str, Any]

_CAPABILITY = {"GET": "read", "LIST": "list", "DELETE": "delete", "POST": "update", "PUT": "update"}
_DENIED = Answer(403, {"errors": ["1 error occurred:\n\t* permission denied\n\n"]})
_NOT_FOUND = Answer(404, {"errors": []})
#: Needs the capability ``sudo`` besides.
_ROOT_PATHS = ("sys/leases/lookup/", "sys/leases/revoke-prefix/")


class FakeOpenbao(Fake):
    """``policy``: path -> capabilities of the token that asks; None is the root token."""

    def __init__(self, policy: Mapping[str, list[str]] | None = None) -> None:
        super().__init__()
        self.policy = policy
        self.accessors: dict[str, Fields] = {name: {"accessor": name, "entity_id": "e1"} for name in ("acc-alice", "acc-bob")}
        self.entities: dict[str, Fields] = {
            "e1": {"id": "e1", "name": "alice", "disabled": False, "metadata": {"team": "a"}, "policies": ["models"]},
            "e2": {"id": "e2", "name": "entity_7f", "disabled": False, "metadata": None, "policies": []},
        }
        self.aliases = {("team-a/trainer", "auth_kubernetes_1"): "e2"}
        self.groups: dict[str, Fields] = {}
        self.keys: dict[str, Fields] = {name: {"name": name, "latest_version": 1, "soft_deleted": False} for name in ("llama", "other")}
        self.leases = {"database/creds/trainer/l1", "database/creds/trainer/l2", "database/creds/other/l3"}

    def state(self) -> Fields:
        """All of it."""
        whole = (self.accessors, self.entities, self.groups, self.keys, sorted(self.leases))
        return dict(zip(("accessors", "entities", "groups", "keys", "leases"), copy.deepcopy(whole), strict=True))

    def answer(self, ask: Ask) -> Answer:
        """Everything below ``/v1/``."""
        path = ask.path.removeprefix("/v1/")
        if ask.headers.get("x-vault-token") != Rehearsed().read() or not self._allowed(ask.method, path):
            return _DENIED
        parts = path.split("/")
        if path.startswith("auth/token/"):
            return self._token(parts[2], ask)
        if path.startswith("sys/leases/"):
            return self._leases(ask, parts[2], "/".join(parts[3:]))
        if path.startswith("identity/group/name/"):
            return self._group(ask, parts[3])
        if path.startswith("identity/"):
            return self._entity(ask, parts[1:])
        if path.startswith("transit/keys/"):
            return self._key(ask, parts[2], "/".join(parts[3:]))
        return Answer(404, {"errors": [f'no handler for route "{path}". route entry not found.']})

    def _allowed(self, method: str, path: str) -> bool:
        if self.policy is None:
            return True
        found = sorted((rule for rule in self.policy if _covers(rule, path)), key=lambda rule: ("+" not in rule, len(rule)))
        given = self.policy[found[-1]] if found else []
        needed = {_CAPABILITY[method], *(["sudo"] if path.startswith(_ROOT_PATHS) else [])}
        if method == "POST" and path.startswith("identity/group/name/") and path.rpartition("/")[2] not in self.groups:
            needed = {"create"}
        return needed <= set(given)

    def _token(self, what: str, ask: Ask) -> Answer:
        accessor = ask.json()["accessor"]
        if what == "lookup-accessor":
            found = self.accessors.get(accessor)
            return Answer(200, {"data": found}) if found else Answer(403, {"errors": ["1 error occurred:\n\t* invalid accessor\n\n"]})
        if self.accessors.pop(accessor, None) is None:
            return Answer(200, {"warnings": ["No token found with this accessor"]})
        return Answer(204)

    def _leases(self, ask: Ask, what: str, prefix: str) -> Answer:
        below = {lease for lease in self.leases if lease.startswith(f"{prefix.rstrip('/')}/")}
        if what == "revoke-prefix":
            if prefix.endswith("/"):
                return Answer(400, {"errors": ["path is not allowed to end with a slash"]})
            self.leases -= below
            return Answer(204)
        rest = {lease.removeprefix(f"{prefix}/").partition("/") for lease in below}
        keys = sorted({name + slash for name, slash, _ in rest})
        return Answer(200, {"data": {"keys": keys}}) if keys else _NOT_FOUND

    def _group(self, ask: Ask, name: str) -> Answer:
        if ask.method == "GET":
            return Answer(200, {"data": self.groups[name]}) if name in self.groups else _NOT_FOUND
        if ask.method == "DELETE":
            self.groups.pop(name, None)
            return Answer(204)
        known = name in self.groups
        self.groups[name] = {"name": name, **ask.json()}
        return Answer(204) if known else Answer(200, {"data": {"name": name}})

    def _entity(self, ask: Ask, parts: list[str]) -> Answer:
        if parts[0] == "lookup":
            found = self.entities.get(self.aliases.get((ask.json()["alias_name"], ask.json()["alias_mount_accessor"]), ""))
            return Answer(200, {"data": found}) if found else Answer(204)
        name = "/".join(parts[2:])
        one = next((each for each in self.entities.values() if each["name" if parts[1] == "name" else "id"] == name), None)
        if ask.method == "GET":
            return Answer(200, {"data": one}) if one else _NOT_FOUND
        if one is None:
            return Answer(400, {"errors": ["entity not found from id"]})
        one.update({**ask.json(), **({"metadata": ask.json()["metadata"] or None} if "metadata" in ask.json() else {})})
        return Answer(204)

    def _key(self, ask: Ask, name: str, what: str) -> Answer:
        key = self.keys.get(name)
        if not what and ask.method == "GET":
            return Answer(200, {"data": key}) if key else _NOT_FOUND
        if what not in ("soft-delete", "soft-delete-restore") or (ask.method == "DELETE") != (what == "soft-delete"):
            return Answer(405, {"errors": ["unsupported operation"]})
        if key is None:
            return Answer(204)
        key["soft_deleted"] = what == "soft-delete"
        return Answer(200, {"data": key})


def _covers(rule: str, path: str) -> bool:
    """Whether a path of a policy means this one."""
    wanted, parts = rule.removesuffix("*").split("/"), path.split("/")
    if rule.endswith("*"):
        last = len(wanted) - 1
        return len(parts) > last and parts[last].startswith(wanted[last]) and _same(wanted[:last], parts[:last])
    return len(wanted) == len(parts) and _same(wanted, parts)


def _same(wanted: list[str], parts: list[str]) -> bool:
    return all(rule in ("+", part) for rule, part in zip(wanted, parts, strict=True))
