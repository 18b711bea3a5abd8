"""A block as the two visits see it: the endpoint each row touches, the columns signals read, and what one visit sends to the other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from connectors.event import Action, Block, Outcome, Stream
from models import counts
from models.kernels import pair_keys
from models.signals import Rows

# Plain numbers: comparing a column with a member of an enumeration takes five times as long, which small blocks feel.
_REGISTRY, _PULL, _READ = int(Stream.registry), int(Action.pull), int(Action.read)
_DENIED, _FAILED, _UNKNOWN = int(Outcome.denied), int(Outcome.failed), int(Outcome.unknown)


@dataclass(slots=True)
class ActorSide:
    """What the actor's visit sends along with a block: ``counts`` float64[len(counts.OUTPUT), n], ``peer`` int32[n], the actor's peer
    group, and, per signal of its own, float64[4, n]."""

    counts: np.ndarray
    peer: np.ndarray
    signals: dict[str, np.ndarray]

    @staticmethod
    def joined(parts: list[ActorSide]) -> ActorSide:
        """Several sides one after the other."""
        signals = {name: np.hstack([part.signals[name] for part in parts]) for name in parts[0].signals}
        return ActorSide(np.hstack([part.counts for part in parts]), np.concatenate([part.peer for part in parts]), signals)

    def part(self, rows: slice | np.ndarray) -> ActorSide:
        """The same for some rows."""
        return ActorSide(self.counts[:, rows], self.peer[rows], {name: matrix[:, rows] for name, matrix in self.signals.items()})


def _hashes(block: Block, codes: np.ndarray) -> np.ndarray:
    """uint64[n]: the stable hashes of codes, 0 where there is none."""
    hashes = block.names.hashes
    return np.where(codes >= 0, hashes[codes], np.uint64(0))


def facets(block: Block) -> np.ndarray:
    """uint64[n]: the endpoint each row touches: object, action and detail together."""
    out = np.empty(len(block), np.uint64)
    pair_keys(block.names.hashes[block.object], _hashes(block, block.detail) + block.action.astype(np.uint64), out)
    return out


def rows_of(
    block: Block, out: np.ndarray, slots: dict[str, np.ndarray], actor: np.ndarray, pace: np.ndarray, outwards: np.ndarray
) -> Rows:
    """A block as the signals read it. Bytes that left: sent by the actor of a flow, or read out of a registry."""
    model = block.stream == _REGISTRY
    pulled = model & ((block.action == _PULL) | (block.action == _READ))
    refused = np.where((block.outcome == _DENIED) | (block.outcome == _FAILED), 1.0, 0.0)
    refused[block.outcome == _UNKNOWN] = np.nan
    hashes = block.names.hashes
    return Rows(
        time=out[counts.TIME],
        learn=out[counts.LEARN] != 0.0,
        counts=out,
        actor_counts=actor,
        slots=slots,
        moved=np.where(pulled, block.bytes_in, block.bytes_out),
        answered=np.where(pulled, block.bytes_out, block.bytes_in),
        basis=block.bytes_basis,
        model=model,
        refused=refused,
        weight=block.count,
        stream=block.stream,
        action=block.action,
        actor=hashes[block.actor],
        object=hashes[block.object],
        via=_hashes(block, block.via),
        detail=_hashes(block, block.detail),
        gpus=block.gpus,
        gpu_seconds=block.gpu_seconds,
        outward=outwards,
        pace=pace,
    )
