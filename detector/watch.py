"""Blind spots: what the status log says about what we do not see. A quiet detector must not look like a quiet system.

A pure fold of ``connectors.status`` records with the log's own times: no clock, no network. Whatever is *missing* is decided when the
log's time moves on, and the watcher's own heartbeats see to that. Where the log itself stood still (the broker was down), nobody could
write: such a gap counts as ``STILL`` heartbeats and is nobody's silence. Result and state do not depend on how the log is cut.

>>> watcher = Watcher(Watch())
>>> watcher.fold(0, Heartbeat(process="actor-0", stage="actor", time=0, started=0, partitions=["tocsin.by-actor/0"]))
[]
>>> for second in range(0, 80, 10):
...     for alert in watcher.fold(second * SECOND, Heartbeat(process="fuse-0", stage="fuse", time=0, started=0)):
...         print(alert.activity, alert.blamed, alert.severity)
open service:tocsin/process/actor-0 4
"""

from __future__ import annotations

import hashlib

import msgspec

from connectors.alert import Alert
from connectors.event import DAY, MINUTE, SECOND
from connectors.status import Canary, Heartbeat, Lost, Message, Newcomers, SourceStatus
from detector.blindspots import HIGH, MOVE, RISING, RULES, WATCH_VERSION, State, Watch
from detector.checkpoint import StateError
from detector.config import Config
from detector.notices import Notices
from detector.watched import Gaps, Known, Path, Process, Shares

#: A step of the log's time longer than so many heartbeats means that nobody could write: it counts as so many.
STILL = 2
#: Causes are judged at most once in so much of the log's time: a record a millisecond would change nothing.
PAUSE = SECOND
#: A process that was silent for a day, or a source for a week, is no longer expected.
FORGET_PROCESS, FORGET_SOURCE = DAY, 7 * DAY
#: What every cause of the watcher is an identity under.
ABOUT = "service:tocsin/"

__all__ = ["Watch", "Watcher", "allowed"]


class _Version(msgspec.Struct):
    version: int


