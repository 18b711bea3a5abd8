"""Our signals as river anomaly detectors: one event a call, as a dict."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
from river.base import AnomalyDetector

from models import counts
from models.counts import count
from models.groups import peer_table
from models.kernels import pair_keys
from models.profiles import Fields, Table
from models.signals import Rows, Signal

_LIMIT = 1 << 30


class RiverView(AnomalyDetector):
    """A signal behind ``learn_one`` and ``score_one``.

    An event is a dict with ``time`` (seconds, UTC), ``actor`` and ``object`` (64-bit integers, such as
    ``connectors.names.stable_hash`` gives), and, if known, ``moved`` (bytes), ``basis`` (0-4), ``model`` (bool), ``refused`` (0/1),
    ``weight``, ``stream`` and ``action`` (numbers), ``via`` and ``detail`` (64-bit integers), ``gpus``, ``gpu_seconds``,
    ``outward`` (bool), ``pace``, and ``peer``, the number of the actor's peer group (0-63).
    ``score_one`` is the signal's raw surprise in nats, 0.0 where the event does not say what the signal asks; it learns nothing.
    """

    def __init__(self, signal: Signal, lateness_minutes: float = 60.0) -> None:
        self.signal = signal
        self.lateness_minutes = lateness_minutes
        state = signal.state()

        def table(name: str, base: dict[str, Fields]) -> Table:
            return Table(name, base | ({"signal": state[name]} if name in state else {}), _LIMIT)

        self._tables = {
            "actor": table("actor", {"keeper": counts.KEEPER, "owner": counts.OWNER}),
            "actor_pair": table("actor_pair", {"units": counts.PAIR}),
            "object": table("object", {"keeper": counts.KEEPER}),
            "endpoint": table("endpoint", {"owner": counts.OWNER}),
            "pair": table("pair", {"units": counts.PAIR}),
            "peer_pair": table("peer_pair", {}),
            "peer": peer_table("peer", {"signal": state["peer"]} if "peer" in state else {}),
        }
        self._units = {"actor": np.zeros(len(counts.SCALARS)), "object": np.zeros(len(counts.SCALARS))}
        self._scalars = np.zeros(len(signal.scalars()))

    def learn_one(self, x: dict[Hashable, Any]) -> None:
        """Learn an event."""
        self._visit(x, learn=True)

    def score_one(self, x: dict[Hashable, Any]) -> float:
        """The event's surprise under what was learned so far, in nats."""
        kept = self._scalars.copy(), {side: units.copy() for side, units in self._units.items()}
        out = self._visit(x, learn=False)
        self._scalars, self._units = kept
        surprise = float(out[0, 0])
        return 0.0 if np.isnan(surprise) else surprise

    def _slots(self, keys: dict[str, np.ndarray], learn: bool) -> dict[str, np.ndarray]:
        slots = {}
        for name, key in keys.items():
            slots[name] = np.empty(1, np.int32)
            if learn:
                self._tables[name].find(key, slots[name], 0, 1)
            else:
                slots[name][0] = self._tables[name].look(key)
        return slots

    def _visit(self, x: dict[Hashable, Any], learn: bool) -> np.ndarray:
        actor = np.array([x["actor"]], np.uint64)
        object_ = np.array([x["object"]], np.uint64)
        time = np.array([round(x["time"] * 1e6)])
        via, detail = (np.array([x.get(name, 0)], np.uint64) for name in ("via", "detail"))
        stream, action = (np.array([x.get(name, 0)], np.int8) for name in ("stream", "action"))
        pace = np.array([x.get("pace", 1.0)], np.float64)
        peer = np.array([x.get("peer", 0)], np.int32)
        endpoint, there, back, group = (np.empty(1, np.uint64) for _ in range(4))
        pair_keys(object_, detail + action.astype(np.uint64), endpoint)
        pair_keys(actor, endpoint, there)
        pair_keys(endpoint, actor, back)
        pair_keys(endpoint, peer.astype(np.uint64), group)
        keys = {"actor": actor, "actor_pair": there, "object": object_, "endpoint": endpoint, "pair": back, "peer_pair": group}
        slots = self._slots(keys, learn) | {"peer": peer}
        # A row that is always too late is read and not taught.
        lateness = self.lateness_minutes * 60e6 if learn else -np.inf
        seen = {}
        for side, keeper, owner, pair in (("actor", "actor", "actor", "actor_pair"), ("object", "object", "endpoint", "pair")):
            seen[side] = np.empty((len(counts.OUTPUT), 1))
            population = np.array([max(self._tables[owner].used, int(slots[owner][0]) + 1)])
            count(
                time,
                slots[keeper],
                slots[owner],
                slots[pair],
                population,
                pace,
                self._tables[keeper]["keeper"],
                self._tables[owner]["owner"],
                self._tables[pair]["units"],
                self._units[side],
                lateness,
                seen[side],
            )
        own = seen[self.signal.visit]
        rows = Rows(
            time=own[counts.TIME],
            learn=own[counts.LEARN] != 0.0,
            counts=own,
            actor_counts=seen["actor"],
            slots=slots,
            moved=np.array([x.get("moved", np.nan)], np.float64),
            answered=np.array([x.get("answered", np.nan)], np.float64),
            basis=np.array([x.get("basis", 0)], np.int8),
            model=np.array([x.get("model", False)]),
            refused=np.array([x.get("refused", np.nan)], np.float64),
            weight=np.array([x.get("weight", 1.0)], np.float64),
            stream=stream,
            action=action,
            actor=actor,
            object=object_,
            via=via,
            detail=detail,
            gpus=np.array([x.get("gpus", np.nan)], np.float64),
            gpu_seconds=np.array([x.get("gpu_seconds", np.nan)], np.float64),
            outward=np.array([x.get("outward", False)]),
            pace=pace,
        )
        out = np.empty((4, 1))
        state = {name: self._tables[name]["signal"] for name in self.signal.state()}
        self.signal.surprise(rows, state, self._scalars, out)
        return out
