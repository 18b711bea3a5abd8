"""MLflow's registry: a user denied every registered model and every experiment, by one denial of each kind that wins over every grant.

The experiments must be denied too: with the models alone denied, the artifact endpoint still answers. The user's grants stay and count
again after the undo. A grant has no place for a mark, so a third denial, of a model that cannot exist, says whose work it is.

Needs MLflow 3.17 or newer: older ones have no denial. Administrators cannot be denied. All of this was tried on MLflow 3.17.2.
"""

from __future__ import annotations

from base64 import b64encode
from typing import ClassVar

import msgspec

from connectors.containment import Action, Applied, Prepared, Rehearsal, Undone, Verb, Verified
from connectors.containment._doing import ByVerb, error_body, gone, kept, mark, shaped
from connectors.containment._fake_mlflow import FakeMlflow
from connectors.containment._http import CallFailed, Endpoint, Http, Reply, Secret

_PERMISSIONS = "/api/3.0/mlflow/users/permissions"
#: What is denied, everything of it. The models last: they are what the denial is looked for by.
_KINDS = ("experiment", "registered_model")
_ALL = "*"
#: What our third denial names: no model is called so.
_MARKED = "tocsin/"


class MlflowSettings(Endpoint, kw_only=True, forbid_unknown_fields=True):
    """One tracking server, and an administrator of it."""

    username: str = "admin"
    password: Secret


class Grant(msgspec.Struct, frozen=True):
    """One permission that a user holds, through a role or (``__user_<id>__``) in person."""

    permission: str
    resource_pattern: str
    resource_type: str
    role_name: str = ""

    @property
    def own(self) -> bool:
        """Whether it was given in person: only such can be revoked so."""
        return self.role_name.startswith("__user_")


class Grants(msgspec.Struct, frozen=True):
    """Every permission of a user."""

    is_admin: bool
    permissions: list[Grant]

    def own(self, kind: str, pattern: str) -> str:
        """The permission given in person on that, "" where there is none."""
        found = (one.permission for one in self.permissions if one.own and (one.resource_type, one.resource_pattern) == (kind, pattern))
        return next(found, "")

    @property
    def denied(self) -> bool:
        """Whether everything is denied."""
        return all(self.own(kind, _ALL) == "DENY" for kind in _KINDS)


class Effective(msgspec.Struct, frozen=True):
    """What MLflow makes of all grants."""

    allowed: bool
    permission: str