class Watcher:
    """Folds the status log, one record at a time, in its order."""

    def __init__(self, settings: Watch) -> None:
        self.settings = settings
        self._state = State()
        self._notices = Notices()
        self._still = int(settings.heartbeat_seconds * STILL * SECOND)

    def fold(self, time: int, message: Message) -> list[Alert]:
        """One record with its log time (microseconds): what is to be said because of it, in order."""
        state = self._state
        if state.now < 0:
            state.now = time
        state.lived += min(max(0, time - state.now), self._still)
        state.now = max(state.now, time)
        out: list[Alert] = []
        if state.lived - state.judged >= PAUSE:
            state.judged = state.lived
            out += self._judge()
        match message:
            case Heartbeat():
                out += self._heartbeat(message)
            case SourceStatus():
                self._source(message)
            case Canary():
                state.paths.setdefault(message.partition, Path()).add(state.lived, message.sent, message.arrived)
            case Lost():
                out += self._lost(message)
            case Newcomers():
                state.stages.setdefault(message.stage, Known(minute=state.lived // MINUTE)).add(message.fresh)
        return out

    def dump(self) -> bytes:
        """The whole state, as versioned msgpack."""
        self._state.told, self._state.standing = self._notices.told, self._notices.standing
        return msgspec.msgpack.encode(self._state)

    def load(self, data: bytes) -> None:
        """Take up a state again. Raises StateError for what is none, or is of a newer version."""
        try:
            version = msgspec.msgpack.decode(data, type=_Version).version
            if not 1 <= version <= WATCH_VERSION:
                raise StateError(f"the watcher's state is of version {version}; this release reads 1 to {WATCH_VERSION}")
            self._state = msgspec.msgpack.decode(data, type=State)
        except msgspec.DecodeError as error:
            raise StateError(f"not a watcher's state: {error}") from None
        self._notices.told, self._notices.standing = self._state.told, self._state.standing

    def _heartbeat(self, said: Heartbeat) -> list[Alert]:
        state = self._state
        process = state.processes.get(said.process)
        if process is None or process.started != said.started or process.partitions != said.partitions or said.stopping:
            state.moved = state.lived
        if said.stopping:
            state.processes.pop(said.process, None)
            return self._gone(said.process, f"{said.process} was stopped in order")
        if process is None:
            process = state.processes[said.process] = Process()
        process.take(said, state.lived, RISING)
        if said.repeats and state.lived - state.moved > MOVE:
            process.repeated = state.lived
        return self._edited(said) if said.allowed else []

    def _source(self, said: SourceStatus) -> None:
        """Silence is the absence of records, so a record that says "none" is no sign of life."""
        if not said.records and not said.rejects:
            return
        state, key = self._state, f"{said.topic}/{said.source}"
        state.sources.setdefault(key, Gaps(first=state.lived, last=state.lived)).seen(state.lived, said.last_arrival)
        state.shares.setdefault(key, Shares()).add(state.lived, said.records, said.rejects)

    def _edited(self, said: Heartbeat) -> list[Alert]:
        lists = self._state.lists
        known = not lists or said.allowed in lists
        lists[said.allowed] = self._state.lived
        if known:
            return []
        text = (
            f"{said.process} lets other things through than before: what its configuration announces, exempts and protects now has the "
            f"digest {said.allowed[:12]}. If nobody edited it on purpose, someone is blinding the detector"
        )
        return self._notices.say(float(self._state.now), f"{ABOUT}allow-list/{said.allowed[:12]}", text, HIGH)

    def _lost(self, said: Lost) -> list[Alert]:
        text = (
            f"{said.records:,} records of {said.topic} {said.partition} were deleted by the broker before they were read; it begins at "
            f"{said.begins} now. What they would have shown cannot be seen: keep the topic longer than ingest ever stands still"
        )
        return self._notices.say(float(self._state.now), f"{ABOUT}lost/{said.topic}/{said.partition}", text, HIGH)

    def _judge(self) -> list[Alert]:
        state = self._state
        out = self._forget()
        for rule in RULES:
            for cause in rule(state, self.settings):
                if cause.holds:
                    out += self._notices.say(float(state.now), ABOUT + cause.name, cause.text, cause.severity)
                else:
                    out += self._over(cause.name, cause.text)
        return out

    def _over(self, name: str, text: str) -> list[Alert]:
        return self._notices.over(float(self._state.now), ABOUT + name, text)

    def _forget(self) -> list[Alert]:
        """Give up what has not been heard of for so long that nobody expects it, and close what stands about it."""
        state, out = self._state, []
        for name, process in list(state.processes.items()):
            if state.lived - process.seen > FORGET_PROCESS:
                del state.processes[name]
                out += self._gone(name, f"{name} has not been heard of for a day and is no longer expected")
        for name, gaps in list(state.sources.items()):
            if state.lived - gaps.last > FORGET_SOURCE:
                del state.sources[name], state.shares[name]
                for rule in ("source", "rejects"):
                    out += self._over(f"{rule}/{name}", f"nothing came from {name} for a week: it is no longer expected")
        for digest, seen in list(state.lists.items()):
            # The last one known stays, or nothing could be compared with it.
            if state.lived - seen > DAY and len(state.lists) > 1:
                del state.lists[digest]
        for about, standing in list(self._notices.standing.items()):
            if about.startswith((f"{ABOUT}allow-list/", f"{ABOUT}lost/")) and state.now - standing.opened >= DAY:
                out += self._notices.over(float(state.now), about, "what happened once is told for a day")
        return out

    def _gone(self, process: str, text: str) -> list[Alert]:
        """Close what stands about a process, and about topics that nobody reads any more."""
        out = self._over(f"process/{process}", text) + self._over(f"repeats/{process}", text)
        read = {topic for each in self._state.processes.values() for topic in each.lags}
        for about in list(self._notices.standing):
            topic = about.removeprefix(f"{ABOUT}lag/")
            if topic != about and topic not in read:
                out += self._over(f"lag/{topic}", f"{topic} is read by nobody who is known: {text}")
        return out


def allowed(config: Config) -> str:
    """Digest of what a configuration lets through: announced changes, restricted and protected identities."""
    part = [config.changes, config.suppressions, config.identities, config.respond.protected]
    return hashlib.blake2b(msgspec.json.encode(part, order="deterministic"), digest_size=16).hexdigest()
