"""Sessions at the model registry: what the registry notifies, and the connection beneath it."""

from __future__ import annotations

import numpy as np

from connectors.event import SECOND
from replay.simulate.factory import Blob, Model, uuid
from replay.simulate.journal import REGISTRY as NOTICES
from replay.simulate.places import MB
from replay.simulate.wire import HTTPS, Peer, registry_event
from replay.simulate.world import World

_INSTANCE = "206b8e29-ca71-4b33-8ba9-50a7b9cd5eab"
#: Bytes a second a client gets from the registry: median and spread of the logarithm.
_RATE, _RATE_SPREAD = 400 * MB, 0.5


def pull(
    world: World,
    rng: np.random.Generator,
    time: int,
    actor: str,
    address: str,
    agent: str,
    model: Model,
    *,
    weights: bool,
    within: int | None = None,
    rate: float | None = None,
) -> int:
    """A pull from ``time`` on: by tag the manifest, then the small blobs, and with ``weights`` the shards. Returns when it ends.

    ``within``: microseconds it may take at most. ``rate``: bytes a second, drawn where not given.
    """
    blobs = (*model.small, *model.weights) if weights else model.small
    return _session(world, rng, time, (actor, address, agent), model, blobs, "pull", within, rate)


def push(
    world: World,
    rng: np.random.Generator,
    time: int,
    actor: str,
    address: str,
    agent: str,
    model: Model,
    *,
    within: int | None = None,
) -> int:
    """A push of a model from ``time`` on: the blobs, then the manifest. Returns when it ends."""
    return _session(world, rng, time, (actor, address, agent), model, (*model.small, *model.weights), "push", within, None)


def _session(
    world: World,
    rng: np.random.Generator,
    time: int,
    who: tuple[str, str, str],
    model: Model,
    blobs: tuple[Blob, ...],
    action: str,
    within: int | None,
    rate: float | None,
) -> int:
    actor, address, agent = who
    peer = Peer(actor, address, int(rng.integers(32_768, 60_999)), agent, world.hosts.registry_name)
    total = sum(blob.size for blob in blobs)
    speed = float(rng.lognormal(np.log(_RATE), _RATE_SPREAD)) if rate is None else rate
    if within is not None:
        # A quarter for requests and round trips.
        speed = max(speed, total / (0.75 * within / SECOND))
    pause = 20_000 if within is None else min(20_000, within // (8 * (len(blobs) + 3)))

    def note(at: int, method: str, blob: Blob | None) -> None:
        line = registry_event(at, (uuid(rng), uuid(rng)), action, method, peer, model, blob, _INSTANCE)
        world.write(NOTICES, at, line)

    now = time + pause
    if action == "pull":
        if rng.random() < 0.5:
            # Some clients ask for the digest first.
            note(now, "HEAD", None)
            now += pause
        note(now, "GET", None)
    for blob in blobs:
        now += pause
        if action == "pull":
            note(now, "GET", blob)
        now += int(blob.size / speed * SECOND)
        if action == "push":
            note(now, "PUT", blob)
    now += pause
    if action == "push":
        note(now, "PUT", None)
    requests = 900 * (len(blobs) + 2)
    out, into = (requests + total, requests) if action == "push" else (requests, requests + total)
    world.connect(
        rng,
        np.array([time]),
        np.array([now - time]),
        address,
        world.hosts.registry,
        HTTPS,
        np.array([out]),
        np.array([into]),
        orig_port=peer.port,
    )
    return now