class DenyRegistry:
    """Deny one user everything."""

    verb = Verb(
        name="deny_model",
        kinds=("user",),
        undoable=True,
        residual="Who reads the artifact store directly passes MLflow by; with auth_cache_ttl_seconds set, other workers lag by it.",
        needs=("mlflow: administrator",),
    )

    def __init__(self, http: Http, settings: MlflowSettings) -> None:
        self._http = http
        self._settings = settings

    def prepare(self, action: Action) -> Prepared:
        """See ``Doing``."""
        user, grants = self._found(action)
        if grants.is_admin:
            raise CallFailed("refused", f"{user} is an administrator: nothing can be denied")
        if grants.denied:
            return Prepared("already", "everything is denied")
        return Prepared("ready", "", {"user": user, "before": {kind: grants.own(kind, _ALL) for kind in _KINDS}})

    def apply(self, action: Action) -> Applied:
        """See ``Doing``."""
        user, grants = self._found(action)
        ours = bool(grants.own("registered_model", _MARKED + mark(action)))
        if grants.denied:
            return Applied("already", "this action did it before" if ours else "everything is denied")
        if not ours:
            self._change("grant", user, "registered_model", _MARKED + mark(action), "DENY")
        try:
            for kind in _KINDS:
                self._set(user, kind, grants.own(kind, _ALL), "DENY")
        except CallFailed as error:
            return Applied("unknown", f"denied in part: {error.reason}", error.trouble)
        return Applied("applied", f"{user} is denied every experiment and registered model")

    def verify(self, action: Action) -> Verified:
        """See ``Doing``."""
        user, grants = self._found(action)
        asked = {(one.resource_type, one.resource_pattern) for one in grants.permissions if one.resource_type in _KINDS}
        asked |= {(kind, _ALL) for kind in _KINDS}
        open_ = sorted(f"{kind} {pattern}" for kind, pattern in asked if self._effective(user, kind, pattern).permission != "DENY")
        if open_:
            return Verified("not-effective", f"not denied: {', '.join(open_[:5])}")
        return Verified("verified", f"MLflow denies {user} all of {len(asked)}")

    def undo(self, action: Action) -> Undone:
        """See ``Doing``."""
        user, grants = self._found(action)
        if not grants.own("registered_model", _MARKED + mark(action)):
            return Undone("already", "nothing of ours is left")
        before, lifted = kept(action).get("before") or {}, False
        for kind in _KINDS:
            now, then = grants.own(kind, _ALL), str(before.get(kind, ""))
            # None at all is our own undo, broken off between revoking and granting; anything else is somebody's.
            if now in ("DENY", "") and now != then:
                self._set(user, kind, now, then)
                lifted = True
        # The mark goes last: until it is gone, this is not over.
        self._set(user, "registered_model", "DENY", "", pattern=_MARKED + mark(action))
        return Undone("undone", "no longer denied") if lifted else Undone("already", "somebody else had lifted it")

    def verify_undone(self, action: Action) -> Verified:
        """See ``Doing``."""
        _, grants = self._found(action)
        if grants.own("registered_model", _MARKED + mark(action)):
            return Verified("not-effective", "the mark of this action is still there")
        return Verified("verified", "nothing of this action is left")

    def _found(self, action: Action) -> tuple[str, Grants]:
        """The user's name there and permissions. Raises CallFailed (gone)."""
        user = str(kept(action).get("user") or action.target.partition(":")[2])
        path, query = f"{_PERMISSIONS}/list", {"username": user}
        try:
            reply = self._http.call("GET", path, headers=self._headers(), query=query, expect=(404,), gone=_is_gone)
        except CallFailed as error:
            if error.status != 404:
                raise
            needed = "permissions of users need MLflow 3.17 or newer with its basic-auth app"
            raise CallFailed("down", f"{error.reason}; {needed}", sent=True, status=404) from None
        if reply.status == 404:
            raise gone(action.target)
        return user, shaped(reply.json(), Grants)

    def _effective(self, user: str, kind: str, pattern: str) -> Effective:
        query = {"username": user, "resource_type": kind, "resource_id": pattern}
        return shaped(
            self._http.call("GET", f"{_PERMISSIONS}/get", headers=self._headers(), query=query, gone=_is_gone).json(), Effective
        )

    def _set(self, user: str, kind: str, now: str, then: str, *, pattern: str = _ALL) -> None:
        """Put one permission in the place of another; "" is none. There is no update: it is revoked and granted."""
        if now == then:
            return
        if now:
            self._change("revoke", user, kind, pattern)
        if then:
            self._change("grant", user, kind, pattern, then)

    def _change(self, how: str, user: str, kind: str, pattern: str, permission: str = "") -> None:
        body = {"username": user, "resource_type": kind, "resource_id": pattern} | ({"permission": permission} if permission else {})
        # Gone already (404) or granted already (400): somebody was faster, and what is there now is read back anyway.
        reply = self._http.call("POST", f"{_PERMISSIONS}/{how}", headers=self._headers(), json=body, expect=(400, 404), gone=_is_gone)
        code = _code(reply)
        if reply.status >= 400 and code not in ("RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS"):
            raise CallFailed("refused", f"{how}: {code or reply.status}")

    def _headers(self) -> dict[str, str]:
        pair = f"{self._settings.username}:{self._settings.password.read()}"
        return {"Authorization": f"Basic {b64encode(pair.encode()).decode()}"}


def _code(reply: Reply) -> str:
    """MLflow's word for an error, "" where the answer has none, as the page of an unknown address."""
    return str(error_body(reply).get("error_code", ""))


def _is_gone(reply: Reply) -> bool:
    """Whether a 404 is MLflow's word on the thing asked for."""
    return _code(reply) == "RESOURCE_DOES_NOT_EXIST"


class Mlflow(ByVerb):
    """The adapter. See the module."""

    title: ClassVar[str] = "MLflow: a user's access to registered models and experiments"
    verbs: ClassVar[tuple[Verb, ...]] = (DenyRegistry.verb,)
    Settings: ClassVar[type[msgspec.Struct]] = MlflowSettings

    def __init__(self, settings: MlflowSettings, http: Http | None = None) -> None:
        """``http``: what stands in for the connection where a server is rehearsed."""
        http = http or Http(settings)
        super().__init__(http, [DenyRegistry(http, settings)])

    @classmethod
    def rehearsal(cls) -> Rehearsal:
        """A registry with one user who may manage one model."""
        fake = FakeMlflow()
        settings = MlflowSettings(url="http://127.0.0.1:0", password=fake.password)
        targets = {"deny_model": ("user:alice", "user:bob")}
        return Rehearsal(cls(settings, Http(settings, fake.transport())), targets, fake.state)


ADAPTER = Mlflow
