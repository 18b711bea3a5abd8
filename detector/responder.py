"""The responder's process: takes deliveries one at a time, keeps time, and does everything in one thread.

It holds credentials, listens on nothing, and parses nothing but our own records; what is not ours is refused, counted, and told.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from msgspec.structs import replace

from connectors.event import SECOND
from connectors.ocsf import NotAnAlert, alert_of
from detector.anchor import AnchorAway, Anchorer
from detector.approvals import SKEW, hear
from detector.feeds import Delivery, Feed
from detector.kernel import Outside
from detector.policy import Respond
from detector.respond import Outcome, Responder

#: Longest pause between two looks at the kill switch, at what is due and at what is to be anchored, in seconds.
TICK_SECONDS = 0.5
#: Longest id of an alert that is taken, in characters; ours have 32.
LONGEST_UID = 200


class Clock:
    """Microseconds since 1970 that never run back and never jump: the wall clock is read once, then time that passes is added.

    A wall clock set back, or forth, while it runs changes no end of a containment. ``not_before``: the ledger's latest time.
    """

    def __init__(self, not_before: int = 0, wall: Callable[[], float] = time.time, passed: Callable[[], float] | None = None) -> None:
        # Goes on while the machine sleeps, where the system has such a clock.
        self._passed = passed or (lambda: time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)))
        self._base = max(int(wall() * SECOND), not_before)
        self._start = self._passed()

    def __call__(self) -> int:
        """The present."""
        return self._base + int((self._passed() - self._start) * SECOND)


class Switch:
    """The kill switch as a file: on while it is there, or cannot be looked for, as where its folder is missing."""

    def __init__(self, path: str) -> None:
        self._path: Path | None = None
        self.look_at(path)

    def look_at(self, path: str) -> None:
        """Have another file be the switch; "" for none."""
        self._path = Path(path) if path else None

    def __call__(self) -> str:
        """Why it is on; "" where it is off."""
        if self._path is None:
            return ""
        try:
            with self._path.open("rb") as file:
                said = file.read(200).decode("utf-8", "replace").strip().splitlines()
        except FileNotFoundError:
            # A link is there though what it names is not; where the folder is missing, nobody could turn it on.
            if self._path.is_symlink():
                return f"{self._path} is there, a link to nothing"
            return "" if self._path.parent.is_dir() else f"{self._path} cannot be looked for: its folder is missing"
        except OSError as error:
            return f"{self._path} cannot be read: {error.strerror}"
        return said[0] if said else f"{self._path} is there"


class News(NamedTuple):
    """Something to be told: an outcome, or a record that was refused and why."""

    outcome: Outcome | None
    text: str = ""


class Service:
    """Drives a responder. Everything raises LedgerFailed or AnchorFailed where nothing may go on.

    A place of anchors that is full or away is told and tried again: what is due is taken back all the same.
    """

    def __init__(
        self,
        responder: Responder,
        clock: Callable[[], int],
        switch: Switch,
        *,
        replay: bool = False,
        anchorer: Anchorer | None = None,
        wall: Callable[[], int] | None = None,
    ) -> None:
        """``wall``: the wall clock in microseconds, which people's decisions go by; without it they go by ``clock``."""
        self.responder, self.clock, self.switch = responder, clock, switch
        self.wall = wall or clock
        self._told = 0
        self.refused: Counter[str] = Counter()
        self._anchorer = anchorer
        self._replay = replay
        self._stopped = ""
        self._begun = False
        self._unanchored = ""

    def outside(self) -> Outside:
        """What is set from outside at this moment."""
        return Outside(self.switch(), self._replay)

    def take(self, delivery: Delivery) -> list[News]:
        """One delivery: decide, act, write down."""
        news = self.tick()
        if delivery.foreign:
            return [*news, self._refuse(delivery, delivery.foreign)]
        if delivery.kind == "alert":
            try:
                alert = alert_of(delivery.record)
            except NotAnAlert as error:
                return [*news, self._refuse(delivery, str(error))]
            if not alert.uid.isprintable() or len(alert.uid) > LONGEST_UID:
                return [*news, self._refuse(delivery, f"its id: expected at most {LONGEST_UID} printable characters")]
            replay = self._replay or delivery.replay or alert.replayed
            if replay:
                # It has the id of the alert that was raised when it was recorded: what is decided on one says nothing of the other.
                alert = replace(alert, uid=f"replay/{alert.uid}")
            outcomes = self.responder.handle(alert, self.clock(), replay=replay)
        else:
            policy, history = self.responder.policy.respond, self.responder.ledger.history
            heard = hear(delivery.record, delivery.vouched, policy, history, self.clock(), self.wall())
            if heard.decision is None:
                return [*news, self._refuse(delivery, heard.reason)]
            outcomes = self.responder.hear(heard.decision, self.clock())
        return [*news, *(News(outcome) for outcome in outcomes), *self._anchored()]

    def tick(self) -> list[News]:
        """What is due: retries, looks, undos, questions that ran out, anchors; and a turn of the kill switch."""
        news = self._drifted()
        stopped = self.switch()
        if bool(stopped) != bool(self._stopped):
            text = f"kill switch on: {stopped}" if stopped else "kill switch off"
            self.responder.switched(self.clock(), text)
            news.append(News(None, text))
        self._stopped = stopped
        due = self.responder.next_due()
        # The first look goes over everything: the policy may protect others than when this process was last there.
        if not self._begun or (due is not None and due <= self.clock()):
            self._begun = True
            news += [News(outcome) for outcome in self.responder.expire(self.clock())]
        return [*news, *self._anchored()]

    def adopt(self, policy: Respond) -> list[News]:
        """Go on with another policy. Raises ValueError where it has problems."""
        self.responder.adopt(policy)
        self.switch.look_at(policy.kill_switch_file)
        self.responder.switched(self.clock(), f"policy read anew, mode {policy.mode}")
        # Whom it protects by now is released at once.
        return [News(None, "policy read anew"), *(News(outcome) for outcome in self.responder.expire(self.clock()))]

    def finish(self) -> None:
        """The last words: an anchor of all that was written, and no connection left open."""
        self._anchored(at_once=True)
        self.responder.close()

    def _refuse(self, delivery: Delivery, reason: str) -> News:
        self.refused[delivery.kind] += 1
        return News(None, f"{delivery.where}: refused: {reason}")

    def _drifted(self) -> list[News]:
        """What is to be told of the distance of the wall clock, where it has changed by more than two clocks may be apart."""
        drift = self.wall() - self.clock()
        if abs(drift - self._told) <= SKEW:
            return []
        self._told = drift if abs(drift) > SKEW else 0
        text = f"the wall clock is {drift / SECOND:+.0f} seconds from the responder's time; decisions count by either of them"
        return [News(None, text if self._told else "the wall clock and the responder's time are the same again")]

    def _anchored(self, *, at_once: bool = False) -> list[News]:
        if self._anchorer is None:
            return []
        before = self._unanchored
        try:
            done = self._anchorer.tick(self.clock(), at_once=at_once or bool(before))
        except AnchorAway as error:
            self._unanchored = str(error)
            return [] if before == self._unanchored else [News(None, f"an anchor of the ledger waits: {error}")]
        if done:
            self._unanchored = ""
        return [News(None, "the ledger is anchored again")] if before and done else []


