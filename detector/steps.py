"""The steps of one action, each between two ledger rows: prepare, apply, verify, undo, and what to do when one of them fails.

Whether a call may be made is the kernel's (``resume``), asked before every call that changes a target, except those that take back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from msgspec.structs import replace

from connectors.containment import PASSING, Action, Adapter, Trouble, Verified
from connectors.event import MINUTE, SECOND
from detector.history import Entry, Hold, Pending, Step
from detector.ledger import Ledger
from detector.policy import Retry

#: How long a failed undo waits before it is tried again: long enough not to hammer a target that is down.
UNDO_AGAIN = 5 * MINUTE

_OUTCOME = {"already": "already-so", "failed": "failed"}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one decision, for people: the last row written about it. ``result`` is one of ``RESULTS``."""

    alert: str
    action: str
    verb: str
    target: str
    mode: str
    result: str
    reason: str


class Allows(Protocol):
    """Asks the kernel."""

    def __call__(self, pending: Pending, now: int) -> str:
        """Why the action may not be taken up at this moment; "" where it may."""
        ...


class Steps:
    """Carries out what was decided. ``retry``: how often and how patiently, as the policy has it now."""

    def __init__(
        self,
        adapters: Mapping[str, Adapter],
        ledger: Ledger,
        allows: Allows,
        retry: Callable[[], Retry],
        clock: Callable[[], int] | None,
        chance: Callable[[], float],
    ) -> None:
        """``adapters`` by verb; ``clock``, ``chance``: see ``Responder``."""
        self.adapters, self.ledger, self.counts = adapters, ledger, Counter[str]()
        self._allows, self._retry, self._clock, self._chance = allows, retry, clock, chance
        self._residual = {verb.name: verb.residual for adapter in adapters.values() for verb in adapter.verbs}

    def write(self, entries: list[Entry]) -> None:
        """Write rows, all or none. Raises LedgerFailed."""
        self.ledger.append(entries)
        self.counts.update(entry.result for entry in entries if entry.result)

    def note(self, last: Entry, **changes: Any) -> Entry:
        """Write the next row about an action: as the last one, but for ``changes``, and at its own time."""
        entry = replace(last, **{"time": self.now(last.time), "again": 0, **changes})
        self.write([entry])
        return entry

    def now(self, time: int) -> int:
        """The present, where there is a clock, else ``time``; never before the latest row."""
        return max(self._clock() if self._clock else time, self.ledger.history.now)

    def take_up(self, pending: Pending, now: int) -> Outcome | None:
        """Go on with what was interrupted, or is to be tried again by now; None where there is nothing to do yet."""
        entry = pending.entry
        if entry.again > now and not (pending.refused and entry.result == "retrying"):
            return None
        last = replace(entry, time=now)
        if entry.verb not in self.adapters:
            return self._orphaned(last, pending)
        if entry.result in ("carried-out", "already-so", "looking"):
            return self._verify(last)
        if entry.snapshot is not None:
            return self._recover(last, pending)
        why = self._allows(pending, self.now(now))
        return outcome_of(self.note(last, step="outcome", result="withdrawn", reason=why)) if why else self.begin(last)

    def _orphaned(self, last: Entry, pending: Pending) -> Outcome:
        """The end of an action whose adapter is not set up any more."""
        why = f"no adapter for {last.verb} is set up"
        if last.result in ("carried-out", "already-so", "looking"):
            return outcome_of(self.note(last, step="verify", result="unverified", reason=why))
        if last.snapshot is None or not (pending.unsure or last.step == "intent"):
            return outcome_of(self.note(last, step="outcome", result="withdrawn", reason=why))
        # The call may have arrived: taken as done, so that it is taken back when the adapter is there again.
        last = self.note(last, step="outcome", result="carried-out", reason=f"may have been made; {why}")
        return outcome_of(self.note(last, step="verify", result="unverified", reason=why))

    def begin(self, entry: Entry) -> Outcome:
        """Carry out a decision from its beginning."""
        if entry.verb not in self.adapters:
            return outcome_of(self.note(entry, step="outcome", result="failed", reason=f"no adapter for {entry.verb} is set up", due=0))
        prepared = self.adapters[entry.verb].prepare(_action(entry))
        if prepared.status == "failed" and self._passes(prepared.trouble, entry):
            return self._later(entry, "outcome", prepared.reason, prepared.trouble)
        if prepared.status != "ready":
            last = self.note(entry, step="outcome", result=_OUTCOME[prepared.status], reason=prepared.reason, due=0)
            return self._verify(last) if prepared.status == "already" else outcome_of(last)
        intent = self.note(entry, step="intent", result="", reason="", snapshot=prepared.snapshot or {})
        return self._apply(intent, unsure=False)

    def _recover(self, intent: Entry, pending: Pending) -> Outcome:
        """An announced call of which nobody knows whether it was made: look first, and call again only where that may be."""
        unsure = pending.unsure or pending.entry.step == "intent"
        seen = self.adapters[intent.verb].verify(_action(intent))
        if seen.status == "verified":
            return self._carried_out(intent, "found in effect")
        # This call has a row of its own: whoever may no longer write finds out before it is made.
        again = self.note(intent, step="intent", result="", reason="again")
        return self._apply(again, unsure=unsure and seen.status == "unverified")

    def _apply(self, intent: Entry, *, unsure: bool) -> Outcome:
        """``unsure``: an earlier call may have arrived unseen."""
        # Between the decision and the call the kill switch may have been turned, or the policy changed.
        why = self._allows(self.ledger.history.pending[intent.action], self.now(intent.time))
        if why:
            return self._given_up(intent, "withdrawn", why, unsure=unsure)
        applied = self.adapters[intent.verb].apply(_action(intent))
        if applied.status in ("applied", "already"):
            return self._carried_out(intent, applied.reason, applied.residual)
        unsure = unsure or applied.status == "unknown"
        if self._passes(applied.trouble, intent):
            # Written down as an announced call without an answer, whoever takes it up looks first.
            return self._later(intent, "intent" if unsure else "outcome", applied.reason, applied.trouble)
        return self._given_up(intent, "failed", applied.reason, unsure=unsure)

    def _given_up(self, intent: Entry, result: str, reason: str, *, unsure: bool) -> Outcome:
        """The end of an action that was announced and will not be called (again)."""
        if unsure or self.ledger.history.pending[intent.action].unsure:
            seen = self.adapters[intent.verb].verify(_action(intent))
            if seen.status != "not-effective":
                # It may be there: taken as done, so that it is undone in time.
                return self._carried_out(intent, f"may have been made ({seen.reason}); {reason}")
        return outcome_of(self.note(intent, step="outcome", result=result, reason=reason))

    def _passes(self, trouble: Trouble | None, entry: Entry) -> bool:
        """Whether trying again later can help, and is not yet too often."""
        tries = self.ledger.history.pending[entry.action].tries
        return trouble is not None and trouble.kind in PASSING and tries < self._retry().attempts

    def _later(self, last: Entry, step: Step, reason: str, trouble: Trouble | None) -> Outcome:
        """Tried again after a pause: the one asked for, or one that doubles; half by chance, so that not all come back at once."""
        retry, tries = self._retry(), self.ledger.history.pending[last.action].tries
        pause = min(retry.first_seconds * 2.0**tries, retry.most_seconds) * (0.5 + 0.5 * self._chance())
        pause = max(pause, trouble.retry_after if trouble else 0.0)
        again = self.now(last.time) + int(pause * SECOND)
        return outcome_of(self.note(last, step=step, result="retrying", reason=reason, again=again))

    def _carried_out(self, intent: Entry, reason: str, residual: str = "") -> Outcome:
        left = residual or self._residual[intent.verb]
        return self._verify(self.note(intent, step="outcome", result="carried-out", reason=f"{reason}; left open: {left}"))

    def _verify(self, last: Entry) -> Outcome:
        seen = self.adapters[last.verb].verify(_action(last))
        pause = self._look_again(last, seen)
        if pause:
            again = self.now(last.time) + int(pause * SECOND)
            return outcome_of(self.note(last, step="verify", result="looking", reason=seen.reason, again=again))
        return outcome_of(self.note(last, step="verify", result=seen.status, reason=seen.reason))

    def _look_again(self, last: Entry, seen: Verified) -> float:
        """Seconds until another look can tell more; 0 where what was seen is final."""
        pause = seen.again
        if not pause and seen.status != "verified" and seen.trouble is not None and seen.trouble.kind in PASSING:
            pause = max(self._retry().first_seconds, seen.trouble.retry_after)
        now = self.now(last.time)
        pending = self.ledger.history.pending.get(last.action)
        if seen.status == "verified" or pending is None:
            return 0.0
        return pause if now + pause * SECOND - pending.accepted <= self._retry().look_seconds * SECOND else 0.0

    def release(self, hold: Hold, now: int, why: str) -> Outcome:
        """Undo a containment and look whether it is gone; what is not gone is tried again later."""
        last = replace(hold.entry, time=now, due=0)
        adapter = self.adapters.get(last.verb)
        if adapter is None:
            return self._undo_failed(last, f"no adapter for {last.verb} is set up")
        last = self.note(last, step="undo-intent", result="", reason=why)
        undone = adapter.undo(_action(last))
        if undone.status == "failed":
            return self._undo_failed(last, undone.reason)
        last = self.note(last, step="undo", result="undone" if undone.status == "undone" else "undo-already", reason=undone.reason)
        seen = adapter.verify_undone(_action(last))
        if seen.status == "not-effective":
            return self._undo_failed(last, seen.reason)
        return outcome_of(self.note(last, step="undo-verify", result=f"undo-{seen.status}", reason=seen.reason))

    def _undo_failed(self, last: Entry, reason: str) -> Outcome:
        step: Step = "undo-verify" if last.step == "undo" else "undo"
        return outcome_of(self.note(last, step=step, result="undo-failed", reason=reason, due=last.time + UNDO_AGAIN))


def _action(entry: Entry) -> Action:
    return Action(
        id=entry.action,
        verb=entry.verb,
        target=entry.target,
        snapshot=entry.snapshot,
        alert=entry.alert,
        time=entry.time,
        due=entry.due,
    )


def outcome_of(entry: Entry) -> Outcome:
    """The row, for people."""
    return Outcome(entry.alert, entry.action, entry.verb, entry.target, entry.mode, entry.result, entry.reason)
