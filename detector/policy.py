"""Containment policy as TOML says it: the ``[respond]`` table, and what is wrong with one.

Nothing is decided here: ``detector.wishes`` finds which measures an alert calls for, ``detector.kernel`` whether they are carried out.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

import msgspec

from connectors.containment import Verb, offered
from connectors.event import Stream
from connectors.names import KINDS, BadName, identity
from connectors.secret import Secret

Mode = Literal["observe", "propose", "approve", "enforce"]
#: The mode ladder. Each rung allows what those below it do.
LADDER: tuple[Mode, ...] = get_args(Mode)

Severity = Literal["low", "medium", "high", "critical"]
#: OCSF severity_id of each severity.
SEVERITIES: dict[Severity, int] = {"low": 2, "medium": 3, "high": 4, "critical": 5}

#: Shortest and longest containment, in seconds: below a minute nothing is verified in time; beyond 30 days it is no longer a stop-gap.
LONGEST_TTL = 30 * 86_400
Ttl = Annotated[int, msgspec.Meta(ge=60, le=LONGEST_TTL)]
Limit = Annotated[int, msgspec.Meta(ge=0, le=10_000)]
Percent = Annotated[float, msgspec.Meta(ge=0.0, le=100.0)]
Count = Annotated[int, msgspec.Meta(ge=0, le=1_000_000_000)]
#: A minute to a day: what a window or a pause can last.
Window = Annotated[int, msgspec.Meta(ge=60, le=86_400)]

#: Of the control plane: an action there can take down the cluster that everything else depends on.
SYSTEM = (
    *(f"{kind}:kube-{ns}/*" for kind in ("pod", "sa", "workload", "secret") for ns in ("system", "public", "node-lease")),
    "job:k8s/kube-*/*",
)

#: Signals that look at one thing from several sides: together they are one witness.
FAMILIES: dict[str, list[str]] = {
    "rate": ["actor_rate", "object_rate", "pair_rate", "day_volume"],
    "bytes": ["bytes_out", "size", "egress", "pair_volume", "byte_volume", "drip"],
    "partner": ["actor_at_object", "object_at_actor", "first_seen", "fan_out", "outward"],
}


class Match(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """Which alerts a rule is for: all of these must hold; an empty list means any."""

    min_severity: Severity = "high"
    #: Any of these streams, any of these signals among the alert's.
    streams: list[str] = []
    signals: list[str] = []
    #: Kinds of the blamed identity.
    blamed: list[str] = []
    #: Any of these labels, any of these classes among those of the alert's identities (``respond.assets``).
    labels: list[str] = []
    classes: list[str] = []
    #: Distinct signals, and accumulated evidence in nats, at least.
    min_signals: Annotated[int, msgspec.Meta(ge=1, le=100)] = 1
    min_evidence: Annotated[float, msgspec.Meta(ge=0.0)] = 0.0
    #: Of 100, as in the finding: 50 at the threshold, 82 three nats above it.
    min_confidence: Annotated[int, msgspec.Meta(ge=0, le=99)] = 0


class Measure(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """One action of a rule: done to every identity in the alert that the verb can act on."""

    verb: str
    mode: Mode = "observe"
    #: ``who``: those behind it and what they acted through. ``what``: what was acted on. ``keys``: keys named where one was released.
    aim: Literal["who", "what", "keys"] = "who"
    #: After this it is undone; 4 hours give a person of the next shift time to look. Without meaning for what cannot be undone.
    ttl_seconds: Ttl = 14_400
    #: Each time it is done again to the same target within a day of the last, the time is so many times longer.
    escalate: Annotated[float, msgspec.Meta(ge=1.0, le=4.0)] = 1.0
    #: At most so many uses of this verb in any hour, and at any time.
    max_per_hour: Limit = 5
    max_concurrent: Limit = 10
    #: Independent signals, at least, for doing it without a person.
    min_signals: Annotated[int, msgspec.Meta(ge=1, le=20)] = 1
    #: People who must approve it; one more than none in mode approve, two for what is destructive.
    approvals: Annotated[int, msgspec.Meta(ge=0, le=5)] = 0
    #: Not again to the same target within so many seconds.
    cooldown_seconds: Annotated[int, msgspec.Meta(ge=0, le=86_400)] = 300


class Rule(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """Alerts that match -> measures, in order."""

    name: str
    match: Match = Match()
    actions: list[Measure]


class Asset(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """What is known of identities that match a pattern."""

    patterns: list[str]
    #: "crown-jewel", "gpu-node"; and free words.
    class_: str = msgspec.field(default="", name="class")
    labels: list[str] = []


class Shares(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """Largest share of each population that may be contained at a time, in percent; at least one where it is above 0."""

    namespace: Percent = 100.0
    nodes: Percent = 100.0
    gpus: Percent = 100.0
    users: Percent = 100.0


class Population(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """How many there are: what the shares are shares of. A share below 100 of an unknown population (0) refuses every action."""

    users: Count = 0
    nodes: Count = 0
    gpus: Count = 0
    #: Pods of each namespace.
    namespaces: dict[str, Count] = {}
    #: GPUs of each node or job that matches a pattern; 0 for the others.
    gpus_of: dict[str, Count] = {}


class Breaker(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """So many actions gone wrong within the window (failed, unverified, taken back by a person): no more without a person."""

    wrong: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 3
    window_seconds: Window = 3_600


class Retry(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """How a call that may yet succeed is repeated: the pause doubles from ``first_seconds`` to ``most_seconds``, half by chance."""

    attempts: Annotated[int, msgspec.Meta(ge=0, le=20)] = 5
    first_seconds: Annotated[float, msgspec.Meta(gt=0.0, le=60.0)] = 2.0
    most_seconds: Annotated[float, msgspec.Meta(gt=0.0, le=3_600.0)] = 120.0
    #: Looks for an effect that lags, for so long at most.
    look_seconds: Annotated[float, msgspec.Meta(ge=0.0, le=3_600.0)] = 120.0


class Approver(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """Somebody who may approve: with a key by what is signed with it, without one by what their account on this machine wrote."""

    #: Ed25519 public key in PEM; or a secret shared with us, for HMAC-SHA256.
    public_key: str = ""
    secret: Secret | None = None


class LedgerSettings(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """Where the rows are, and where its head is kept besides."""

    #: SQLAlchemy's: "sqlite:///ledger.sqlite", "postgresql+psycopg://tocsin@host/tocsin". Never with a password in it.
    url: str = ""
    password: Secret | None = None
    #: The signed head is appended to this file: on another machine's disk, or one that only takes appends.
    anchor_file: str = ""
    #: Or is sent to the topic ``<kafka.prefix>.ledger``, where nobody can change what was written.
    anchor_topic: bool = False
    anchor_key: Secret | None = None
    #: A new anchor after so many rows, and after so long where there are any.
    anchor_rows: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 100
    anchor_seconds: Window = 300


def _first_rules() -> list[Rule]:
    """What a new installation observes: two signals agreeing on a grave alert would stop sessions, pods and jobs."""
    verbs = ("revoke_sessions", "isolate_pod", "suspend_job")
    return [Rule(name="grave", match=Match(min_signals=2), actions=[Measure(verb=verb) for verb in verbs])]


class Respond(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """The ``[respond]`` table."""

    #: The highest rung of the ladder that any rule can reach.
    mode: Mode = "observe"
    #: Nothing is begun while it is on, or while this file is there.
    kill_switch: bool = False
    kill_switch_file: str = ""
    #: Patterns of identities that are never acted on ("user:admin*", "sa:prod/*"); the control plane's are unless told otherwise.
    protected: list[str] = []
    protect_system: bool = True
    #: At most so many actions of any verb in any hour, and so many containments at any time.
    max_per_hour: Limit = 10
    max_concurrent: Limit = 20
    shares: Shares = Shares()
    population: Population = Population()
    #: An alert older than this is never acted on without a person; nor is a decision that was interrupted for longer.
    max_age_seconds: Annotated[int, msgspec.Meta(ge=1, le=86_400)] = 900
    #: Independent signals, at least, for any action without a person. Signals of one family are one witness.
    min_signals: Annotated[int, msgspec.Meta(ge=1, le=20)] = 1
    families: dict[str, list[str]] = msgspec.field(default_factory=lambda: dict(FAMILIES))
    breaker: Breaker = Breaker()
    retry: Retry = Retry()
    #: How long a question waits for people.
    approval_seconds: Ttl = 14_400
    #: Who may approve: identity -> where their key is; empty: whoever the channel of decisions vouches for.
    approvers: dict[str, Approver] = {}
    assets: list[Asset] = []
    #: Settings of each adapter that is set up, by its name.
    adapters: dict[str, dict[str, Any]] = {}
    ledger: LedgerSettings = LedgerSettings()
    #: Folder where the decisions of people are dropped, one file each; whoever owns the file has decided.
    decisions: str = ""
    rules: list[Rule] = msgspec.field(default_factory=_first_rules)


def problems(respond: Respond, verbs: Mapping[str, Verb] | None = None) -> list[str]:
    """What types cannot say, each as ``respond.key: expected ...``. ``verbs``: what is on offer, by default by all adapters."""
    known = offered() if verbs is None else verbs
    mistakes = [f"respond.protected[{i}]: {why}" for i, p in enumerate(respond.protected) if (why := spelled(p)[1])]
    assets = [(f"respond.assets[{i}].patterns", p) for i, asset in enumerate(respond.assets) for p in asset.patterns]
    mistakes += [f"{key}: {why}" for key, p in assets if (why := spelled(p)[1])]
    mistakes += [f"respond.population.gpus_of: {why}" for p in respond.population.gpus_of if (why := spelled(p)[1])]
    mistakes += [f"respond.approvers: {why}" for p in respond.approvers if (why := spelled(p)[1])]
    if respond.ledger.anchor_file and respond.ledger.anchor_topic:
        mistakes.append("respond.ledger: expected anchor_file or anchor_topic, got both")
    names = [rule.name for rule in respond.rules]
    for i, rule in enumerate(respond.rules):
        key = f"respond.rules[{i}]"
        if not rule.name or names.index(rule.name) != i:
            mistakes.append(f"{key}.name: expected a name of its own, got {rule.name!r}")
        if not rule.actions:
            mistakes.append(f"{key}.actions: expected at least one")
        mistakes += _unknown(f"{key}.match.streams", rule.match.streams, Stream.__members__)
        mistakes += _unknown(f"{key}.match.blamed", rule.match.blamed, KINDS)
        verbs_ = [measure.verb for measure in rule.actions]
        for j, measure in enumerate(rule.actions):
            if verbs_.index(measure.verb) != j:
                # A row names its rule and its verb: what counts for it later must be one measure.
                mistakes.append(f"{key}.actions[{j}].verb: expected each verb once in a rule; give {measure.verb} a rule of its own")
            mistakes += _unknown(f"{key}.actions[{j}].verb", [measure.verb], known)
    return mistakes


def _unknown(key: str, given: list[str], known: Mapping[str, object]) -> list[str]:
    return [f"{key}: expected one of {', '.join(known)}, got {item!r}" for item in given if item not in known]


def spelled(text: str) -> tuple[str, str]:
    """(the pattern in the spelling of identities, "") or ("", what was expected)."""
    kind, _, rest = text.partition(":")
    if kind not in KINDS or not rest:
        return "", f"expected 'kind:pattern', kind one of {', '.join(KINDS)}; got {text!r}"
    if not any(sign in rest for sign in "*?["):
        try:
            return identity(kind, rest), ""
        except BadName as error:
            return "", f"expected an identity: {error}"
    spelled = unicodedata.normalize("NFC", rest)
    return f"{kind}:{spelled.lower() if KINDS[kind] in ('fold', 'ip') else spelled}", ""
