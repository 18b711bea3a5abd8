"""What a ledger row says, and what all rows add up to.

``History`` is the fold of the rows: what was decided, what is in force, what is unfinished, who approved what. It is built the same way
while running and after a restart, and it is all that the safety kernel knows of the past.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import msgspec

from connectors.event import DAY, HOUR

#: Every result a row can state, with its meaning; ``Responder.counts`` counts rows by these words. Stable: scripts read them.
RESULTS: dict[str, str] = {
    "none": "decided: nothing to do, because no rule matches, the evidence holds no target for it, or no adapter does it",
    "unchanged": "decided: a later revision of an alert brought nothing new to decide",
    "observed": "decided: the mode is observe; this would have been done",
    "proposed": "decided: not without a person: the mode is propose, or something asks for a second look",
    "awaiting-approval": "decided: waits for the approval of one or more people",
    "approved": "a person approved it",
    "denied": "a person denied it",
    "expired": "nobody approved it in time",
    "protected": "decided: the target, or an identity behind it, is protected",
    "stopped": "decided: the kill switch is on",
    "limited": "decided: a limit on the number or share of actions is reached",
    "cooling-down": "decided: the same was done to the same target a moment ago",
    "breaker-open": "decided: too many actions have gone wrong lately",
    "already-contained": "decided: an earlier action holds the target; its end is moved out where this one might have begun",
    "enforced": "decided: to be carried out",
    "retrying": "the target did not do it this time; tried again later",
    "carried-out": "the target accepted the action",
    "already-so": "it was so without us; nothing to take back",
    "failed": "the target refused, or does not know the identity, or was tried too often",
    "withdrawn": "decided earlier, interrupted, and no longer allowed when taken up again",
    "looking": "the effect is not to be seen yet; looked for again later",
    "verified": "the effect was seen",
    "unverified": "the effect could not be seen",
    "not-effective": "the effect was looked for and is missing",
    "undone": "taken back",
    "undo-already": "nothing of ours was left to take back",
    "undo-failed": "could not be taken back; tried again later",
    "undo-verified": "nothing of the action is left in the target",
    "undo-unverified": "taken back, but that could not be seen",
    "switched": "the kill switch was turned on or off, or the policy was read anew",
}

Step = Literal["decided", "approval", "intent", "outcome", "verify", "undo-intent", "undo", "undo-verify", "switch"]

#: Results that a person may still turn into an action, where the mode in force is approve or enforce.
APPROVABLE = frozenset({"awaiting-approval", "proposed", "cooling-down", "breaker-open"})
#: Results that count as an action gone wrong; so does a release before its time by a person.
BAD = frozenset({"failed", "unverified", "not-effective", "undo-failed"})
#: How far back wrong turns are remembered: the longest window a circuit breaker can have.
LONGEST_WINDOW = DAY


class Facts(msgspec.Struct, kw_only=True, frozen=True):
    """What a decision rested on, kept in the ledger so that the same rules can be asked again when it is taken up later.

    Times in microseconds. ``first``: the first surprising event; ``opened``: when the alert opened; ``time``: of the revision.
    """

    first: int
    opened: int
    time: int
    severity: int
    confidence: int
    signals: list[str]
    probation: bool
    #: Who had approved it when it was to be carried out.
    people: list[str] = []


class Entry(msgspec.Struct, kw_only=True, frozen=True):
    """What one row says. Times are microseconds."""

    time: int
    alert: str
    revision: int
    #: Action id; "" where a whole alert is meant.
    action: str
    verb: str
    target: str
    #: The accountable identities the target belongs to: protecting one of them protects the target.
    owners: list[str]
    rule: str
    step: Step
    mode: str
    #: One of ``RESULTS``; "" where the row announces a call.
    result: str
    reason: str
    #: When the containment ends, or when a failed undo is tried again; 0 = not applicable.
    due: int = 0
    #: What ``prepare`` read, for the way back.
    snapshot: dict[str, Any] | None = None
    #: The person who approved, denied, released or switched; "" for the policy itself.
    person: str = ""
    #: Not before this time is it taken up again; 0 = at once.
    again: int = 0
    facts: Facts | None = None


class Attempt(NamedTuple):
    """Something that was decided to be carried out. ``result``: how it went wrong, where that is meant; "" for a release."""

    time: int
    verb: str
    target: str
    action: str
    result: str = ""


class Hold(msgspec.Struct):
    """A containment in force: the row that began it, and when it ends. ``releasing``: its undo has begun and not ended."""

    entry: Entry
    due: int
    #: Not before this time is a failed undo tried again.
    retry: int = 0
    releasing: bool = False
    #: Who asked for its end before its time, and why; "" for nobody.
    released: str = ""


class Pending(msgspec.Struct):
    """An action that is not at its end: its latest row, when it was decided, how often it was tried, when the target accepted it."""

    entry: Entry
    since: int
    tries: int = 0
    accepted: int = 0
    #: A call was sent and not answered: it may have arrived.
    unsure: bool = False
    #: Who denied it meanwhile, and why; "" for nobody.
    refused: str = ""


class Waiting(msgspec.Struct):
    """A decision that waits for people: its row, and who has approved it so far."""

    entry: Entry
    people: dict[str, int] = {}


class History(msgspec.Struct):
    """What the rows add up to. It grows with the number of alerts, which the alert budget bounds."""

    #: Latest time of any row: time never runs back.
    now: int = 0
    #: Alert -> its latest decided revision.
    revisions: dict[str, int] = {}
    #: Action -> the latest decision on it.
    decided: dict[str, str] = {}
    #: What was decided to be carried out within the last hour.
    attempts: list[Attempt] = []
    #: (verb, target) -> the last attempt on it, and how many there were with less than a day between two.
    latest: dict[tuple[str, str], tuple[Attempt, int]] = {}
    #: (verb, target) -> the containment in force.
    holds: dict[tuple[str, str], Hold] = {}
    #: (verb, target) -> end that later alerts asked for while the first action was still under way.
    extended: dict[tuple[str, str], int] = {}
    #: Action -> what is not at its end.
    pending: dict[str, Pending] = {}
    #: Action -> what waits for people.
    waiting: dict[str, Waiting] = {}
    #: What went wrong in the last day.
    wrong: list[Attempt] = []
    #: Actions that came to an end after which the same alert may ask again: their time was up, or nothing came of them.
    ended: set[str] = set()
    #: Decision records taken so far, by id.
    heard: set[str] = set()

    def add(self, entry: Entry) -> None:
        """Fold one row in."""
        self.now = max(self.now, entry.time)
        if entry.step == "decided":
            self._decided(entry)
        elif entry.step == "approval":
            self._approval(entry)
        elif entry.step in ("intent", "outcome", "verify"):
            self._carried(entry)
        else:
            self._undoing(entry)
        if entry.result in BAD:
            self._went_wrong(entry)

    def about(self, action: str) -> Entry | None:
        """The latest row of what a person can decide on: what waits, what is under way, what is contained."""
        waiting, pending = self.waiting.get(action), self.pending.get(action)
        hold = next((hold for hold in self.holds.values() if hold.entry.action == action), None)
        found = waiting or hold or pending
        return found.entry if found else None

    def _went_wrong(self, entry: Entry) -> None:
        self.wrong = [each for each in self.wrong if each.time > entry.time - LONGEST_WINDOW]
        self.wrong.append(Attempt(entry.time, entry.verb, entry.target, entry.action, entry.result))

    def _decided(self, entry: Entry) -> None:
        key = (entry.verb, entry.target)
        self.revisions[entry.alert] = max(entry.revision, self.revisions.get(entry.alert, entry.revision))
        if not entry.action:
            return
        if self.decided.get(entry.action) != "enforced":
            # A later row on what is in force moves its end out, and does not make it undecided.
            self.decided[entry.action] = entry.result
        self.waiting.pop(entry.action, None)
        if entry.result == "enforced":
            attempt = Attempt(entry.time, *key, entry.action)
            self.pending[entry.action] = Pending(entry, entry.time)
            self.attempts = [each for each in self.attempts if each.time > entry.time - HOUR]
            self.attempts.append(attempt)
            before = self.latest.get(key)
            self.latest[key] = (attempt, before[1] + 1 if before and entry.time - before[0].time < DAY else 1)
        elif entry.result in APPROVABLE and entry.mode in ("approve", "enforce"):
            self.waiting[entry.action] = Waiting(entry)
        elif entry.result == "already-contained":
            hold = self.holds.get(key)
            if hold is not None:
                hold.due = max(hold.due, entry.due)
            else:
                self.extended[key] = max(entry.due, self.extended.get(key, 0))

    def _approval(self, entry: Entry) -> None:
        """A person's word. The id of the decision record stands in the snapshot."""
        self.heard.add(str((entry.snapshot or {}).get("decision", "")))
        waiting = self.waiting.get(entry.action)
        hold = next((hold for hold in self.holds.values() if hold.entry.action == entry.action), None)
        if entry.result == "approved" and waiting is not None:
            waiting.people[entry.person] = entry.time
        elif entry.result == "denied" or (entry.result == "" and entry.person):
            said = "denied" if entry.result else "released"
            # It is a person's last word on this alert and target, whatever comes of what is under way.
            self.decided[entry.action] = "denied"
            self.waiting.pop(entry.action, None)
            if entry.action in self.pending:
                self.pending[entry.action].refused = f"{said} by {entry.person}: {entry.reason}"
            if hold is not None and not entry.result:
                hold.released = f"{said} by {entry.person}: {entry.reason}"
                # Somebody takes back what we did: a sign of our being wrong.
                self._went_wrong(entry)

    def _carried(self, entry: Entry) -> None:
        key = (entry.verb, entry.target)
        if entry.step != "intent" and entry.result not in ("carried-out", "already-so", "retrying", "looking"):
            self.pending.pop(entry.action, None)
            hold = self.holds.get(key)
            if hold is None or hold.entry.action != entry.action:
                self.extended.pop(key, None)
                if entry.result in ("failed", "withdrawn", "not-effective"):
                    self.ended.add(entry.action)
            return
        pending = self.pending.setdefault(entry.action, Pending(entry, entry.time))
        pending.entry = entry
        pending.tries += entry.result == "retrying"
        pending.unsure |= entry.result == "retrying" and entry.step == "intent"
        if entry.result in ("carried-out", "already-so"):
            pending.accepted = entry.time
        if entry.result == "carried-out" and entry.due:
            hold = self.holds.get(key)
            due = max(entry.due, hold.due if hold else 0, self.extended.pop(key, 0))
            self.holds[key] = Hold(entry, due, released=pending.refused)

    def _undoing(self, entry: Entry) -> None:
        key = (entry.verb, entry.target)
        hold = self.holds.get(key)
        if hold is None:
            return
        if entry.step == "undo-intent":
            hold.releasing = True
        elif entry.result == "undo-failed":
            hold.releasing, hold.retry = False, entry.due
        elif entry.step == "undo-verify":
            self.holds.pop(key)
            self.ended.add(hold.entry.action)
