"""Respond, the fourth core's shell: carries out what the policy decides, one ledger row before and after every call.

Between any two steps the process may be killed: what the ledger says is unfinished is finished first, the next time round.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from connectors.alert import Alert
from connectors.containment import Action, Adapter, Verb, offered
from connectors.event import MINUTE
from detector.ledger import RESULTS, Entry, Hold, Ledger
from detector.policy import Policy, Respond, decide, withdrawn

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


class Responder:
    """Acts on alerts. One per ledger.

    ``policy`` is the ``[respond]`` table; ``adapters`` are what can be acted on. Raises ValueError where the table has problems with
    these adapters, or two of them offer one verb. Every method raises LedgerFailed, before acting, where the ledger cannot be written.
    """

    def __init__(self, policy: Respond, adapters: Sequence[Adapter], ledger: Ledger, known: Mapping[str, Verb] | None = None) -> None:
        """``known``: verbs that rules may name, by default those of the adapters. One without an adapter is decided on, never done."""
        self._adapters: dict[str, Adapter] = {}
        for adapter in adapters:
            for verb in adapter.verbs:
                if verb.name in self._adapters:
                    raise ValueError(f"two adapters offer {verb.name}: {self._adapters[verb.name].title} and {adapter.title}")
                self._adapters[verb.name] = adapter
        self._verbs = {verb.name: verb for adapter in adapters for verb in adapter.verbs}
        self.policy = Policy(policy, self._verbs if known is None else known)
        self.ledger = ledger
        self._counts: Counter[str] = Counter()

    def handle(self, alert: Alert, now: int | None = None) -> list[Outcome]:
        """Decide one revision of an alert and carry the decisions out; [] for a revision delivered again.

        ``now``: stream time in microseconds, by default the alert's; a time that runs back is taken as the latest known.
        """
        now = self._time(alert.time if now is None else now)
        outcomes = self._finish(now)
        entries = [
            Entry(
                time=now,
                alert=alert.uid,
                revision=alert.revision,
                action=decision.action,
                verb=decision.verb,
                target=decision.target,
                owners=decision.owners,
                rule=decision.rule,
                step="decided",
                mode=decision.mode,
                result=decision.result,
                reason=decision.reason,
                due=decision.due,
            )
            for decision in decide(alert, self.policy, self.ledger.history, now)
        ]
        # All decisions on a revision are one write: a restart finds the revision decided as a whole or not at all.
        self._write(entries)
        return outcomes + [self._begin(entry) if entry.result == "enforced" else _outcome(entry) for entry in entries]

    def expire(self, now: int) -> list[Outcome]:
        """Undo every containment whose time is up, or whose target the policy protects by now."""
        now = self._time(now)
        outcomes = self._finish(now)
        for hold in list(self.ledger.history.holds.values()):
            protected = self.policy.forbids(hold.entry.target, hold.entry.owners)
            if now >= hold.retry and (protected or now >= hold.due):
                outcomes.append(self._release(hold, now, protected or "its time is up"))
        return outcomes

    def next_due(self) -> int | None:
        """When ``expire`` next has something to do; None while nothing is contained."""
        return min((max(hold.due, hold.retry) for hold in self.ledger.history.holds.values()), default=None)

    def counts(self) -> dict[str, int]:
        """How often each word of ``RESULTS`` came out since this Responder was made."""
        return {word: self._counts[word] for word in RESULTS}

    def _time(self, now: int) -> int:
        return max(now, self.ledger.history.now)

    def _write(self, entries: list[Entry]) -> None:
        self.ledger.append(entries)
        self._counts.update(entry.result for entry in entries if entry.result)

    def _note(self, last: Entry, **changes: Any) -> Entry:
        """Write the next row about an action: as the last one, but for ``changes``."""
        entry = replace(last, **changes)
        self._write([entry])
        return entry

    def _finish(self, now: int) -> list[Outcome]:
        """Take up what was interrupted, in the order it was decided."""
        outcomes = []
        for entry in list(self.ledger.history.pending.values()):
            last = replace(entry, time=now)
            if entry.verb not in self._adapters:
                continue
            if entry.step == "outcome":
                outcomes.append(self._verify(last))
                continue
            # The rules may have changed since: they are asked again before every further call.
            why = withdrawn(entry, self.policy)
            if entry.step == "intent":
                outcomes.append(self._recover(last, why))
            elif why:
                outcomes.append(_outcome(self._note(last, step="outcome", result="withdrawn", reason=why)))
            else:
                outcomes.append(self._begin(last))
        outcomes += [self._release(hold, now, "its undo was interrupted") for hold in self._releasing()]
        return outcomes

    def _releasing(self) -> list[Hold]:
        return [hold for hold in self.ledger.history.holds.values() if hold.releasing]

    def _begin(self, entry: Entry) -> Outcome:
        """Carry out a decision from its beginning."""
        if entry.verb not in self._adapters:
            return _outcome(self._note(entry, step="outcome", result="failed", reason=f"no adapter for {entry.verb} is set up", due=0))
        prepared = self._adapters[entry.verb].prepare(_action(entry))
        if prepared.status != "ready":
            last = self._note(entry, step="outcome", result=_OUTCOME[prepared.status], reason=prepared.reason, due=0)
            return self._verify(last) if prepared.status == "already" else _outcome(last)
        return self._apply(self._note(entry, step="intent", result="", reason="", snapshot=prepared.snapshot))

    def _apply(self, intent: Entry) -> Outcome:
        applied = self._adapters[intent.verb].apply(_action(intent))
        if applied.status == "failed":
            return _outcome(self._note(intent, step="outcome", result="failed", reason=applied.reason))
        return self._carried_out(intent, applied.reason)

    def _carried_out(self, intent: Entry, reason: str) -> Outcome:
        residual = self._verbs[intent.verb].residual
        return self._verify(self._note(intent, step="outcome", result="carried-out", reason=f"{reason}; left open: {residual}"))

    def _recover(self, intent: Entry, why: str) -> Outcome:
        """An announced call of which nobody knows whether it was made: look first. ``why``: the reason not to make it now, if any."""
        seen = self._adapters[intent.verb].verify(_action(intent))
        if seen.status == "verified":
            return self._carried_out(intent, "found in effect after an interruption")
        if not why:
            return self._apply(intent)
        if seen.status == "unverified":
            # It may be there unseen: taken as done, so that it is undone in time.
            return self._carried_out(intent, f"may have been made before an interruption ({seen.reason})")
        return _outcome(self._note(intent, step="outcome", result="withdrawn", reason=why))

    def _verify(self, last: Entry) -> Outcome:
        seen = self._adapters[last.verb].verify(_action(last))
        return _outcome(self._note(last, step="verify", result=seen.status, reason=seen.reason))

    def _release(self, hold: Hold, now: int, why: str) -> Outcome:
        """Undo a containment and look whether it is gone; what is not gone is tried again later."""
        last = replace(hold.entry, time=now, due=0)
        adapter = self._adapters.get(last.verb)
        if adapter is None:
            return self._undo_failed(last, f"no adapter for {last.verb} is set up")
        last = self._note(last, step="undo-intent", result="", reason=why)
        undone = adapter.undo(_action(last))
        if undone.status == "failed":
            return self._undo_failed(last, undone.reason)
        last = self._note(last, step="undo", result="undone" if undone.status == "undone" else "undo-already", reason=undone.reason)
        seen = adapter.verify_undone(_action(last))
        if seen.status == "not-effective":
            return self._undo_failed(last, seen.reason)
        return _outcome(self._note(last, step="undo-verify", result=f"undo-{seen.status}", reason=seen.reason))

    def _undo_failed(self, last: Entry, reason: str) -> Outcome:
        step = "undo-verify" if last.step == "undo" else "undo"
        return _outcome(self._note(last, step=step, result="undo-failed", reason=reason, due=last.time + UNDO_AGAIN))


def observer(policy: Respond) -> Responder:
    """A responder for traces: it decides and records, in memory, and has nothing to act with, whatever mode the policy names."""
    return Responder(replace(policy, mode="observe"), [], Ledger(), offered())


def _action(entry: Entry) -> Action:
    return Action(id=entry.action, verb=entry.verb, target=entry.target, snapshot=entry.snapshot)


def _outcome(entry: Entry) -> Outcome:
    return Outcome(entry.alert, entry.action, entry.verb, entry.target, entry.mode, entry.result, entry.reason)
