"""A change of one field of one Kubernetes object, marked as ours in the same write, and taken back while the mark stands."""

from __future__ import annotations

from typing import Any, ClassVar, Generic, Protocol, TypeVar

from connectors.containment import Action, Applied, Prepared, Trouble, Undone, Verb, Verified
from connectors.containment._doing import gone, mark
from connectors.containment._http import CallFailed
from connectors.containment._kube_api import ATTEMPTS, NOTHING_LEFT, NOTHING_TO_SEE, Api, Metadata, meant, once_more


class Thing(Protocol):
    """Any object."""

    @property
    def metadata(self) -> Metadata: ...


O = TypeVar("O", bound=Thing)  # noqa: E741 - an object


class Change(Generic[O]):
    """Read, check that it is the same instance, write with the version read. A verb of this kind says what is read and written."""

    verb: ClassVar[Verb]
    #: What it is called in reasons.
    what: ClassVar[str]

    def __init__(self, api: Api) -> None:
        self.api = api

    def find(self, target: str) -> O | None:
        """The thing, None where it is not there. Raises CallFailed (gone) on a target that cannot be one."""
        raise NotImplementedError

    def path(self, thing: O) -> str:
        """Where it is written."""
        raise NotImplementedError

    def so(self, thing: O) -> str:
        """Why it is so already; "" where it is not."""
        raise NotImplementedError

    def ours(self, thing: O, our: str) -> bool:
        """Whether the mark of this action stands in it."""
        raise NotImplementedError

    def done(self, thing: O, our: str) -> dict[str, Any]:
        """The patch that brings it about, with the mark."""
        raise NotImplementedError

    def undone(self, thing: O, our: str) -> dict[str, Any]:
        """The patch that takes it back, with the mark; the mark alone where somebody else took it back."""
        raise NotImplementedError

    def seen(self, action: Action, thing: O) -> Verified:
        """The effect."""
        raise NotImplementedError

    def allowed(self, thing: O) -> str:
        """A remark for the ledger. Raises CallFailed (refused) where this must not be done to this thing."""
        return ""

    def prepare(self, action: Action) -> Prepared:
        """See ``Doing``."""
        thing = self.find(action.target)
        if thing is None:
            raise gone(action.target)
        so = self.so(thing)
        if so:
            return Prepared("already", so)
        return Prepared("ready", self.allowed(thing), {"uid": thing.metadata.uid})

    def apply(self, action: Action) -> Applied:
        """See ``Doing``."""
        for attempt in range(ATTEMPTS):
            thing = self.find(action.target)
            if thing is None or not meant(thing.metadata, action):
                return Applied("failed", f"the {self.what} it was prepared for is gone", Trouble("gone"))
            so = self.so(thing)
            if so:
                return Applied("already", "this action did it before" if self.ours(thing, mark(action)) else so)
            try:
                self.api.patch(self.path(thing), thing.metadata, self.done(thing, mark(action)))
            except CallFailed as error:
                once_more(error, attempt)
            else:
                return Applied("applied", f"{self.verb.name} {thing.metadata.name} ({thing.metadata.uid})")
        raise AssertionError("unreachable: the last attempt returns or raises")

    def verify(self, action: Action) -> Verified:
        """See ``Doing``."""
        thing = self.find(action.target)
        if thing is None:
            return Verified("unverified", f"not found: {action.target}", trouble=Trouble("gone"))
        if not meant(thing.metadata, action):
            return Verified("unverified", f"the {self.what} is gone; another has its name", trouble=Trouble("gone"))
        if not self.so(thing):
            return Verified("not-effective", f"the {self.what} is as before")
        return self.seen(action, thing)

    def undo(self, action: Action) -> Undone:
        """See ``Doing``."""
        for attempt in range(ATTEMPTS):
            thing = self.find(action.target)
            if thing is None or not meant(thing.metadata, action) or not self.ours(thing, mark(action)):
                return NOTHING_LEFT
            try:
                self.api.patch(self.path(thing), thing.metadata, self.undone(thing, mark(action)))
            except CallFailed as error:
                if error.trouble.kind == "gone":
                    return NOTHING_LEFT
                once_more(error, attempt)
            else:
                return Undone("undone", "taken back") if self.so(thing) else Undone("already", "somebody else had taken it back")
        raise AssertionError("unreachable: the last attempt returns or raises")

    def verify_undone(self, action: Action) -> Verified:
        """See ``Doing``."""
        thing = self.find(action.target)
        if thing is not None and meant(thing.metadata, action) and self.ours(thing, mark(action)):
            return Verified("not-effective", f"the {self.what} still bears the mark of this action")
        return NOTHING_TO_SEE
