"""What an alert says, as typed records: made by ``detector.fuse``, written as OCSF by ``connectors.ocsf``, read by the responder.

All times are microseconds since 1970 UTC, all surprises and scores are nats.
"""

from __future__ import annotations

from typing import Literal

import msgspec

#: Version of these records. A reader refuses a newer one.
ALERT_VERSION = 1


class Reason(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One signal's part in one piece of evidence: what it saw, what it expected, how rare that is."""

    #: Signal name (``models/signals/<signal>.py``).
    signal: str
    #: Calibrated surprise in nats: -ln of the share of (edge, hour) cells at least as surprising.
    surprise: float
    #: The value seen, the value expected, and the largest value that would have been unremarkable, all in ``unit``.
    seen: float | None
    expected: float | None
    usual: float | None
    unit: str
    #: The share of all (edge, hour) cells of this stream that looked at least as strange to this signal (the base rate), and the same
    #: among the cells of the actor's peer group; None where the group is unknown or too young to tell.
    base_rate: float
    base_rate_peers: float | None = None
    #: The sentence for people: seen against expected, and what would have been normal.
    text: str


class Evidence(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One surprising (edge, hour): its strongest event, and how many events it stands for."""

    time: int
    stream: str
    action: str
    outcome: str
    actor: str
    object: str
    #: The identity the record itself named (pod, IP, token), "" where it named the actor.
    via: str
    detail: str
    score: float
    reasons: list[Reason]
    #: Where the record is: source plug-in, raw partition (path in embedded use), offset (record number from 0), the sensor's id.
    source: str
    partition: str
    offset: int
    uid: str
    #: Surprising events of this edge in this hour so far, this one included.
    events: int
    #: Why the score is lower than the signals alone would make it ("scored late, not learned"), one sentence each.
    lowered: list[str]
    #: The actor's own base rate: hours in which it was active so far (fading over half a year), and hours in which it gave evidence.
    own_hours: float = 0.0
    own_strange: int = 0


class Alert(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One revision of one evolving finding about one blamed identity."""

    #: Deterministic: a hash of what opened it. The same over all revisions.
    uid: str
    #: Which line it came from, each with a budget of its own: "main" judges every event in its hour, "slow" what builds up over days.
    line: Literal["main", "slow"] = "main"
    #: What the detector has to say of itself, "" in an alert on someone's behaviour. Such an alert has no evidence and no principals.
    notice: str = ""
    revision: int
    activity: Literal["open", "update", "close"]
    #: Stream time of this revision, and of the opening.
    time: int
    opened: int
    first: int
    last: int
    blamed: str
    role: Literal["actor", "object"]
    #: The accountable identities behind it: the blamed actor, or the surprising actors at the blamed object. Containment acts on these.
    principals: list[str]
    #: Concrete identities seen in the evidence that containment could act on (pods, tokens, jobs, addresses).
    targets: list[str]
    #: Score of the opening event: immutable. ``threshold``: what the alert budget asked for at that moment.
    score: float
    threshold: float
    #: Accumulated evidence in nats (6 h leak), at this revision and at its highest.
    evidence_now: float
    evidence_peak: float
    #: OCSF severity_id, 2 low to 5 critical.
    severity: int
    #: Surprising events in all, distinct surprising partners.
    events: int
    partners: int
    signals: list[str]
    streams: list[str]
    actions: list[str]
    #: The strongest pieces of evidence, strongest first, at most ten.
    evidence: list[Evidence]
    #: Few days or events of history behind this judgement.
    probation: bool
    #: Records that were played back from a recording into the raw topics had a part in it: it is never acted upon.
    replayed: bool = False
