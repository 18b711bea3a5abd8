"""What every stage is: a fold of the log that it reads, with marks of what it has taken in from where."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

import msgspec

from connectors.alert import Alert
from connectors.event import Block
from connectors.names import Names
from connectors.wire import Control, Packet, Tick, WireError, decode
from detector.checkpoint import meaning
from detector.config import Config, ConfigError, parse
from detector.ingest import restart
from detector.messages import VERSION
from detector.notices import Notices
from detector.router import Router
from detector.score import ActorVisit, ObjectVisit
from models.profiles import Table


class Out(NamedTuple):
    """A message to send. ``partition`` None: by the key. ``alone``: it is joined to no other, so that it can be put aside by itself."""

    topic: Literal["by_object", "evidence", "alerts", "budget", "status"]
    partition: int | None
    key: bytes | None
    value: bytes
    alone: bool = False


class Taken(NamedTuple):
    """What came of a message: what is to be sent on, alerts, when the earliest record behind it arrived (microseconds, 0 = unknown),
    and the ticks among it."""

    outs: list[Out]
    alerts: list[Alert]
    arrived: int = 0
    ticks: tuple[Tick, ...] = ()


class Note(NamedTuple):
    """A message of a stage's log: its offset, what it says, and since when it is in the log (microseconds)."""

    offset: int
    data: bytes
    time: int = 0


class Shared:
    """What the stages of a process share: the dictionary of texts and the router."""

    def __init__(self, partitions: int, names_limit: int = 2_000_000) -> None:
        self.names = Names(names_limit)
        self.router = Router(self.names, partitions)

    def packet(self, data: bytes, waiting: Sequence[Block] = ()) -> Packet:
        """A message as a packet. ``waiting``: blocks of others that are not in the router yet. Raises WireError."""
        if self.names.full:
            restart(self.names, [*self.router.blocks, *waiting])
        return decode(data, self.names)

    def flush(self) -> list[Out]:
        """What the router holds, to be sent."""
        return [Out("by_object", partition, None, data) for partition, data in self.router.flush()]


class Stage:
    """What all stages have. ``applied``: the offset of the next message; ``marks``: upstream -> highest offset taken in from there."""

    name: str

    def __init__(self, config: Config, partition: int, partitions: int, shared: Shared) -> None:
        self.config = config
        self.shared = shared
        self.partition = partition
        self.partitions = partitions
        self.applied = 0
        #: The last of the messages that are being taken in together.
        self.trying = -1
        self.marks: dict[str, int] = {}
        #: Since the process began: rows scored, rows known from before, rows that came too late to be learned.
        self.rows = self.dropped = 0
        self.notices = Notices()
        #: The configuration that the log has given last; version 0 = the process's own holds.
        self.control = Control()

    def follow(self, control: Control | None) -> None:
        """Let a configuration of the log hold from here on. Raises WireError where it cannot."""
        if control is None or control.version <= self.control.version:
            return
        try:
            config = parse(control.text)
        except ConfigError as error:
            raise WireError(f"version {control.version} of the configuration cannot be used: {error}") from None
        if meaning(config) != meaning(self.config):
            raise WireError(f"version {control.version} of the configuration changes [signals], [calibration] or [time]")
        self.control, self.config = control, config
        self._configure(config)

    def _configure(self, config: Config) -> None:
        """Take over what may change while a stage runs."""

    def tables(self) -> list[Table]:
        """The tables of profiles."""
        return []

    def blobs(self) -> Iterator[tuple[str, bytes]]:
        """The state outside the tables, by name. Equal states give equal bytes."""
        own = {
            "version": VERSION,
            "marks": dict(sorted(self.marks.items())),
            "told": self.notices.told,
            "control": self.control,
        }
        yield "stage", msgspec.msgpack.encode(own)

    def copies(self) -> Iterator[tuple[str, Iterable[bytes]]]:
        """The same as of now, each in parts, of which large ones may be made when they are asked for."""
        for name, data in self.blobs():
            yield name, (data,)

    def load(self, records: dict[str, list[bytes]]) -> None:
        """Take over a state. Raises ValueError with a sentence."""
        own = msgspec.msgpack.decode(records["stage"][0])
        if own["version"] != VERSION:
            raise ValueError(f"state of version {own['version']}; this release reads {VERSION}")
        self.marks, self.notices.told = own["marks"], own["told"]
        self.follow(msgspec.convert(own["control"], Control))

    def quick(self) -> bool:
        """Whether a copy of the state can be taken without waiting for anything."""
        return True

    def take(self, data: bytes, offset: int, time: int = 0) -> Taken:
        """Take in the message at ``offset``, in its log since ``time`` (microseconds). Raises WireError, with a sentence, before
        anything has changed."""
        raise NotImplementedError

    def takes(self, run: Sequence[Note]) -> Iterator[Taken]:
        """Take in messages that follow one another, together where that costs less: what comes of each is the same. Where it raises,
        all before ``applied`` is taken in; what raised is between that and ``trying``."""
        for offset, data, time in run:
            self.trying = offset
            yield self.take(data, offset, time)

    @property
    def late(self) -> int:
        """Rows scored, but not learned, since the state began."""
        return 0

    @property
    def identities(self) -> int:
        """Identities with a profile here."""
        return 0

    def _seen(self, upstream: str, offset: int) -> bool:
        """Whether a whole message from there was taken in before; notes it if not."""
        if offset <= self.marks.get(upstream, -1):
            self.dropped += 1
            return True
        self.marks[upstream] = offset
        return False

    def _full(self, visit: ActorVisit | ObjectVisit) -> list[Alert]:
        out = [alert for each in visit.full for alert in self.notices.full(*each)]
        visit.full.clear()
        return out
