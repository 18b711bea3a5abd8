"""Harbor: a robot account disabled, and enabled again.

Harbor changes a robot only as a whole, so the whole object goes back with one field changed; its name, level and permissions must be as
they were. The mark stands in the robot's description. What Harbor answers is taken from its source (2.16, c50c7ddd) and was never tried
live: point the contract test at yours (``docs/containment-workload.md``).
"""

from __future__ import annotations

import re
from base64 import b64encode
from typing import Any, ClassVar
from urllib.parse import quote

import msgspec

from connectors.containment import Action, Applied, Prepared, Rehearsal, Undone, Verb, Verified
from connectors.containment._doing import ByVerb, error_body, gone, kept, mark, shaped
from connectors.containment._fake_harbor import FakeHarbor
from connectors.containment._http import CallFailed, Endpoint, Http, Reply, Secret

_ROBOTS = "/api/v2.0/robots"
#: Most robots of one project that are looked through: Harbor gives 100 a page at most, and a name is searched for besides.
_PAGE = "100"
_MARK = re.compile(r" ?\[contained by tocsin ([A-Za-z0-9_.-]+)\]")


class HarborSettings(Endpoint, kw_only=True, forbid_unknown_fields=True):
    """One registry, and an account that may read and update robots: a system robot with ``robot: read, list, update``."""

    username: str
    password: Secret
    #: What Harbor puts before a robot's name.
    robot_prefix: str = "robot$"


class DisableRobot:
    """Disable one robot."""

    verb = Verb(
        name="disable_robot",
        kinds=("user",),
        undoable=True,
        residual="Registry tokens that it was already given are taken until they expire, 30 minutes after issue by default.",
        needs=("system: robot list, read, update", "every project: project read; robot list, read, update"),
    )

    def __init__(self, http: Http, settings: HarborSettings) -> None:
        self._http = http
        self._settings = settings

    def prepare(self, action: Action) -> Prepared:
        """See ``Doing``."""
        robot = self._found(action)
        if robot["disable"]:
            return Prepared("already", "the robot is disabled")
        if not robot.get("editable", True):
            raise CallFailed("refused", "a robot of the old kind cannot be changed, only deleted")
        return Prepared("ready", "", {"id": robot["id"], "created": str(robot.get("creation_time", ""))})

    def apply(self, action: Action) -> Applied:
        """See ``Doing``."""
        robot = self._found(action)
        if robot["disable"]:
            ours = _marked(robot) == mark(action)
            return Applied("already", "this action disabled it before" if ours else "the robot is disabled")
        about = str(robot.get("description") or "")
        self._put({**robot, "disable": True, "description": f"{about}{' ' if about else ''}[contained by tocsin {mark(action)}]"})
        return Applied("applied", f"disabled {robot['id']}")

    def verify(self, action: Action) -> Verified:
        """See ``Doing``."""
        if self._found(action)["disable"]:
            return Verified("verified", "Harbor gives the robot no token any more")
        return Verified("not-effective", "the robot is enabled")

    def undo(self, action: Action) -> Undone:
        """See ``Doing``."""
        robot = self._found(action)
        if _marked(robot) != mark(action):
            return Undone("already", "nothing of ours is left")
        was_disabled = robot["disable"]
        self._put({**robot, "disable": False, "description": _MARK.sub("", str(robot["description"]))})
        return Undone("undone", "enabled again") if was_disabled else Undone("already", "somebody else had enabled it")

    def verify_undone(self, action: Action) -> Verified:
        """See ``Doing``."""
        if _marked(self._found(action)) == mark(action):
            return Verified("not-effective", "the robot still bears the mark of this action")
        return Verified("verified", "nothing of this action is left")

    def _found(self, action: Action) -> dict[str, Any]:
        """The robot as it is. Raises CallFailed: gone where there is none of that name, or it was made since ``prepare``."""
        snapshot = kept(action)
        if "id" in snapshot:
            reply = self._http.call("GET", f"{_ROBOTS}/{int(snapshot['id'])}", headers=self._headers(), expect=(404,), gone=_is_gone)
            robot = _robot(reply.json()) if reply.status != 404 else None
            if robot is None or str(robot.get("creation_time", "")) != snapshot.get("created"):
                raise gone(action.target)
            return robot
        # Identities are in lower case; robots' names may be so only.
        full = action.target.partition(":")[2]
        if not full.startswith(self._settings.robot_prefix):
            raise gone(action.target)
        project, plus, name = full.removeprefix(self._settings.robot_prefix).rpartition("+")
        level = f"Level=project,ProjectID={self._project(project)}" if plus else "Level=system"
        query = {"q": f"{level},name=~{name}", "page_size": _PAGE}
        found = shaped(self._http.call("GET", _ROBOTS, headers=self._headers(), query=query).json() or [], list[dict[str, Any]])
        ours = [robot for robot in map(_robot, found) if str(robot["name"]).lower() == full]
        if len(ours) != 1:
            raise CallFailed("gone" if not ours else "refused", f"{len(ours)} robots are called {full}")
        return ours[0]

    def _project(self, name: str) -> int:
        """The number of a project. Raises CallFailed (gone; 403 where it is another's)."""
        path = f"/api/v2.0/projects/{quote(name, safe='')}"
        reply = self._http.call("GET", path, headers={**self._headers(), "X-Is-Resource-Name": "true"}, expect=(404,), gone=_is_gone)
        if reply.status == 404:
            raise gone(f"project {name}")
        return int(shaped(reply.json(), dict[str, Any])["project_id"])

    def _put(self, robot: dict[str, Any]) -> None:
        self._http.call("PUT", f"{_ROBOTS}/{robot['id']}", headers=self._headers(), json=robot, gone=_is_gone)

    def _headers(self) -> dict[str, str]:
        pair = f"{self._settings.username}:{self._settings.password.read()}"
        return {"Authorization": f"Basic {b64encode(pair.encode()).decode()}"}


