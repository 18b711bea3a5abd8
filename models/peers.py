"""Peer groups: who behaves alike, so that a newcomer starts from its peers' past instead of nothing.

Idea: identities are grouped by what they do (k-means over ``FEATURES``, see ``models.clusters``) and, where they have done too
little, by what they are called: a service account of a team most likely does what that team's others do. No directory is asked. An
estimate then leans from the identity to its group to everyone, the less the more the identity itself has shown (``lean``).

Robust by construction: features are logarithms and shares, scaled by median and quartiles and clipped; how much of the sample one label
(a team, a subnet) may be is bounded, so that a flood of new names from one place does not push the groups about; a few are no group.

When it fails: a behaviour that very few share is not found; whoever imitates a group is put into it (a group is where an estimate
starts, it excuses nobody); identities of whom a source tells less form groups of their own; groups of a continuum are slices of it,
with edges that mean nothing.

Cost: training takes 1 to 3 seconds in the background, whatever the number of identities; assigning, 0.3 microseconds an identity.
State: under 1 MB. scikit-learn takes a second to import, and is imported at the first training.

Papers: see ``models.clusters``; for ``lean`` H. Robbins, "An empirical Bayes approach to statistics", 1956, and B. Efron, C. Morris,
"Data analysis using Stein's estimator", J. Am. Stat. Assoc. 70, 1975.
"""

from __future__ import annotations

import ipaddress
from typing import Annotated, Final, NamedTuple

import msgspec
import numpy as np
from numba import njit

from models.clusters import CLIP, MOST_GROUPS, MOST_LABELS, chosen, majorities, matched, places, robust, sampled, scaled

#: Format of the saved state. A reader refuses a newer one.
FORMAT = 1
#: Identities that have shown enough below which there are no groups: two groups of eight is the least worth saying.
FEWEST = 16
#: Edge-hours of activity from which an identity's own behaviour counts; with fewer its label speaks for it.
ENOUGH = 3.0

STREAMS = ("flow", "registry", "job", "auth", "attestation", "sensor")


class Feature(NamedTuple):
    """``spread``: the least that makes a difference, in the feature's unit. Where nearly all are alike it is the scale, lest noise is
    taken for groups."""

    name: str
    unit: str
    spread: float


#: What an identity is grouped by. Counts as ln(1 + x): a factor means the same at every size. Streams as shares: what it is used for,
#: not how often. The hour as a vector: 23 and 0 are neighbours, and someone without a habit lies in the middle.
FEATURES: Final = (
    Feature("active_hours", "ln(1 + edge-hours, decayed)", 0.5),
    Feature("partner_days", "ln(1 + edge-days, decayed)", 0.5),
    Feature("partners", "ln(1 + partners ever)", 0.5),
    Feature("bytes", "mean ln bytes an event", 1.0),
    Feature("refused", "share of events denied or failed", 0.1),
    *(Feature(f"stream_{name}", "share of events", 0.25) for name in STREAMS),
    Feature("hour_cos", "mean of cos(hour of day)", 0.25),
    Feature("hour_sin", "mean of sin(hour of day)", 0.25),
    Feature("rate", "ln(1 + events a minute)", 0.5),
)


#: The least difference that counts, a feature each.
SPREADS: Final = tuple(feature.spread for feature in FEATURES)


def features_of(
    *,
    active_hours: np.ndarray,
    partner_days: np.ndarray,
    partners: np.ndarray,
    ln_bytes: np.ndarray,
    refused: np.ndarray,
    streams: np.ndarray,
    hour_cos: np.ndarray,
    hour_sin: np.ndarray,
    rate: np.ndarray,
) -> np.ndarray:
    """float64[n, len(FEATURES)] from columns of one entry an identity; NaN = unknown, and stays NaN: it will count as the median.

    ``active_hours``, ``partner_days``: decayed edge-hours and edge-days. ``partners``: ever. ``ln_bytes``: mean ln of bytes.
    ``refused``: share, 0 to 1. ``streams`` [n, 6]: units or events in each of ``STREAMS``. ``hour_cos``, ``hour_sin``: mean cosine and
    sine of the hour of day (as an angle), so that their length is how concentrated the habit is. ``rate``: events a minute.
    """
    total = streams.sum(axis=1, keepdims=True)
    shares = np.full(streams.shape, np.nan)
    np.divide(streams, total, out=shares, where=total > 0.0)
    counted = (np.log1p(np.maximum(each, 0.0)) for each in (active_hours, partner_days, partners))
    return np.column_stack([*counted, ln_bytes, refused, shares, hour_cos, hour_sin, np.log1p(np.maximum(rate, 0.0))]).astype(
        np.float64
    )


