"""A change that bears no note of who made it, in a target that can hold a note beside it: what is ours is told by that note.

The note is written before the change and taken away after its undoing, so that a crash leaves at worst a note without a change.
"""

from __future__ import annotations

from typing import ClassVar, Generic, TypeVar

from connectors.containment import Action, Applied, Prepared, Snapshot, Trouble, Undone, Verb, Verified
from connectors.containment._http import CallFailed

T = TypeVar("T")


class Marked(Generic[T]):
    """Read, note, change, read back. A verb of this kind says what a thing is, how it is changed, and where notes are kept."""

    verb: ClassVar[Verb]

    def find(self, action: Action) -> T:
        """The thing: by its target in ``prepare``, later by what the snapshot says. Raises CallFailed: gone where it is not there."""
        raise NotImplementedError

    def so(self, thing: T) -> str:
        """Why it is so already; "" where it is not."""
        raise NotImplementedError

    def read(self, thing: T) -> tuple[str, Snapshot]:
        """A remark and the snapshot. Raises CallFailed (refused) where this must not be done to this thing."""
        raise NotImplementedError

    def do(self, action: Action, thing: T) -> None:
        """Bring it about. Raises CallFailed."""
        raise NotImplementedError

    def rest(self, action: Action, thing: T) -> None:
        """What ``do`` does after the change itself, where a crash came in between; nothing where that was done. Raises CallFailed."""

    def take_back(self, action: Action, thing: T) -> None:
        """Undo it. Raises CallFailed."""
        raise NotImplementedError

    def seen(self, action: Action, thing: T) -> Verified:
        """The effect. Raises CallFailed."""
        raise NotImplementedError

    def noted(self, action: Action) -> bool:
        """Whether our note is there. Raises CallFailed."""
        raise NotImplementedError

    def note(self, action: Action) -> None:
        """Write our note; nothing where it is there. Raises CallFailed."""
        raise NotImplementedError

    def forget(self, action: Action) -> None:
        """Take our note away; nothing where there is none. Raises CallFailed."""
        raise NotImplementedError

    def residual(self, action: Action) -> str:
        """What stays open in this case, where it is known more exactly than the verb says."""
        return ""

    def prepare(self, action: Action) -> Prepared:
        """See ``Doing``."""
        thing = self.find(action)
        so = self.so(thing)
        if so:
            return Prepared("already", so)
        remark, snapshot = self.read(thing)
        return Prepared("ready", remark, snapshot)

    def apply(self, action: Action) -> Applied:
        """See ``Doing``."""
        thing = self.find(action)
        so = self.so(thing)
        if so:
            if not self.noted(action):
                return Applied("already", so)
            self._finish(action, thing)
            return Applied("already", "this action did it before", residual=self.residual(action))
        self.note(action)
        try:
            self.do(action, thing)
            if not self.so(self.find(action)):
                raise CallFailed("refused", "the target said yes, and nothing changed")
        except CallFailed as error:
            raise self._left(action, error) from None
        return Applied("applied", self.verb.name, residual=self.residual(action))

    def verify(self, action: Action) -> Verified:
        """See ``Doing``."""
        return self.seen(action, self.find(action))

    def undo(self, action: Action) -> Undone:
        """See ``Doing``."""
        if action.snapshot is None or not self.noted(action):
            return Undone("already", "nothing of ours is left")
        try:
            thing = self.find(action)
        except CallFailed as error:
            if error.trouble.kind != "gone":
                raise
            self.forget(action)
            return Undone("already", "what it was done to is gone")
        so = self.so(thing)
        if so:
            self.take_back(action, thing)
            if self.so(self.find(action)):
                return Undone("failed", "the target said yes, and nothing changed", Trouble("refused"))
        self.forget(action)
        return Undone("undone", "taken back") if so else Undone("already", "somebody else had taken it back")

    def verify_undone(self, action: Action) -> Verified:
        """See ``Doing``."""
        if self.noted(action):
            return Verified("not-effective", "the note of this action is still there")
        return Verified("verified", "nothing of this action is left")

    def _finish(self, action: Action, thing: T) -> None:
        try:
            self.rest(action, thing)
        except CallFailed as error:
            raise unsure(error) from None

    def _left(self, action: Action, error: CallFailed) -> CallFailed:
        """The same error, of unknown outcome unless nothing of the action is left."""
        if error.sent:
            return error
        try:
            if self.so(self.find(action)):
                return unsure(error)
            self.forget(action)
        except CallFailed:
            return unsure(error)
        return error


def unsure(error: CallFailed) -> CallFailed:
    """The same error, after a part of the effect was brought about: "failed" would be wrong."""
    return CallFailed(error.trouble.kind, error.reason, retry_after=error.trouble.retry_after, sent=True, status=error.status)
