"""The factory at rest: who works there, what runs there, what it owns and where everything sits. Drawn once from the seed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from replay.simulate.places import GB, MB, address

#: The Internet the factory knows: documentation ranges of RFC 5737. 192.0.2.0/24 is left to the attackers.
_KNOWN_INTERNET = ("198.51.100", "203.0.113")
_TEAMS = ("vision", "speech", "language", "robotics", "bio", "climate", "code", "safety")
_FIRST = [
    "alice",
    "bruno",
    "carla",
    "deniz",
    "elena",
    "farid",
    "greta",
    "hugo",
    "ines",
    "jonas",
    "kavya",
    "liam",
    "mira",
    "nadir",
    "olga",
    "pavel",
    "qadira",
    "rafael",
    "sofia",
    "tomas",
    "ursula",
    "viktor",
    "wanda",
    "xenia",
    "yusuf",
    "zora",
    "anton",
    "beatriz",
    "chen",
    "dario",
    "emeka",
    "freya",
    "goran",
    "hana",
    "ilya",
    "jade",
    "karim",
    "lotte",
    "marek",
    "noor",
]
_FAMILIES = ("resnet", "whisper", "llama", "pilot", "fold", "storm", "coder", "guard", "clip", "mistral", "phi", "vits")
_SIZES = ("tiny", "base", "3b", "7b", "13b", "34b", "70b", "large")
#: Days on which new colleagues start: the third day, and a Tuesday in each of the two weeks that follow.
_HIRED = (2, 8, 15)
#: UTC offsets of the sites in minutes. None is far enough east for an office day to begin on the UTC day before.
_OFFSETS = (60, 60, 0, 120, -300, 60, -480, 330)
#: Weight files are split into shards of at most this size, as model tooling does.
_SHARD = 4_900 * MB


@dataclass(frozen=True, slots=True)
class Blob:
    """A layer in the registry."""

    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class Model:
    """A model in the registry: a manifest, small blobs (configuration, tokenizer) and weight shards."""

    repository: str
    team: int
    digest: str
    small: tuple[Blob, ...]
    weights: tuple[Blob, ...]

    @property
    def size(self) -> int:
        """Bytes of the weights."""
        return sum(blob.size for blob in self.weights)


@dataclass(frozen=True, slots=True)
class User:
    """A person. ``begins`` and ``ends``: usual office hours, local minutes of the day; ``offset``: local minus UTC, minutes."""

    index: int
    name: str
    uid: str
    team: int
    offset: int
    begins: int
    ends: int
    workstations: tuple[str, ...]
    vpn: str
    models: tuple[int, ...]
    sites: tuple[str, ...]
    pace: float
    admin: bool
    joins: int


@dataclass(frozen=True, slots=True)
class Account:
    """A service account of the cluster."""

    namespace: str
    name: str

    @property
    def username(self) -> str:
        """How Kubernetes spells it."""
        return f"system:serviceaccount:{self.namespace}:{self.name}"

    @property
    def identity(self) -> str:
        """How we spell it."""
        return f"sa:{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Service:
    """A workload that runs all the time. ``rolls``: whether new versions are rolled out now and then."""

    account: Account
    team: int
    kind: str
    replicas: int
    rolls: bool


@dataclass(frozen=True, slots=True)
class Bot:
    """A machine user: a CI runner or an LLM agent, with an OIDC client of its own and a fixed address."""

    index: int
    kind: str
    client: str
    uid: str
    address: str
    team: int
    models: tuple[int, ...]

    @property
    def username(self) -> str:
        """The name Keycloak gives a client's service account."""
        return f"service-account-{self.client}"


@dataclass(frozen=True)
class Factory:
    """Everything that stays what it is for the whole simulation. ``addresses``: of the nodes, where they are not by number."""

    teams: tuple[str, ...]
    users: tuple[User, ...]
    services: tuple[Service, ...]
    bots: tuple[Bot, ...]
    models: tuple[Model, ...]
    nodes: tuple[str, ...]
    internet: tuple[str, ...]
    addresses: tuple[str, ...] = ()

    def account(self, team: int, role: str) -> Account:
        """The service account of a team's role (``trainer``, ``evaluator``, ``serving``, ``loader``, ``notebook``)."""
        return Account(self.teams[team], role)

    @cached_property
    def accounts(self) -> tuple[Account, ...]:
        """Every service account."""
        roles = ("trainer", "evaluator", "serving", "loader", "notebook")
        own = tuple(Account(team, role) for team in self.teams for role in roles)
        return own + tuple(service.account for service in self.services if service.team < 0)

    def team_models(self, team: int) -> list[int]:
        """Indices of a team's models."""
        return [i for i, model in enumerate(self.models) if model.team == team]

    def node_address(self, node: int) -> str:
        """The address of a GPU node."""
        return self.addresses[node] if self.addresses else address("10.16", node)


def uuid(rng: np.random.Generator) -> str:
    """A version 4 UUID."""
    raw = rng.bytes(16).hex()
    return f"{raw[:8]}-{raw[8:12]}-4{raw[13:16]}-{'89ab'[int(raw[16], 16) & 3]}{raw[17:20]}-{raw[20:]}"


def digest(rng: np.random.Generator) -> str:
    """A SHA-256 digest as the registry spells it."""
    return f"sha256:{rng.bytes(32).hex()}"


