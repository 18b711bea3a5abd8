"""A verb that tells others, and cannot see what they make of it. A message's id is made of the action's: who keeps ids acts once."""

from __future__ import annotations

from collections.abc import Callable

from connectors.containment import Action, Applied, Prepared, Trouble, Undone, Verb, Verified
from connectors.containment._doing import kept

_SECOND = 1_000_000
#: Sends a message; raises CallFailed. The flag: it takes the earlier one back.
Send = Callable[[Action, bool], None]

_BLIND = "it was sent; what the receiver made of it cannot be seen from here"


class Message:
    """Sends, and sends again under the same id where it is asked again."""

    def __init__(self, verb: Verb, send: Send) -> None:
        self.verb = verb
        self._send = send

    def prepare(self, action: Action) -> Prepared:
        """See ``Doing``. The time of the decision goes into the snapshot, so that a message sent again says the same."""
        return Prepared("ready", "", {"time": action.time // _SECOND})

    def apply(self, action: Action) -> Applied:
        """See ``Doing``."""
        self._send(action, False)
        return Applied("applied", "accepted by the receiver")

    def verify(self, action: Action) -> Verified:
        """See ``Doing``."""
        return Verified("unverified", _BLIND)

    def undo(self, action: Action) -> Undone:
        """See ``Doing``."""
        if not self.verb.undoable:
            return Undone("failed", "what was told cannot be untold", Trouble("refused"))
        if action.snapshot is None:
            return Undone("already", "nothing was sent")
        self._send(action, True)
        return Undone("undone", "the opposite was accepted by the receiver")

    def verify_undone(self, action: Action) -> Verified:
        """See ``Doing``."""
        return Verified("unverified", _BLIND)


def decided(action: Action) -> int:
    """When the action was decided, in seconds."""
    return int(kept(action).get("time", action.time // _SECOND))