def label_of(identity: str) -> str:
    """What an identity's name says about its kind and team, without any directory.

    All but the last part of its path, at most two parts; of a user the domain, of an address the network (/24, /64), of a host the
    domain or else the name without its number.

    >>> label_of("sa:team-a/trainer"), label_of("job:slurm/8812"), label_of("model:registry/team-a/llama-70b")
    ('sa:team-a', 'job:slurm', 'model:registry/team-a')
    >>> label_of("user:alice"), label_of("user:alice@corp.com"), label_of("node:gpu-07"), label_of("host:gpu-07.hpc.corp.com")
    ('user:', 'user:@corp.com', 'node:gpu', 'host:.hpc.corp.com')
    >>> label_of("ip:10.1.2.3"), label_of("ip:2001:db8:1:2:3::4")
    ('ip:10.1.2', 'ip:2001:db8:1:2::')
    """
    kind, _, name = identity.partition(":")
    if kind == "ip":
        return f"ip:{_network(name)}"
    if kind == "user":
        _, at, domain = name.rpartition("@")
        return f"user:{at}{domain if at else ''}"
    if kind in ("host", "node"):
        first, dot, domain = name.partition(".")
        return f"{kind}:{dot}{domain}" if dot else f"{kind}:{first.rstrip('0123456789').rstrip('-_')}"
    return f"{kind}:{'/'.join(name.split('/')[:-1][:2])}"


def _network(address: str) -> str:
    if ":" not in address:
        return address.rpartition(".")[0]
    try:
        whole = int(ipaddress.IPv6Address(address))
    except ValueError:
        return ""
    return str(ipaddress.IPv6Address(whole >> 64 << 64))


@njit(cache=True)
def lean(n: float, mean: float, variance: float, prior_mean: float, prior_variance: float, strength: float) -> tuple[float, float]:
    """Mean and variance of ``n`` values of one's own, leaning on a prior that counts as ``strength`` values (in whatever unit; the
    variance in its square). n = 0 gives the prior. Chained: the group leans on everyone, then the identity on the result.

    The distance between own mean and prior is not added to the variance: who differs from the peers is not less predictable for it.
    """
    whole = n + strength
    if whole <= 0.0:
        return prior_mean, prior_variance
    own = n / whole
    # As a step from the prior: sums of products would round where both are equal.
    return prior_mean + own * (mean - prior_mean), prior_variance + own * (variance - prior_variance)


class _State(msgspec.Struct):
    """What is stored: arrays as little-endian bytes. ``version``: of the groups."""

    format: int
    version: Annotated[int, msgspec.Meta(ge=0)]
    ids: bytes
    centres: bytes
    shift: bytes
    scale: bytes
    labels: bytes
    label_group: bytes
    fresh: bytes


class _Format(msgspec.Struct):
    format: int


