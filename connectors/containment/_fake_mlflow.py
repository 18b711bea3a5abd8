"""The permissions of MLflow 3.17.2 in memory, with the answers that were recorded on it; the contract test runs on a real one too."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

from connectors.containment._fake import Answer, Ask, Fake, Rehearsed

_PREFIX = "/api/3.0/mlflow/users/permissions/"
_USERS = "/api/2.0/mlflow/users/"
_VALUES = ("DENY", "EDIT", "MANAGE", "READ", "USE")
#: What holds where nothing was granted.
_DEFAULT = "READ"
#: From what wins to what loses.
_ORDER = ("DENY", "MANAGE", "EDIT", "USE", "READ")


class FakeMlflow(Fake):
    """Users with what was granted to them in person: (type, pattern) -> permission."""

    def __init__(self) -> None:
        super().__init__()
        self.password = Rehearsed()
        self.admins = {"admin"}
        self.grants: dict[str, dict[tuple[str, str], str]] = {
            "admin": {},
            "alice": {("registered_model", "llama-ft"): "MANAGE"},
            "bob": {("registered_model", "*"): "EDIT"},
        }

    def state(self) -> Any:
        """Every grant, in an order of its own."""
        return {user: sorted([*key, value] for key, value in grants.items()) for user, grants in self.grants.items()}

    def answer(self, ask: Ask) -> Answer:
        """See ``Fake``."""
        pairs = {f"Basic {b64encode(f'{name}:{self.password.read()}'.encode()).decode()}": name for name in self.grants}
        asking = pairs.get(ask.headers.get("authorization", ""))
        if asking is None:
            return Answer(401, "You are not authenticated.")
        if asking not in self.admins:
            return Answer(403, "Permission denied")
        if ask.path.startswith(_USERS):
            return self._user(ask.path.removeprefix(_USERS), ask.json())
        if not ask.path.startswith(_PREFIX):
            return Answer(404, "Not Found")
        given = (ask.json() if ask.method == "POST" else ask.query) or {}
        user = given.get("username", "")
        if not user:
            return _error(400, "INVALID_PARAMETER_VALUE", "Missing value for required parameter 'username'.")
        if user not in self.grants:
            return _error(404, "RESOURCE_DOES_NOT_EXIST", f"User with username={user} not found")
        how = ask.path.removeprefix(_PREFIX)
        if how == "list":
            return Answer(200, {"is_admin": user in self.admins, "permissions": self._rows(user)})
        key = (given["resource_type"], given["resource_id"])
        if how == "get":
            permission = self._effective(user, key)
            return Answer(200, {"allowed": _ORDER.index(permission) in (1, 2, 3), "permission": permission})
        return self._grant(user, key, given["permission"]) if how == "grant" else self._revoke(user, key)

    def _user(self, how: str, given: dict[str, Any]) -> Answer:
        name = given["username"]
        if how == "create":
            self.grants[name] = {}
        elif given["is_admin"]:
            self.admins.add(name)
        return Answer(200, {})

    def _rows(self, user: str) -> list[dict[str, Any]]:
        role = {"role_id": 2, "role_name": "__user_2__", "workspace": "default"}
        found = self.grants[user].items()
        return [{"permission": value, "resource_pattern": pattern, "resource_type": kind, **role} for (kind, pattern), value in found]

    def _effective(self, user: str, key: tuple[str, str]) -> str:
        grants = self.grants[user]
        holding = {grants[one] for one in (key, (key[0], "*")) if one in grants}
        return next((one for one in _ORDER if one in holding), _DEFAULT)

    def _grant(self, user: str, key: tuple[str, str], permission: str) -> Answer:
        if permission not in _VALUES:
            return _error(400, "INVALID_PARAMETER_VALUE", f"Invalid permission {permission!r} for resource_type={key[0]!r}.")
        if key in self.grants[user]:
            return _error(400, "RESOURCE_ALREADY_EXISTS", f"Permission for user={user} on resource_type={key[0]} already exists.")
        self.grants[user][key] = permission
        return Answer(200, {})

    def _revoke(self, user: str, key: tuple[str, str]) -> Answer:
        if self.grants[user].pop(key, None) is None:
            return _error(404, "RESOURCE_DOES_NOT_EXIST", f"Permission for user={user} on resource_type={key[0]} not found.")
        return Answer(200, {})


def _error(status: int, code: str, message: str) -> Answer:
    return Answer(status, {"error_code": code, "message": message})
