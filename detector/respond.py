"""Respond, the fourth core's shell: carries out what the kernel allows, one ledger row before and after every call.

Between any two steps the process may be killed: what the ledger says is unfinished is finished first, the next time round.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

from msgspec.structs import replace

from connectors.alert import Alert
from connectors.containment import Adapter, Verb, offered
from connectors.decision import PersonDecision
from connectors.event import SECOND
from detector.decide import approved, decide, resume, row
from detector.history import APPROVABLE, RESULTS, Entry, Hold, Pending, Waiting
from detector.kernel import INSIDE, Outside, forbids
from detector.ledger import Ledger
from detector.policy import Respond
from detector.steps import UNDO_AGAIN, Outcome, Steps, outcome_of
from detector.wishes import Policy

__all__ = ["UNDO_AGAIN", "Outcome", "Responder", "observer"]


class Responder:
    """Acts on alerts. One per ledger, called from one thread.

    ``policy`` is the ``[respond]`` table; ``adapters`` are what can be acted on. Raises ValueError where the table has problems with
    these adapters, or two of them offer one verb. Every method raises LedgerFailed, before acting, where the ledger cannot be written.

    ``clock``: microseconds, for rows that say when each step really was; without it all steps of a call happen at the time it is given.
    ``outside``: what is set from outside, looked at before every call. ``chance``: 0 to 1, which spreads retries.
    """

    def __init__(
        self,
        policy: Respond,
        adapters: Sequence[Adapter],
        ledger: Ledger,
        known: Mapping[str, Verb] | None = None,
        *,
        clock: Callable[[], int] | None = None,
        outside: Callable[[], Outside] = lambda: INSIDE,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """``known``: verbs that rules may name, by default those of the adapters. One without an adapter is decided on, never done."""
        self._adapters: dict[str, Adapter] = {}
        for adapter in adapters:
            for verb in adapter.verbs:
                if verb.name in self._adapters:
                    raise ValueError(f"two adapters offer {verb.name}: {self._adapters[verb.name].title} and {adapter.title}")
                self._adapters[verb.name] = adapter
        self._verbs = {verb.name: verb for adapter in adapters for verb in adapter.verbs}
        self._known = self._verbs if known is None else known
        self.policy = Policy(policy, self._known, self._verbs)
        self.ledger = ledger
        self._outside = outside
        self._steps = Steps(self._adapters, ledger, self._allows, lambda: self.policy.respond.retry, clock, chance)

    def adopt(self, policy: Respond) -> None:
        """Go on with another policy: it counts for what waits and what is unfinished too. Raises ValueError where it has problems."""
        self.policy = Policy(policy, self._known, self._verbs)

    def handle(self, alert: Alert, now: int | None = None, *, replay: bool = False) -> list[Outcome]:
        """Decide one revision of an alert and carry the decisions out; [] for a revision delivered again.

        ``now``: stream time in microseconds, by default the alert's; a time that runs back is taken as the latest known.
        ``replay``: this one is only observed.
        """
        now = self._time(alert.time if now is None else now)
        outcomes = self._finish(now)
        outside = self._outside()._replace(replay=True) if replay else self._outside()
        entries = [
            row(decision, alert.uid, alert.revision, now) for decision in decide(alert, self.policy, self.ledger.history, now, outside)
        ]
        # All decisions on a revision are one write: a restart finds the revision decided as a whole or not at all.
        self._steps.write(entries)
        return outcomes + [self._begun(entry) for entry in entries]

    def hear(self, decision: PersonDecision, now: int) -> list[Outcome]:
        """Act on a person's decision that counts (``detector.approvals``): at once, if everybody needed has approved."""
        now, history = self._time(now), self.ledger.history
        outcomes = self._finish(now)
        waiting, about = history.waiting.get(decision.action), history.about(decision.action)
        if about is None:
            return outcomes
        said = {"approve": "approved", "deny": "denied", "release": ""}[decision.word]
        note = {"decision": decision.id}
        word = replace(about, time=now, step="approval", result=said, reason=decision.reason, person=decision.person, snapshot=note)
        self._steps.write([word])
        if decision.word != "approve":
            # Also of what is under way: it is given up now, and taken back where it may have arrived.
            return [*outcomes, outcome_of(word), *self.expire(now)]
        return [*outcomes, outcome_of(word), *(self._ask_again(waiting, now) if waiting and decision.word == "approve" else [])]

    def expire(self, now: int) -> list[Outcome]:
        """Take up what waits for its time; undo every containment whose time is up, that a person released, or whose target the policy
        protects by now; close questions that nobody has answered in time."""
        now = self._time(now)
        outcomes = self._finish(now)
        for hold in list(self.ledger.history.holds.values()):
            why = self._to_end(hold)
            if now >= hold.retry and (why or now >= hold.due):
                outcomes.append(self._steps.release(hold, now, why or "its time is up"))
        for waiting in list(self.ledger.history.waiting.values()):
            if now - waiting.entry.time > self.policy.respond.approval_seconds * SECOND:
                outcomes += self._ask_again(waiting, now)
        return outcomes

    def next_due(self) -> int | None:
        """When ``expire`` next has something to do; None while there is nothing."""
        history, wait = self.ledger.history, self.policy.respond.approval_seconds * SECOND + 1
        times = [hold.retry if self._to_end(hold) else max(hold.due, hold.retry) for hold in history.holds.values()]
        times += [pending.entry.again for pending in history.pending.values()]
        times += [waiting.entry.time + wait for waiting in history.waiting.values()]
        return min(times, default=None)

    def switched(self, now: int, reason: str) -> None:
        """Write down that the kill switch was turned, or the policy read anew."""
        entry = Entry(
            time=self._time(now),
            alert="",
            revision=0,
            action="",
            verb="",
            target="",
            owners=[],
            rule="",
            step="switch",
            mode=self.policy.respond.mode,
            result="switched",
            reason=reason,
        )
        self._steps.write([entry])

    def counts(self) -> dict[str, int]:
        """How often each word of ``RESULTS`` came out since this Responder was made."""
        return {word: self._steps.counts[word] for word in RESULTS}

    def close(self) -> None:
        """Let the adapters go of their connections."""
        for adapter in {id(each): each for each in self._adapters.values()}.values():
            adapter.close()

    def _to_end(self, hold: Hold) -> str:
        """Why a containment is to end before its time; "" where it is not."""
        return forbids(self.policy, hold.entry.target, hold.entry.owners) or hold.released

    def _time(self, now: int) -> int:
        return max(now, self.ledger.history.now)

    def _allows(self, pending: Pending, now: int) -> str:
        return resume(pending, self.policy, self.ledger.history, now, self._outside())

    def _ask_again(self, waiting: Waiting, now: int) -> list[Outcome]:
        """Judge once more what waits for people."""
        decision = approved(waiting, self.policy, self.ledger.history, now, self._outside())
        if decision.result in APPROVABLE:
            return []
        entry = row(decision, waiting.entry.alert, waiting.entry.revision, now)
        if decision.result in ("limited", "stopped"):
            # It goes on waiting: the people need not be asked anew for what only the moment forbids, but must say so again.
            entry = replace(entry, step="approval")
        self._steps.write([entry])
        return [self._begun(entry)]

    def _begun(self, entry: Entry) -> Outcome:
        return self._steps.begin(entry) if entry.result == "enforced" else outcome_of(entry)

    def _finish(self, now: int) -> list[Outcome]:
        """Take up what was interrupted or is to be tried again, in the order it was decided."""
        history = self.ledger.history
        outcomes = [self._steps.take_up(pending, now) for pending in list(history.pending.values())]
        releasing = [hold for hold in list(history.holds.values()) if hold.releasing]
        outcomes += [self._steps.release(hold, now, "its undo was interrupted") for hold in releasing]
        return [outcome for outcome in outcomes if outcome is not None]


def observer(policy: Respond) -> Responder:
    """A responder for traces: it decides and records, in memory, and has nothing to act with, whatever mode the policy names."""
    return Responder(replace(policy, mode="observe"), [], Ledger(), offered())