class Peers:
    """The groups in force. Group numbers, 0 to MOST_GROUPS - 1, stay with those who are in the group over retrainings; -1 = no group.

    ``version``: 0 = never trained, one more with each training. ``ids`` int16[k] ascending: the groups there are; ``centres``
    float64[k, features], in spreads; ``shift``, ``scale`` float64[features]; ``labels`` uint64[m] ascending and ``label_group``
    int16[m]: the group of most identities of a label. ``fresh`` int16: groups that began with this version, so that whatever was
    counted under their number before is not theirs.
    """

    def __init__(self) -> None:
        width = len(FEATURES)
        self.version = 0
        self.ids = np.zeros(0, np.int16)
        self.centres = np.zeros((0, width))
        self.shift, self.scale = np.zeros(width), np.ones(width)
        self.labels, self.label_group = np.zeros(0, np.uint64), np.zeros(0, np.int16)
        self.fresh = np.zeros(0, np.int16)

    def retrain(self, features: np.ndarray, label: np.ndarray, key: np.ndarray) -> None:
        """Form the groups anew. ``features`` float64[n, features] as of ``features_of``; ``label``, ``key`` uint64[n]: hashes of each
        identity's label and of itself.

        Depends on what is there, not on the order of rows. Where too few have shown enough, or all behave alike, nothing changes.
        """
        enough = _shown(features)
        features, label, key = features[enough], label[enough], key[enough]
        sample = sampled(label, key)
        if len(sample) < FEWEST:
            return
        shift, scale = robust(features[sample], SPREADS)
        points = np.empty((len(sample), len(FEATURES)))
        scaled(features[sample], shift, scale, points)
        # The old centres as they stand in the new scale.
        start = np.clip((self.centres * self.scale + self.shift - shift) / scale, -CLIP, CLIP)
        centres = chosen(points, start)
        if len(centres) < 2:
            return
        far = np.full((MOST_GROUPS, len(centres)), np.inf)
        far[self.ids] = np.linalg.norm(start[:, None] - centres[None], axis=2)
        ids = matched(self._of_behaviour(features[sample]), places(points, centres)[0], far)
        order = np.argsort(ids)
        self.fresh = np.setdiff1d(ids, self.ids)
        self.ids, self.centres, self.shift, self.scale = ids[order], centres[order], shift, scale
        self.labels, self.label_group = majorities(label, self._of_behaviour(features))
        self.version += 1

    def _of_behaviour(self, features: np.ndarray) -> np.ndarray:
        """int16[n]: the group with the nearest centre; -1 before the first training."""
        if not len(self.ids):
            return np.full(len(features), -1, np.int16)
        points = np.empty((len(features), len(FEATURES)))
        scaled(features, self.shift, self.scale, points)
        group: np.ndarray = self.ids[places(points, self.centres)[0]]
        return group

    def assign(self, features: np.ndarray, label: np.ndarray) -> np.ndarray:
        """int16[n]: each identity's group, by its behaviour, or by its label while it has shown too little."""
        return np.where(_shown(features), self._of_behaviour(features), self.of_label(label))

    def of_label(self, label: np.ndarray) -> np.ndarray:
        """int16[n]: the group of most identities of each label (uint64[n]); -1 where none has the most or the label is new."""
        if not len(self.labels):
            return np.full(len(label), -1, np.int16)
        at = np.minimum(np.searchsorted(self.labels, label), len(self.labels) - 1)
        return np.where(self.labels[at] == label, self.label_group[at], np.int16(-1))

    def dump(self) -> bytes:
        """The whole state. Equal states give equal bytes."""
        arrays = {name: getattr(self, name).astype(kind).tobytes() for name, kind in _KINDS.items()}
        return msgspec.msgpack.encode(_State(FORMAT, self.version, **arrays))

    def load(self, data: bytes) -> None:
        """Take over what ``dump`` gave, whole or not at all. Raises ValueError, with a sentence, on another format and on foreign
        bytes."""
        try:
            given = msgspec.msgpack.decode(data, type=_Format).format
            if given != FORMAT:
                raise ValueError(f"state of peer groups: format {given}, this release reads {FORMAT}")
            saved = msgspec.msgpack.decode(data, type=_State)
        except msgspec.MsgspecError as error:
            raise ValueError(f"state of peer groups: not a record of them ({error})") from None
        try:
            # A copy in the machine's own order of bytes.
            arrays = {name: np.frombuffer(getattr(saved, name), kind).astype(kind[1:]) for name, kind in _KINDS.items()}
            arrays["centres"] = arrays["centres"].reshape(len(arrays["ids"]), len(FEATURES))
        except ValueError as error:
            raise ValueError(f"state of peer groups: damaged ({error})") from None
        if not _sound(arrays):
            raise ValueError("state of peer groups: damaged (sizes or numbers that no training leaves behind)")
        self.version = saved.version
        for name, array in arrays.items():
            setattr(self, name, array)


#: Fields of the state with the types they are stored as.
_KINDS: Final = {
    "ids": "<i2",
    "centres": "<f8",
    "shift": "<f8",
    "scale": "<f8",
    "labels": "<u8",
    "label_group": "<i2",
    "fresh": "<i2",
}


def _shown(features: np.ndarray) -> np.ndarray:
    """bool[n]: who has shown enough to be judged by behaviour."""
    # Unknown is not enough: a comparison with NaN is false.
    shown: np.ndarray = features[:, 0] >= np.log1p(ENOUGH)
    return shown


def _sound(arrays: dict[str, np.ndarray]) -> bool:
    """Whether the arrays are such as training leaves behind."""
    ids, labels, groups = arrays["ids"], arrays["labels"], arrays["label_group"]
    sizes = len(arrays["shift"]) == len(arrays["scale"]) == len(FEATURES) and len(labels) == len(groups) <= MOST_LABELS
    ascending = bool(np.all(ids[1:] > ids[:-1]) and np.all(labels[1:] > labels[:-1]))
    finite = all(bool(np.isfinite(arrays[name]).all()) for name in ("centres", "shift", "scale"))
    known = bool(np.isin(groups[groups != -1], ids).all() and np.isin(arrays["fresh"], ids).all())
    return (
        sizes
        and ascending
        and finite
        and known
        and bool(np.all(arrays["scale"] > 0))
        and bool(np.all((ids >= 0) & (ids < MOST_GROUPS)))
    )
