"""Harbor's robots in memory. No Harbor could be had: the answers are what its source says (2.16, c50c7ddd), not what was recorded."""

from __future__ import annotations

import copy
from base64 import b64encode
from typing import Any

from connectors.containment._fake import Answer, Ask, Fake, Rehearsed

_ROBOTS = "/api/v2.0/robots"
#: What may not change when a robot is put back.
_FIXED = ("name", "level", "permissions")


class FakeHarbor(Fake):
    """Robots by number. ``update_time`` changes with every write and is left out of ``state``."""

    def __init__(self, permissions: list[dict[str, Any]] | None = None) -> None:
        super().__init__()
        #: What the asking account may do, as in a robot's own ``permissions``; None is a system administrator.
        self.permissions = permissions
        self.password = Rehearsed()
        self.robots: dict[int, dict[str, Any]] = {
            1: _robot(1, "robot$models+trainer", "project", "trains models"),
            2: _robot(2, "robot$models+trainer-2", "project", ""),
            3: _robot(3, "robot$scanner", "system", ""),
        }

    def state(self) -> Any:
        """Every robot."""
        return copy.deepcopy(self.robots)

    def answer(self, ask: Ask) -> Answer:
        """See ``Fake``."""
        pair = b64encode(f"robot$tocsin:{self.password.read()}".encode()).decode()
        if ask.headers.get("authorization") != f"Basic {pair}":
            return _error(401, "UNAUTHORIZED", "unauthorized")
        if ask.path == _ROBOTS:
            return self._list(ask.query.get("q", ""))
        if ask.path.startswith("/api/v2.0/projects/"):
            # A project that is not there, or not this account's, is forbidden.
            if not self._may("project", "project", "read"):
                return _FORBIDDEN
            known = ask.path.endswith("/models") and ask.headers.get("x-is-resource-name") == "true"
            return Answer(200, {"project_id": 7, "name": "models"}) if known else _error(404, "NOT_FOUND", "project not found")
        number = int(ask.path.rpartition("/")[2])
        if number not in self.robots:
            return _error(404, "NOT_FOUND", f"robot {number} not found")
        if not self._may(self.robots[number]["level"], "robot", "read" if ask.method == "GET" else "update"):
            return _FORBIDDEN
        if ask.method == "GET":
            return Answer(200, self.robots[number])
        return self._put(number, ask.json())

    def _list(self, query: str) -> Answer:
        wanted = dict(part.partition("=")[::2] for part in query.split(","))
        if wanted.get("Level") == "project" and wanted.get("ProjectID") != "7":
            return _error(400, "BAD_REQUEST", "must with project ID when to query project robots")
        if not self._may(wanted.get("Level", "system"), "robot", "list"):
            return _FORBIDDEN
        name = wanted.get("name", "").removeprefix("~")
        return Answer(200, [one for one in self.robots.values() if one["level"] == wanted.get("Level") and name in one["name"]])

    def _may(self, level: str, resource: str, action: str) -> bool:
        if self.permissions is None:
            return True
        wanted = {"resource": resource, "action": action}
        return any(one["kind"] == level and wanted in one["access"] for one in self.permissions)

    def _put(self, number: int, given: dict[str, Any]) -> Answer:
        robot = self.robots[number]
        if any(given.get(field) != robot[field] for field in _FIXED):
            return _error(400, "BAD_REQUEST", "cannot update the level or name of robot")
        robot["disable"] = given.get("disable", False)
        robot["description"] = given.get("description", "")
        return Answer(200)


def _robot(number: int, name: str, level: str, about: str) -> dict[str, Any]:
    access = [{"resource": "repository", "action": "pull"}]
    return {
        "id": number,
        "name": name,
        "level": level,
        "description": about,
        "disable": False,
        "editable": True,
        "duration": -1,
        "expires_at": -1,
        "creation_time": f"2026-11-0{number}T00:00:00.000Z",
        "permissions": [{"kind": "project", "namespace": "models", "access": access}],
    }


def _error(status: int, code: str, message: str) -> Answer:
    return Answer(status, {"errors": [{"code": code, "message": message}]})


_FORBIDDEN = _error(403, "FORBIDDEN", "forbidden")