def _robot(data: Any) -> dict[str, Any]:
    """A robot, all fields as they came. Raises CallFailed (down) where it is none."""
    robot = shaped(data, dict[str, Any])
    if not isinstance(robot.get("id"), int) or not isinstance(robot.get("name"), str):
        raise CallFailed("down", "the answer is no robot", sent=True)
    robot.setdefault("disable", False)
    return robot


def _is_gone(reply: Reply) -> bool:
    """Whether a 404 is Harbor's word on the thing asked for."""
    errors = error_body(reply).get("errors")
    return isinstance(errors, list) and any(isinstance(one, dict) and one.get("code") == "NOT_FOUND" for one in errors)


def _marked(robot: dict[str, Any]) -> str:
    found = _MARK.search(str(robot.get("description") or ""))
    return found.group(1) if found else ""


class Harbor(ByVerb):
    """The adapter. See the module."""

    title: ClassVar[str] = "Harbor: robot accounts"
    verbs: ClassVar[tuple[Verb, ...]] = (DisableRobot.verb,)
    Settings: ClassVar[type[msgspec.Struct]] = HarborSettings

    def __init__(self, settings: HarborSettings, http: Http | None = None) -> None:
        """``http``: what stands in for the connection where a registry is rehearsed."""
        http = http or Http(settings)
        super().__init__(http, [DisableRobot(http, settings)])

    @classmethod
    def rehearsal(cls) -> Rehearsal:
        """A registry with a robot of the system and one of a project."""
        fake = FakeHarbor()
        settings = HarborSettings(url="http://127.0.0.1:0", username="robot$tocsin", password=fake.password)
        targets = {"disable_robot": ("user:robot$models+trainer", "user:robot$scanner")}
        return Rehearsal(cls(settings, Http(settings, fake.transport())), targets, fake.state)


ADAPTER = Harbor
