"""What the watcher remembers of each thing it watches: plain records, each with the arithmetic of one question (microseconds)."""

from __future__ import annotations

from statistics import median

import msgspec

from connectors.event import DAY, MINUTE
from connectors.status import Heartbeat

#: Gaps and rates of a day ago count half: long enough to know the night, short enough to follow a source that changes.
HALF = DAY
#: Window of the share of rejects, in slots.
SLOT, SLOTS = MINUTE // 2, 10
#: Unarrived canaries kept of one partition: the oldest tells, the others only say up to when.
PENDING = 100
#: Reasons of rejects that a text names.
REASONS = 3


class Process(msgspec.Struct):
    """One process by its heartbeats. ``seen``: when the last one was written."""

    seen: int = 0
    stage: str = ""
    started: int = 0
    partitions: list[str] = []
    #: Topic -> lag in seconds at the last heartbeats, oldest first.
    lags: dict[str, list[float]] = {}
    #: When it last dropped rows that no restart explains.
    repeated: int | None = None
    #: Its silence is told and dealt with: others serve its partitions.
    settled: bool = False

    def take(self, said: Heartbeat, lived: int, keep: int) -> None:
        """Its next heartbeat; ``keep`` values of lag are remembered."""
        self.seen, self.stage, self.started, self.settled = lived, said.stage, said.started, False
        self.partitions = list(said.partitions)
        self.lags = {topic: [*self.lags.get(topic, []), lag.seconds][-keep:] for topic, lag in said.lag.items()}


class Gaps(msgspec.Struct):
    """When one source was heard, and its usual gap: the gap in which a moment picked at random lies.

    That is the mean weighted by length (the sum of squares over the sum), so a source that sends in bursts, or only by day, is not
    silent in its pauses; one that sends all the time is silent within minutes.
    """

    first: int
    last: int
    arrival: int = 0
    total: float = 0.0
    squares: float = 0.0

    def seen(self, lived: int, arrival: int) -> None:
        """It was heard again."""
        gap = float(lived - self.last)
        keep = 0.5 ** (gap / HALF)
        self.total, self.squares = keep * self.total + gap, keep * self.squares + gap * gap
        self.last, self.arrival = lived, max(self.arrival, arrival)

    @property
    def usual(self) -> float:
        """Microseconds; 0 while no gap is known."""
        return self.squares / self.total if self.total else 0.0


class Shares(msgspec.Struct):
    """Records and rejects of one source over the last ``SLOTS`` slots."""

    #: [slot, records decoded, records refused]
    slots: list[list[int]] = []
    reasons: dict[str, int] = {}

    def add(self, lived: int, good: int, rejects: dict[str, int]) -> None:
        """What one process read of it."""
        slot = lived // SLOT
        if not self.slots or self.slots[-1][0] != slot:
            self.slots.append([slot, 0, 0])
        self.slots[-1][1] += good
        self.slots[-1][2] += sum(rejects.values())
        if rejects:
            self.reasons = dict(sorted(rejects.items(), key=lambda item: (-item[1], item[0]))[:REASONS])

    def within(self, lived: int) -> tuple[int, int]:
        """(records, refused ones among them) of the window that ends at ``lived``; forgets what is older."""
        self.slots = [each for each in self.slots if each[0] > lived // SLOT - SLOTS]
        bad = sum(each[2] for each in self.slots)
        return bad + sum(each[1] for each in self.slots), bad


class Path(msgspec.Struct):
    """The canaries of one partition: when each was sent (its own time, the log's lived time), and the newest that came through."""

    arrived: int = 0
    pending: list[tuple[int, int]] = []

    def add(self, lived: int, sent: int, arrived: int) -> None:
        """One was sent, or came through: then all sent before it are no longer waited for, because a partition keeps its order."""
        if arrived:
            self.arrived = max(self.arrived, sent)
            self.pending = [each for each in self.pending if each[0] > self.arrived]
        elif sent > self.arrived and len(self.pending) < PENDING:
            self.pending.append((sent, lived))


class Known(msgspec.Struct):
    """New identities of one stage by minutes: the minute that runs, and the usual number (None while it is learned)."""

    minute: int
    fresh: int = 0
    usual: float | None = None
    young: list[int] = []

    def add(self, fresh: int) -> None:
        """Some more in the minute that runs."""
        self.fresh += fresh

    def move(self, minute: int, learn: float, least: float) -> int | None:
        """Close the minutes before ``minute``; the number of the last one closed, None where none was.

        The usual number is the median of the first ``learn`` minutes, so that a cold start, where all is new, is not it. Then every
        minute teaches a little, and at most twice the usual or ``least``: a flood does not become usual while it lasts.
        """
        closed = None
        while self.minute < minute:
            closed = self.fresh
            if self.usual is not None:
                self.usual += (min(float(closed), max(2.0 * self.usual, least)) - self.usual) / (HALF // MINUTE)
            else:
                self.young.append(closed)
                if len(self.young) >= learn:
                    self.usual, self.young = float(median(self.young)), []
            self.minute, self.fresh = self.minute + 1, 0
        return closed