def build(rng: np.random.Generator, scale: float, days: int = 7) -> Factory:
    """A factory of ``scale`` times the usual size: at 1 five teams, 40 people, 16 nodes, 12 bots and 30 models. The newest people come
    while it is watched, as far as ``days`` allow.

    However small, it keeps enough of everything for every attack to have a victim and a place.
    """
    count = max(2, round(5 * scale))
    teams = tuple(_TEAMS[i % len(_TEAMS)] + (f"-{i // len(_TEAMS) + 1}" if i >= len(_TEAMS) else "") for i in range(count))
    internet = tuple(f"{net}.{host}" for net in _KNOWN_INTERNET for host in range(1, 250))
    models = _models(rng, teams, max(30, round(30 * scale)))
    return Factory(
        teams=teams,
        users=_users(rng, teams, models, internet, max(8, round(40 * scale)), days),
        services=_services(teams),
        bots=_bots(rng, teams, models, max(4, round(12 * scale))),
        models=models,
        nodes=tuple(f"gpu-{i:02d}" for i in range(max(4, round(16 * scale)))),
        internet=internet,
    )


def _models(rng: np.random.Generator, teams: tuple[str, ...], count: int) -> tuple[Model, ...]:
    # Log-normal with a median of 14 GB, as open-weight releases spread; kept to what one registry holds.
    sizes = np.clip(rng.lognormal(np.log(14), 1.2, count), 0.5, 140) * GB
    found = []
    for i, size in enumerate(sizes.astype(np.int64).tolist()):
        team = i % len(teams)
        family, flavour = _FAMILIES[i % len(_FAMILIES)], _SIZES[int(rng.integers(len(_SIZES)))]
        shards = max(1, -(-size // _SHARD))
        found.append(
            Model(
                repository=f"{teams[team]}/{family}-{flavour}-{i:02d}",
                team=team,
                digest=digest(rng),
                small=(Blob(digest(rng), int(rng.integers(600, 3000))), Blob(digest(rng), int(rng.integers(1, 9) * MB))),
                weights=tuple(Blob(digest(rng), size // shards) for _ in range(shards)),
            )
        )
    return tuple(found)


def _habits(rng: np.random.Generator, team: int, models: tuple[Model, ...], own: int) -> tuple[int, ...]:
    """Models somebody uses: ``own`` of the team's, and the first one, which everybody builds on."""
    mine = [i for i, model in enumerate(models) if model.team == team]
    chosen = rng.choice(mine, min(own, len(mine)), replace=False)
    return tuple(sorted({0, *chosen.tolist()}))


def _users(
    rng: np.random.Generator, teams: tuple[str, ...], models: tuple[Model, ...], internet: tuple[str, ...], count: int, days: int
) -> tuple[User, ...]:
    # The last of all first, as ever; those who would come after the end were always there.
    joins = {count - 1 - place: day for place, day in enumerate(_HIRED) if place == 0 or day < days}
    users = []
    for i in range(count):
        begins = int(rng.integers(7 * 60 + 30, 10 * 60))
        users.append(
            User(
                index=i,
                name=_FIRST[i % len(_FIRST)] + (str(i // len(_FIRST) + 1) if i >= len(_FIRST) else ""),
                uid=uuid(rng),
                team=i % len(teams),
                # Two sites a team.
                offset=_OFFSETS[(i % len(teams) + (i // len(teams) % 2) * 3) % len(_OFFSETS)],
                begins=begins,
                ends=begins + int(rng.integers(8 * 60, 10 * 60)),
                workstations=tuple(address("10.20", 2 * i + k) for k in range(1 + int(rng.random() < 0.4))),
                vpn=address("10.30", i),
                # At most four of thirty or more, so that there are always models a person never touches.
                models=_habits(rng, i % len(teams), models, 3),
                sites=tuple(rng.choice(internet, 12, replace=False).tolist()),
                pace=float(np.clip(rng.lognormal(0, 0.5), 0.3, 4)),
                admin=i < max(1, count // 20),
                joins=joins.get(i, 0),
            )
        )
    return tuple(users)


def _services(teams: tuple[str, ...]) -> tuple[Service, ...]:
    own = [
        service
        for i, team in enumerate(teams)
        for service in (
            Service(Account(team, "serving"), i, "serving", 2, True),
            # Stateful: it moves only when its node is drained.
            Service(Account(team, "loader"), i, "loader", 2, False),
        )
    ]
    platform = [
        Service(Account("monitoring", "prometheus"), -1, "prometheus", 1, False),
        Service(Account("ingress", "gateway"), -1, "gateway", 2, True),
        Service(Account("backup", "backup"), -1, "backup", 1, False),
        Service(Account("registry", "janitor"), -1, "janitor", 1, False),
    ]
    return tuple(own + platform)


def _bots(rng: np.random.Generator, teams: tuple[str, ...], models: tuple[Model, ...], count: int) -> tuple[Bot, ...]:
    bots = []
    for i in range(count):
        kind = ("ci", "agent")[i % 2]
        team = i // 2 % len(teams)
        bots.append(Bot(i, kind, f"{kind}-{i // 2:02d}", uuid(rng), address("10.18", i), team, _habits(rng, team, models, 1)))
    return tuple(bots)