async def serve(
    service: Service,
    feeds: Iterable[Feed],
    tell: Callable[[list[News]], None],
    changed: Callable[[], list[News]],
    stop: asyncio.Event | None = None,
) -> None:
    """Run until every feed has ended, or ``stop`` is set: then what is under way is finished and committed, and nothing more is taken.

    ``changed`` is called between deliveries, in the same thread: a place to read the policy anew. A delivery is committed after its
    rows are written. What a feed or the service raises ends it.
    """
    stop = stop or asyncio.Event()
    stopped = asyncio.create_task(stop.wait())
    queue: asyncio.Queue[Delivery | None] = asyncio.Queue(maxsize=1)
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1) as thread:
        pumps = [asyncio.create_task(_pump(feed, queue)) for feed in feeds]
        # One task waits for the next delivery over many ticks: a wait that is cancelled may lose what it was just given.
        coming = asyncio.create_task(queue.get())
        try:
            left = len(pumps)
            tell(await loop.run_in_executor(thread, service.tick))
            while left and not stop.is_set():
                waits = {coming, stopped, *(pump for pump in pumps if not pump.done())}
                await asyncio.wait(waits, timeout=TICK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                for pump in pumps:
                    if pump.done():
                        pump.result()
                tell(await loop.run_in_executor(thread, changed))
                if not coming.done():
                    tell(await loop.run_in_executor(thread, service.tick))
                    continue
                delivery, coming = coming.result(), asyncio.create_task(queue.get())
                if delivery is None:
                    left -= 1
                    continue
                tell(await loop.run_in_executor(thread, service.take, delivery))
                if delivery.commit is not None:
                    await delivery.commit()
        finally:
            for task in (coming, stopped, *pumps):
                task.cancel()
            await asyncio.gather(coming, stopped, *pumps, return_exceptions=True)


async def _pump(feed: Feed, queue: asyncio.Queue[Delivery | None]) -> None:
    async for delivery in feed:
        await queue.put(delivery)
    await queue.put(None)
