"""Fuse, the third core: surprising events in, evolving alerts out.

Each piece of evidence is blamed on the endpoint with more distinct surprising partners this hour, on a tie on the actor: a scan's
source and a flood's victim each become one alert. Per blamed identity evidence accumulates with a leak, for severity; what opens an
alert is a single event above the threshold that the alert budget sets. An alert opens, is updated when it says something new, and
closes after quiet hours. Pure: time is the time of the rows.

Each line has a judge of its own: the main line by the hour, the slow one by the day. Split over partitions, evidence is judged where
its actor lives and folded where the blamed identity lives, and the threshold comes from the cells of all.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import secrets
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import msgspec
from msgspec.structs import replace

from connectors.alert import Alert, Evidence
from connectors.event import Action, Stream
from connectors.names import stable_hash
from detector.changes import Changes, Suppressions
from detector.config import Config
from detector.evidence import Item, Piece, items_of, worded
from detector.scale import Found
from detector.trails import Trail, Trails, written
from models.budget import Budget, reckon
from models.calibration import CEILING, EVENTS, FIRST, OBJECT_STRANGE, UNIT
from models.kernels import DAY, HOUR
from models.kernels import passed as _passed
from models.signals import Line

Role = Literal["actor", "object"]

#: Called from Python the plain function is faster than the compiled one.
passed = _passed.py_func
#: A signal takes part in an alert from this many nats on: 1 cell in 20.
PART = 3.0
#: Pieces of evidence an alert shows, and an identity without one keeps for the day it gets one.
SHOWN = 10
#: Identities whose evidence is kept although they have no alert; the oldest go first.
REMEMBERED = 50_000
#: Accumulated evidence, in nats, from which severity rises: 2 low below the first, then medium, high, critical.
SEVERITIES = (8.0, 20.0, 45.0)
#: An open alert is updated when its strongest score has risen by this many nats.
RISE = 2.0
#: Identities whose hours of evidence are remembered, for their own base rate; the longest quiet go first.
HISTORIES = 50_000
#: Edges and actors of the current hour kept apart at most; the oldest go first. Evidence is rare, so only a flood comes here.
CURRENT = 200_000
#: An alert of the slow line closes after this long without evidence: its days would else be alerts of their own.
SLOW_QUIET = 48.0 * HOUR
#: A younger stream, in days, makes its alerts probational.
PROBATION_DAYS = 1.0
#: Kinds of identity that containment can act on.
CONTAINABLE = frozenset({"user", "sa", "pod", "token", "session", "job", "node", "ip"})


class Open(msgspec.Struct):
    """An open alert and what was last said of it."""

    alert: Alert
    said: float


class Fuse(msgspec.Struct):
    """The state of this core: all plain data."""

    budget: Budget
    strange: dict[str, tuple[float, int]] = {}
    edges: dict[str, tuple[float, float]] = {}
    #: Identity -> what is remembered of its evidence; see ``detector.trails``.
    trails: dict[str, msgspec.Raw] = {}
    open: dict[str, Open] = {}
    #: Identity -> hours in which it gave evidence, and the last of them.
    histories: dict[str, tuple[int, float]] = {}
    swept: float = 0.0
    evidence: int = 0
    #: Alerts that a suppression has kept from being opened.
    suppressed: int = 0
    #: Latest time of any row.
    clock: int = 0


class Fusion:
    """Judges the evidence of one line in one partition. ``state`` may be replaced as a whole."""

    def __init__(self, config: Config, line: Line = "main", partitions: int = 1) -> None:
        slow = line == "slow"
        self.line: Line = line
        self.period = DAY if slow else HOUR
        self._state = Fuse(budget=Budget(0.0, period=self.period, partitions=partitions))
        self.trails = Trails(self._state.trails)
        self.configure(config)
        self.learners = {name: each for name, each in config.learners().items() if each.line == line}
        self.paths: tuple[str, ...] = ()
        self._strongest: list[Piece] = []
        # Nothing closes before this; alerts that go on only move it out.
        self._next_close = 0.0
        # The threshold of a budget with several partitions is due.
        self.due = False

    def configure(self, config: Config) -> None:
        """Take over what may change while it runs."""
        slow = self.line == "slow"
        self.quiet = SLOW_QUIET if slow else config.fuse.quiet_hours * HOUR
        self.leak = SLOW_QUIET if slow else config.fuse.evidence_hours * HOUR
        self.floor = config.fuse.evidence_floor
        self.changes = Changes(config)
        self.suppressions = Suppressions(config)
        self._state.budget.per_day = config.budget.slow_alerts_per_day if slow else config.budget.alerts_per_day
        self._next_close = 0.0

    @property
    def state(self) -> Fuse:
        """All that is remembered."""
        return self._state

    @state.setter
    def state(self, state: Fuse) -> None:
        self._state = state
        self.trails = Trails(state.trails)
        self._next_close = 0.0

    def dump(self) -> bytes:
        """The state as it is kept."""
        return b"".join(self.copy())

    def copy(self) -> Iterator[bytes]:
        """The state as it is now, in parts that are made when they are asked for: trails are most of it."""
        self.trails.rest()
        # Nobody who chooses names can guess it.
        gap = secrets.token_bytes(16)
        before, _, after = msgspec.msgpack.encode(replace(self._state, trails=msgspec.Raw(gap))).partition(gap)
        return itertools.chain([before], written(self.trails.held), [after])

    def advance(self, now: float) -> list[Alert]:
        """Move the clock: alerts whose quiet time is over close, the threshold follows the budget."""
        state = self._state
        closed: list[tuple[float, str]] = []
        if now >= self._next_close:
            due = sorted((held.alert.last + self.quiet, blamed) for blamed, held in state.open.items())
            closed = [each for each in due if each[0] <= now]
            self._next_close = due[len(closed)][0] if len(closed) < len(due) else math.inf
        out = []
        for time, blamed in closed:
            self.due |= state.budget.advance(time)
            held = state.open.pop(blamed)
            out.append(self._revise(held, "close", int(time)))
        self.due |= state.budget.advance(now)
        if now // HOUR > state.swept // HOUR:
            self._sweep(now // HOUR * HOUR)
        return out

    def judge(self, found: Found) -> list[Alert]:
        """Fold a run of rows: its evidence in order, and the minutes that pass. Returns the alert revisions it gave rise to."""
        return judge([self], found)

    def blame(self, item: Item) -> tuple[str, Role]:
        """Whom a surprising row is about, and in which role. A judge of the actor's partition is asked."""
        row = item.row
        first = row[FIRST] == 2.0
        strange = self._partners(item.actor, item.clock, row[UNIT], first)
        if first:
            self._remember(item.actor, item.clock)
        if item.piece is not None:
            item.piece.own_strange = self.strange_hours(item.actor)
            item.piece.change = self.changes.on(item.piece.time, item.actor, item.object)
        self._state.evidence += 1
        # Who pushes slowly is the one to blame; whom it meets says nothing.
        if self.line == "main" and row[OBJECT_STRANGE] > strange:
            return item.object, "object"
        return item.actor, "actor"

    def fold(self, blamed: str, role: Role, item: Item) -> list[Alert]:
        """Take in a surprising row blamed on an identity of this partition."""
        row, now = item.row, item.clock
        if item.piece is not None:
            return self._fold(blamed, role, item.piece, now, row[FIRST] == 2.0, row[UNIT], row[CEILING])
        held = self._state.open.get(blamed)
        if held is not None:
            held.alert.events += int(row[EVENTS])
            held.alert.last = max(held.alert.last, int(now))
        return []

    def _remember(self, actor: str, now: float) -> None:
        """Count an hour in which an identity gave evidence."""
        histories = self._state.histories
        many, last = histories.pop(actor, (0, 0.0))
        if now // HOUR != last // HOUR:
            many += 1
        _put(histories, actor, (many, now), HISTORIES)

    def strange_hours(self, actor: str) -> int:
        """Hours in which an identity gave evidence so far."""
        return self._state.histories.get(actor, (0, 0.0))[0]

    def _partners(self, actor: str, now: float, unit: float, first: bool) -> int:
        """Distinct surprising edges of an actor this hour."""
        since, many = self.state.strange.get(actor, (0.0, 0))
        if since == 0.0 or passed(now, since, unit, self.period):
            since, many = now, 0
        if first:
            many += 1
        if many:
            _put(self.state.strange, actor, (since, many), CURRENT)
        return many

    def _fold(self, blamed: str, role: str, piece: Piece, now: float, first: bool, unit: float, ceiling: float) -> list[Alert]:
        state = self._state
        state.budget.note(blamed, piece.score, blamed in state.open)
        trail = self._accumulate(blamed, piece, now, unit)
        held = state.open.get(blamed)
        if held is None:
            # The bar is no lower than the threshold, and takes longer to tell.
            if piece.score <= state.budget.threshold or piece.score <= (bar := state.budget.bar(ceiling)):
                return []
            if self.suppressions.covers(blamed, now):
                state.suppressed += 1
                return []
            state.budget.opened(piece.score, ceiling)
            self._next_close = min(self._next_close, now + self.quiet)
            state.open[blamed] = held = self._opened(blamed, role, piece, trail, now, bar)
            return [self._revise(held, "open", int(now))]
        alert = held.alert
        alert.events += piece.events
        alert.partners += first
        alert.last = max(alert.last, int(now))
        news = self._absorb(held, piece, trail)
        if news:
            return [self._revise(held, "update", int(now))]
        return []

    def _accumulate(self, blamed: str, piece: Piece, now: float, unit: float) -> Trail:
        """Add what this piece raises its cell's maximum by, above the floor, to the blamed identity's leaking sum."""
        state = self._state
        trail = self.trails.get(blamed)
        if trail is None:
            if len(state.trails) >= REMEMBERED:
                # An open alert keeps its trail.
                oldest = next((name for name in state.trails if name not in state.open), None)
                if oldest is not None:
                    self.trails.drop(oldest)
            trail = Trail()
            self.trails.put(blamed, trail)
        edge = f"{piece.actor}\n{piece.object}\n{piece.action}\n{piece.detail}"
        since, before = state.edges.get(edge, (0.0, 0.0))
        if since == 0.0 or passed(now, since, unit, self.period):
            since, before = now, 0.0
        gain = max(piece.score - self.floor, 0.0) - max(before - self.floor, 0.0)
        _put(state.edges, edge, (since, max(before, piece.score)), CURRENT)
        if now - trail.time > DAY:
            trail.pieces = []
        trail.nats = trail.nats * math.exp(-max(now - trail.time, 0.0) / self.leak) + max(gain, 0.0)
        trail.time = now
        self._keep(trail, piece, now, since)
        return trail

    def _keep(self, trail: Trail, piece: Piece, now: float, since: float) -> None:
        """Put a piece among the strongest of its identity: one an edge and hour, none older than a day."""
        piece.at, piece.cell = now, since
        for place, old in enumerate(trail.pieces):
            if old.cell == since and old.same_edge(piece):
                events = old.events + piece.events
                if piece.score >= old.score:
                    trail.pieces[place] = piece
                trail.pieces[place].events = events
                self._rank(trail.pieces[place])
                return
        trail.pieces.append(piece)
        self._rank(piece)
        if len(trail.pieces) > SHOWN:
            trail.pieces = [old for old in trail.pieces if old.at > now - DAY]
        if len(trail.pieces) > SHOWN:
            weakest = min(range(len(trail.pieces)), key=lambda place: (trail.pieces[place].score, -trail.pieces[place].time))
            del trail.pieces[weakest]

    def _rank(self, piece: Piece) -> None:
        """Put a piece among the strongest of the run, in place of what its cell had there: one an edge and clock hour, for the cells of
        a young stream are shorter."""
        best = self._strongest
        if len(best) == SHOWN and piece.score < best[-1].score:
            return
        # Its cell's may be another object by now: trails rest in between.
        old = next((each for each in best if each.cell == piece.cell and each.same_edge(piece)), None)
        twin = next((each for each in best if each is not old and each.same_edge(piece) and each.at // HOUR == piece.at // HOUR), None)
        if twin is not None and twin.score >= piece.score:
            return
        best = [each for each in best if each is not old and each is not twin]
        best.append(piece)
        best.sort(key=lambda each: (-each.score, each.time))
        self._strongest = best[:SHOWN]

    @property
    def strongest(self) -> list[Evidence]:
        """The strongest pieces of evidence of this run, one an edge and hour: for its summary, no part of the state."""
        return [worded(piece, self.learners) for piece in self._strongest]

    def _opened(self, blamed: str, role: Any, piece: Piece, trail: Trail, now: float, bar: float) -> Open:
        action = Action(piece.action).name
        opening = "\n".join((self.line, blamed, str(piece.time), piece.actor, piece.object, action, piece.detail, piece.uid))
        budget = self.state.budget
        pieces = trail.pieces
        alert = Alert(
            uid=hashlib.blake2b(opening.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest(),
            line=self.line,
            revision=0,
            activity="open",
            time=int(now),
            opened=int(now),
            first=min(each.time for each in pieces),
            last=int(now),
            blamed=blamed,
            role=role,
            principals=[],
            targets=[],
            score=piece.score,
            threshold=bar,
            evidence_now=0.0,
            evidence_peak=0.0,
            severity=2,
            events=sum(each.events for each in pieces),
            partners=len({(each.actor, each.object) for each in pieces}),
            signals=[],
            streams=[],
            actions=[],
            evidence=[],
            probation=budget.age < PROBATION_DAYS * DAY,
        )
        held = Open(alert=alert, said=piece.score)
        for each in pieces:
            self._absorb(held, each, trail)
        return held

    def _absorb(self, held: Open, piece: Piece, trail: Trail) -> bool:
        """Let a piece of evidence change an alert. Returns whether there is news: a signal, a stream, an action, a higher severity
        or a much higher score."""
        alert = held.alert
        # For good: nobody can tell any more what it would be without that piece.
        alert.replayed |= piece.replayed
        before = (alert.severity, len(alert.signals), len(alert.streams), len(alert.actions))
        alert.evidence_now = trail.nats
        alert.evidence_peak = max(alert.evidence_peak, trail.nats)
        alert.severity = max(alert.severity, 2 + sum(alert.evidence_peak >= bound for bound in SEVERITIES))
        _join(alert.signals, [name for name, gain in zip(self.learners, piece.gains, strict=True) if gain >= PART])
        _join(alert.streams, [Stream(piece.stream).name])
        _join(alert.actions, [Action(piece.action).name])
        # Behind an object stand those who acted on it; what it did itself elsewhere says nothing about them.
        wanted = [alert.blamed] if alert.role == "actor" else [piece.actor] if piece.object == alert.blamed else []
        _join(alert.principals, wanted, SHOWN)
        _join(alert.targets, [name for name in (*wanted, piece.via) if name.partition(":")[0] in CONTAINABLE], 2 * SHOWN)
        risen = piece.score >= held.said + RISE
        held.said = max(held.said, piece.score) if risen else held.said
        return risen or before != (alert.severity, len(alert.signals), len(alert.streams), len(alert.actions))

    def _revise(self, held: Open, activity: Any, time: int) -> Alert:
        """The next revision of an alert, as a record of its own."""
        alert = held.alert
        trail = self.trails[alert.blamed]
        pieces = sorted(trail.pieces, key=lambda each: (-each.score, each.time))
        alert.revision += 1
        alert.activity = activity
        alert.time = time
        if activity == "close":
            alert.evidence_now = trail.nats * math.exp(-max(time - trail.time, 0.0) / self.leak)
        said = msgspec.convert(msgspec.to_builtins(alert), Alert)
        said.evidence = [worded(piece, self.learners) for piece in pieces]
        return said

    def _sweep(self, now: float) -> None:
        """Forget what no longer matters, so that memory follows what is going on, not what has been."""
        state = self._state
        new_day = now // DAY > state.swept // DAY
        state.swept = now
        state.strange = {actor: held for actor, held in state.strange.items() if now - held[0] < 2 * self.period}
        state.edges = {edge: held for edge, held in state.edges.items() if now - held[0] < 2 * self.period}
        if new_day:
            # Once a day is enough for what is kept for one, and there may be many.
            for blamed in [each for each in state.trails if now - self.trails.time(each) >= DAY and each not in state.open]:
                self.trails.drop(blamed)


def judge(parts: Sequence[Fusion], found: Found) -> list[Alert]:
    """Fold a run of rows over the partitions of a line: its evidence in order, and the minutes that pass."""
    out: list[Alert] = []
    many = len(parts)
    items, parts[0].state.clock = items_of(found, parts[0].state.clock, parts[0].paths)
    for _, item in items:
        out += _advance(parts, item.clock)
        if not item.row:
            continue
        home = parts[stable_hash(item.actor) % many] if many > 1 else parts[0]
        blamed, role = home.blame(item)
        out += (parts[stable_hash(blamed) % many] if many > 1 else home).fold(blamed, role, item)
    return out


def _advance(parts: Sequence[Fusion], now: float) -> list[Alert]:
    if len(parts) == 1:
        return parts[0].advance(now)
    out = [alert for part in parts for alert in part.advance(now)]
    if any(part.due for part in parts):
        reckon([part.state.budget for part in parts])
        for part in parts:
            part.due = False
    return out


def _put(held: dict[str, Any], key: str, value: Any, most: int) -> None:
    """Set an entry of a dictionary that keeps at most so many, the oldest going first."""
    held[key] = value
    if len(held) > most:
        # Many at once: the first key of a dictionary is found by passing over all that were deleted before it.
        for oldest in list(itertools.islice(held, most // 16)):
            del held[oldest]


def _join(held: list[str], more: list[str], most: int = 1_000) -> None:
    for each in more:
        if each and each not in held and len(held) < most:
            held.append(each)
