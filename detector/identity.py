"""Who is behind an address, a pod, a job or a token: bindings valid in event time, and the principal at the end of their chain.

Pods and their addresses live for minutes; a baseline on them learns nothing, and one that passes with a reused address from one pod
to the next accuses the innocent. So events are scored on principals. What no binding explains stays its own identity.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

import numpy as np

from connectors.event import HOUR, Binding, Block
from connectors.names import Names

#: Hops from an address to whoever answers for it: ip, pod, service account or workload, user, and one to spare.
LONGEST_CHAIN = 5
#: Bindings kept of one subject; those that repeat the one before go first, then the oldest.
LONGEST_HISTORY = 64
#: Microseconds for which what was said of a subject needs not be said again: a pod that asks a thousand times an hour is one binding.
RENEWED = HOUR

_ALWAYS = (-(1 << 62), 1 << 62)


class Bindings:
    """Histories of bindings, bounded by ``limit`` subjects: those not renewed for longest go first."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.forgotten = 0
        self._times: dict[str, list[int]] = {}
        self._targets: dict[str, list[str | None]] = {}
        self._names: Names | None = None
        self._epoch = 0
        self._bound = np.zeros(0, np.bool_)
        self._known = 0

    def __len__(self) -> int:
        return len(self._times)

    def learn(self, binding: Binding) -> bool:
        """Take a binding into account unless it repeats the one in force. Returns whether it says anything new."""
        if self._repeats(binding):
            return False
        self.bind(binding)
        return True

    def _repeats(self, binding: Binding) -> bool:
        """Whether the same was said of its subject shortly before its time, and nothing else since."""
        history = self.history(binding.subject)
        if history is None:
            return False
        times, targets = history
        place = bisect_right(times, binding.time) - 1
        return place >= 0 and targets[place] == binding.target and binding.time - times[place] < RENEWED

    def bind(self, binding: Binding) -> list[tuple[str, int]]:
        """Take a binding into account, wherever in time it belongs. Returns (subject, time) of those that had to go for it."""
        gone: list[tuple[str, int]] = []
        times = self._times.pop(binding.subject, None)
        if times is None:
            times, targets = [], []
            if len(self._times) >= self.limit:
                oldest = next(iter(self._times))
                gone += [(oldest, time) for time in self._times[oldest]]
                del self._times[oldest], self._targets[oldest]
                self.forgotten += 1
            if self._names is not None and self._names.epoch == self._epoch:
                code = self._names.find(binding.subject)
                if code is not None and code < self._known:
                    self._bound[code] = True
        else:
            targets = self._targets.pop(binding.subject)
        self._times[binding.subject] = times
        self._targets[binding.subject] = targets
        place = bisect_right(times, binding.time)
        if place and times[place - 1] == binding.time:
            targets[place - 1] = binding.target
        else:
            # Also where it repeats an earlier one: one from in between may still arrive.
            times.insert(place, binding.time)
            targets.insert(place, binding.target)
        if len(times) > LONGEST_HISTORY:
            repeats = (i for i in range(1, len(targets)) if targets[i] == targets[i - 1])
            spare = next(repeats, 0)
            gone.append((binding.subject, times[spare]))
            del times[spare], targets[spare]
        return gone

    def unbind(self, subject: str, time: int) -> None:
        """Forget what was said of a subject for ``time``, if it is known."""
        times = self._times.get(subject)
        if times is None or time not in times:
            return
        place = times.index(time)
        del times[place], self._targets[subject][place]
        if not times:
            del self._times[subject], self._targets[subject]

    def history(self, subject: str) -> tuple[list[int], list[str | None]] | None:
        """Times and targets of a subject's bindings, None where there are none."""
        times = self._times.get(subject)
        return None if times is None else (times, self._targets[subject])

    def chain(self, identity: str, time: int) -> tuple[list[str], int, int]:
        """(``identity`` and who stood for whom at ``time``, to the one who answers for it; the span [from, to) in which that holds
        as far as is known)."""
        begin, end = _ALWAYS
        links = [identity]
        for _ in range(LONGEST_CHAIN):
            history = self.history(links[-1])
            if history is None:
                break
            times, targets = history
            place = bisect_right(times, time)
            if place < len(times):
                end = min(end, times[place])
            if place == 0:
                break
            begin = max(begin, times[place - 1])
            target = targets[place - 1]
            if target is None or target in links:
                break
            links.append(target)
        return links, begin, end

    def principal(self, identity: str, time: int) -> tuple[str, int, int]:
        """(who answers for ``identity`` at ``time``, and the span of time [from, to) in which that holds as far as is known)."""
        links, begin, end = self.chain(identity, time)
        return links[-1], begin, end

    def resolve(self, block: Block, bindings: Sequence[tuple[int, Binding]]) -> list[Binding]:
        """Replace actors and objects by their principals, in place; ``via`` keeps what carried the act: the pod behind an address,
        else what the record named.

        ``bindings``: (row before which it takes effect, binding), in order. A row sees the bindings of earlier records only, so that
        it resolves the same way however the log is cut into blocks. Returns the bindings that say anything new.
        """
        start, fresh = 0, []
        for row, binding in bindings:
            if self._repeats(binding):
                continue
            if row > start:
                self._resolve(block, start, row)
                start = row
            self.bind(binding)
            fresh.append(binding)
        if start < len(block):
            self._resolve(block, start, len(block))
        return fresh

    def _resolve(self, block: Block, start: int, stop: int) -> None:
        if not self._any():
            return
        self._follow(block.names)
        time = block.time[start:stop]
        for column in ("actor", "object"):
            codes = getattr(block, column)[start:stop]
            rows = np.flatnonzero(self._bound[codes])
            if len(rows) == 0:
                continue
            before = codes[rows]
            after, carriers = self._principals(block.names, before, time[rows])
            codes[rows] = after
            if column == "actor":
                via = block.via[start:stop]
                moved = (after != before) & ((via[rows] < 0) | (via[rows] == before))
                via[rows[moved]] = carriers[moved]

    def _principals(self, names: Names, codes: np.ndarray, time: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """int32[n] principals and int32[n] what carried the act, of actors ``codes`` at ``time``."""
        out, carriers = np.empty_like(codes), np.empty_like(codes)
        first, last = int(time.min()), int(time.max())
        for code in np.unique(codes).tolist():
            rows = np.flatnonzero(codes == code)
            links, begin, end = self.chain(names.values[code], first)
            if begin <= first and last < end:
                out[rows], carriers[rows] = names.passing(links[-1]), names.passing(_carrier(links))
                continue
            for row in rows.tolist():
                moment = int(time[row])
                if not begin <= moment < end:
                    links, begin, end = self.chain(names.values[code], moment)
                out[row], carriers[row] = names.passing(links[-1]), names.passing(_carrier(links))
        return out, carriers

    def _any(self) -> bool:
        return bool(self._times)

    def _knows(self, subject: str) -> bool:
        return subject in self._times

    def _follow(self, names: Names) -> None:
        """Keep one flag per code of ``names``: whether there is any binding of it."""
        if names is not self._names or names.epoch != self._epoch:
            self._names, self._epoch, self._known = names, names.epoch, 0
        if len(names) > len(self._bound):
            self._bound = np.concatenate([self._bound, np.zeros(2 * len(names) - len(self._bound), np.bool_)])
        for code in range(self._known, len(names)):
            self._bound[code] = self._knows(names.values[code])
        self._known = len(names)

    def dump(self) -> dict[str, Any]:
        """Plain data, in order of renewal."""
        return {
            "version": 1,
            "forgotten": self.forgotten,
            "histories": [[subject, times, self._targets[subject]] for subject, times in self._times.items()],
        }

    def load(self, data: dict[str, Any]) -> None:
        """Take over what ``dump`` gave. Raises ValueError on another version."""
        if data["version"] != 1:
            raise ValueError(f"state of the bindings: version {data['version']}, this release reads 1")
        self.forgotten = data["forgotten"]
        self._times = {subject: list(times) for subject, times, _ in data["histories"]}
        self._targets = {subject: list(targets) for subject, _, targets in data["histories"]}
        self._names = None


class View(Bindings):
    """Bindings seen over others: its own are laid over those of ``base``, which it never changes.

    What one raw log says of who stands behind whom holds for its own later records at once; for everyone else's only from a moment on
    that all agree on. So each log has a view of its own over what is agreed.
    """

    def __init__(self, base: Bindings) -> None:
        super().__init__(base.limit)
        self.base = base

    def bind(self, binding: Binding) -> list[tuple[str, int]]:
        """See the base class."""
        if binding.subject not in self._times:
            below = self.base.history(binding.subject)
            if below is not None:
                self._times[binding.subject], self._targets[binding.subject] = list(below[0]), list(below[1])
        return super().bind(binding)

    def reset(self, base: Bindings) -> None:
        """Forget everything of its own, and look at ``base`` from now on, which may know more than before."""
        self.base = base
        self._times, self._targets = {}, {}
        self._names = None

    def history(self, subject: str) -> tuple[list[int], list[str | None]] | None:
        """See the base class."""
        return super().history(subject) or self.base.history(subject)

    def _any(self) -> bool:
        return bool(self._times) or self.base._any()

    def _knows(self, subject: str) -> bool:
        return subject in self._times or self.base._knows(subject)


def _carrier(links: list[str]) -> str:
    """The concrete thing in a chain that containment can take hold of: the pod, else what the record named."""
    return next((link for link in links if link.startswith("pod:")), links[0])
