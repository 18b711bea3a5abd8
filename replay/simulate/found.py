"""Who and what is found in a recorded trace: its people, machine users, pods, models, nodes and servers, as a factory."""

from __future__ import annotations

import ipaddress
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np

from connectors.event import DAY, MINUTE, Basis
from replay.simulate.background import Background, each_record, scan
from replay.simulate.cluster import Pod
from replay.simulate.factory import Account, Blob, Bot, Factory, Model, Service, User, uuid
from replay.simulate.places import Hosts
from replay.timed import Timed

#: Pairs of addresses, identities and pods remembered at most; a trace of more has enough by then.
_MOST = 200_000
#: People, models and places remembered at most of each kind, and of one of them its places, models and blobs: a factory of the largest
#: size we simulate has 8,000 people.
_NAMES, _OF_ONE = 50_000, 500
#: A blob from this size on is taken for weights.
_WEIGHTS = 10_000_000
#: Namespaces in which nobody's work lives.
_PLATFORM = ("kube-", "monitoring", "ingress", "backup", "registry", "cert-", "default")


class Host(Account):
    """An address of which nothing more is known, in the place of a service account."""

    @property
    def identity(self) -> str:
        """How we spell it."""
        return f"ip:{self.name}"


class HostPod(Pod):
    """An address in the place of a pod."""

    @property
    def identity(self) -> str:
        """How we spell it."""
        return self.account.identity


class FoundPods:
    """Pods that a trace tells of, or, where it tells of none, its busiest addresses."""

    def __init__(self, pods: list[Pod], teams: tuple[str, ...], outside: dict[str, str], anywhere: str) -> None:
        self.pods = pods
        self._teams = teams
        self._outside = outside
        self._anywhere = anywhere
        # By the names of replicas nobody can tell a service from another: to a scenario each is one that runs all the time.
        self.working = [(Service(pod.account, self._team(pod), "loader", 1, False), pod) for pod in pods]

    def _team(self, pod: Pod) -> int:
        return self._teams.index(pod.namespace) if pod.namespace in self._teams else 0

    def alive(self, begin: int, end: int, role: str, team: int) -> list[Pod]:
        """A team's pods that live through [begin, end], whatever their role."""
        return [
            pod for service, pod in self.working if service.team == team and pod.born <= begin and (pod.dies is None or pod.dies >= end)
        ]

    def outside(self, pod: Pod) -> str:
        """Where outside it sends most, else where anybody does."""
        return self._outside.get(pod.address, self._anywhere)


class Finder:
    """Takes a trace in, batch by batch; ``factory``, ``pods`` and ``hosts`` say what was found. What it remembers is bounded,
    whatever names a trace makes up: past a bound no new name is taken up, those known count on."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._flows: Counter[tuple[str, str, str]] = Counter()
        self._moved: Counter[tuple[str, str]] = Counter()
        self._hours: defaultdict[str, Counter[int]] = defaultdict(Counter)
        self._places: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._used: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._blobs: defaultdict[str, dict[str, int]] = defaultdict(dict)
        self._manifests: dict[str, str] = {}
        self._registries: Counter[str] = Counter()
        self._people: dict[str, str] = {}
        self._accounts: Counter[str] = Counter()
        self._pods: dict[str, Pod] = {}
        self._nodes: dict[str, str] = {}
        self._clients: set[str] = set()

    def read(self, background: Background) -> None:
        """Read a trace. Raises TraceError."""
        scan(
            background,
            {
                "zeek_conn": self._conn,
                "oci_notifications": self._registry,
                "slurm_jobcomp": self._slurm,
                "kubernetes_audit": self._kubernetes,
                "keycloak_events": self._keycloak,
                "nvidia_attestation": self._attestation,
            },
        )

    def _conn(self, batch: Timed) -> None:
        block, names = batch.block, batch.block.names.values
        bytes_ = np.nan_to_num(block.bytes_out) + np.nan_to_num(block.bytes_in)
        basis = block.bytes_basis != Basis.none
        for actor, object_, detail, size, known in zip(
            block.actor.tolist(), block.object.tolist(), block.detail.tolist(), bytes_.tolist(), basis.tolist(), strict=True
        ):
            key = (names[actor].removeprefix("ip:"), names[object_].removeprefix("ip:"), names[detail] if detail >= 0 else "")
            if len(self._flows) < _MOST or key in self._flows:
                self._flows[key] += 1
                self._moved[key[1], key[2]] += int(size) if known else 0

    def _seen(self, name: str, place: str, time: int) -> None:
        if _room(self._hours, name):
            self._hours[name][time % DAY // MINUTE] += 1
        if place and _room(self._places, name):
            _count(self._places[name], place, _OF_ONE)

    def _registry(self, batch: Timed) -> None:
        for record, time in each_record(batch):
            for event in _list(record.get("events")):
                target, request = _dict(event.get("target")), _dict(event.get("request"))
                name, repository = str(_dict(event.get("actor")).get("name") or ""), str(target.get("repository") or "")
                if not repository:
                    continue
                _count(self._registries, str(request.get("host") or ""), _NAMES)
                if target.get("references"):
                    _put(self._manifests, repository, str(target.get("digest")), _NAMES)
                elif _room(self._blobs, repository):
                    _put(self._blobs[repository], str(target.get("digest")), _int(target.get("size")), _OF_ONE)
                if name and _room(self._used, name):
                    _count(self._used[name], repository, _OF_ONE)
                if name:
                    self._seen(name, _host(str(request.get("addr") or "")), time)

    def _slurm(self, batch: Timed) -> None:
        for record, time in each_record(batch):
            name = str(record.get("username") or "")
            if name not in self._people:
                _put(self._people, name, "", _NAMES)
            self._seen(name, "", time)
            _count(self._accounts, str(record.get("account") or ""), _NAMES)
            nodes = str(record.get("nodes") or "")
            if nodes and "[" not in nodes and "," not in nodes:
                self._node(nodes)

    def _node(self, name: str) -> None:
        if name not in self._nodes:
            _put(self._nodes, name, "", _NAMES)

    def _kubernetes(self, batch: Timed) -> None:
        for record, time in each_record(batch):
            user, answer = _dict(record.get("user")), _dict(record.get("responseObject"))
            name, extra = str(user.get("username") or ""), _dict(user.get("extra"))
            place = str((_list(record.get("sourceIPs"), str) or [""])[-1])
            if name and not name.startswith("system:"):
                if name not in self._people:
                    _put(self._people, name, "", _NAMES)
                self._seen(name, place, time)
            bound = _list(extra.get("authentication.kubernetes.io/pod-name"), str)
            token = _list(extra.get("authentication.kubernetes.io/credential-id"), str)
            if bound and token:
                namespace = name.removeprefix("system:serviceaccount:").partition(":")[0]
                pod = self._pods.get(f"{namespace}/{bound[0]}")
                if pod is not None:
                    pod.credential = token[0].removeprefix("JTI=")
            if answer.get("kind") == "Pod":
                self._pod(answer, str(record.get("verb")), time)

    def _pod(self, answer: dict[str, Any], verb: str, time: int) -> None:
        metadata, spec, status = _dict(answer.get("metadata")), _dict(answer.get("spec")), _dict(answer.get("status"))
        if spec.get("nodeName") and status.get("hostIP"):
            _put(self._nodes, str(spec["nodeName"]), str(status["hostIP"]), _NAMES)
        if not metadata.get("namespace") or not metadata.get("name"):
            return
        path = f"{metadata['namespace']}/{metadata['name']}"
        known = self._pods.get(path)
        if verb == "delete" or status.get("phase") in ("Succeeded", "Failed"):
            if known is not None and known.dies is None:
                known.dies = time
        elif known is None and status.get("podIP") and spec.get("serviceAccountName") and len(self._pods) < _MOST:
            account = Account(str(metadata["namespace"]), str(spec["serviceAccountName"]))
            owner = _list(metadata.get("ownerReferences")) or [{}]
            self._pods[path] = Pod(
                namespace=account.namespace,
                name=str(metadata["name"]),
                uid=str(metadata.get("uid") or uuid(self._rng)),
                address=str(status["podIP"]),
                account=account,
                owner=(str(owner[0].get("kind") or ""), str(owner[0].get("name") or "")),
                node=0,
                born=time,
                dies=None,
                user="",
                credential=uuid(self._rng),
            )

    def _keycloak(self, batch: Timed) -> None:
        for record, time in each_record(batch):
            name = str(_dict(record.get("details")).get("username") or "")
            if name and record.get("type") in ("LOGIN", "CLIENT_LOGIN"):
                _put(self._people, name, str(record.get("userId") or ""), _NAMES)
                self._seen(name, str(record.get("ipAddress") or ""), time)
                if len(self._clients) < _NAMES:
                    self._clients.add(str(record.get("ipAddress") or ""))

    def _attestation(self, batch: Timed) -> None:
        for record, _ in each_record(batch):
            self._node(str(record.get("node")))

    # --- what was found

    def teams(self) -> tuple[str, ...]:
        """Namespaces with pods of their own, else the accounts of jobs, else one."""
        spaces = {pod.namespace for pod in self._pods.values() if not pod.namespace.startswith(_PLATFORM)}
        return tuple(sorted(spaces)) or tuple(sorted(name for name in self._accounts if name)) or ("default",)

    def factory(self) -> Factory:
        """All that stays what it is."""
        teams = self.teams()
        models = self._models(teams)
        number = {model.repository: i for i, model in enumerate(models)}
        named = sorted({*self._people, *(name for name in self._used if not name.startswith("system:"))} - {""})
        people = [name for name in named if not name.startswith("service-account-")]
        users = [self._user(i, name, teams, number) for i, name in enumerate(people)]
        bots = [self._bot(i, name, teams, number) for i, name in enumerate(named) if name.startswith("service-account-")]
        nodes = sorted(self._nodes)
        addresses = tuple(self._nodes[name] or f"10.16.200.{i % 254 + 1}" for i, name in enumerate(nodes))
        return Factory(teams, tuple(users), (), tuple(bots), models, tuple(nodes), self._internet(), addresses)

    def _models(self, teams: tuple[str, ...]) -> tuple[Model, ...]:
        found: list[Model] = []
        for repository in sorted(self._blobs):
            blobs = [Blob(digest, size) for digest, size in sorted(self._blobs[repository].items())]
            small = tuple(blob for blob in blobs if blob.size < _WEIGHTS)
            weights = tuple(blob for blob in blobs if blob.size >= _WEIGHTS)
            owner = repository.partition("/")[0]
            team = teams.index(owner) if owner in teams else len(found) % len(teams)
            digest = self._manifests.get(repository, f"sha256:{self._rng.bytes(32).hex()}")
            found.append(Model(repository, team, digest, small, weights or small[-1:]))
        return tuple(found)

    def _user(self, index: int, name: str, teams: tuple[str, ...], number: dict[str, int]) -> User:
        places = [place for place, _ in self._places[name].most_common(2)] or [f"10.20.250.{index % 254 + 1}"]
        begins, ends = _office(self._hours[name])
        models = self._models_of(name, number)
        uid = self._people.get(name) or uuid(self._rng)
        return User(index, name, uid, index % len(teams), 0, begins, ends, tuple(places), places[-1], models, (), 1.0, False, 0)

    def _models_of(self, name: str, number: dict[str, int]) -> tuple[int, ...]:
        """What somebody uses most, of the models whose blobs are known."""
        return tuple(sorted(number[repository] for repository, _ in self._used[name].most_common(8) if repository in number))

    def _bot(self, index: int, name: str, teams: tuple[str, ...], number: dict[str, int]) -> Bot:
        place = next((place for place, _ in self._places[name].most_common(1)), f"10.18.250.{index % 254 + 1}")
        client = name.removeprefix("service-account-")
        models = self._models_of(name, number)
        kind = "agent" if "agent" in client else "ci"
        return Bot(index, kind, client, self._people.get(name) or uuid(self._rng), place, index % len(teams), models)

    def _internet(self) -> tuple[str, ...]:
        far = Counter[str]()
        for (_, target, _), many in self._flows.items():
            if _is_outside(target):
                far[target] += many
        return tuple(address for address, _ in far.most_common(500)) or ("198.51.100.7",)

    def pods(self) -> FoundPods:
        """Pods, or the addresses inside that open most connections."""
        sends: defaultdict[str, Counter[str]] = defaultdict(Counter)
        active = Counter[str]()
        for (actor, target, _), many in self._flows.items():
            active[actor] += many
            if _is_outside(target):
                sends[actor][target] += many
        usual = {actor: targets.most_common(1)[0][0] for actor, targets in sends.items()}
        pods = [pod for pod in self._pods.values() if not pod.namespace.startswith(_PLATFORM)]
        if not pods:
            inside = [address for address, _ in active.most_common(200) if not _is_outside(address)][:20]
            pods = [self._host(address) for address in inside]
        teams = self.teams()
        return FoundPods(pods, teams, usual, self._internet()[0])

    def _host(self, address: str) -> Pod:
        account = Host("", address)
        return HostPod(self.teams()[0], address, uuid(self._rng), address, account, ("", ""), 0, 0, None, "", uuid(self._rng))

    def hosts(self) -> Hosts:
        """Where the servers are, by what they are asked: a guess that keeps to addresses of the trace."""
        known = Hosts()

        def busiest(*details: str) -> str:
            found = Counter[str]()
            for (_, target, detail), many in self._flows.items():
                if detail in details and not _is_outside(target):
                    found[target] += many
            return found.most_common(1)[0][0] if found else ""

        web = Counter({key: size for key, size in self._moved.items() if key[1] in ("tcp/443", "tcp/5000") and not _is_outside(key[0])})
        registry = next((key[0] for key, _ in web.most_common(1)), "")
        asked = Counter[str]()
        for (actor, target, detail), many in self._flows.items():
            if actor in self._clients and detail in ("tcp/443", "tcp/8443", "tcp/8080") and not _is_outside(target):
                asked[target] += many
        login = next((target for target, _ in asked.most_common(4) if target != registry), "")
        return known._replace(
            apiserver=busiest("tcp/6443") or busiest("tcp/443") or known.apiserver,
            registry=registry or known.registry,
            keycloak=login or busiest("tcp/443") or known.keycloak,
            ingress=busiest("tcp/443") or known.ingress,
            dns=busiest("udp/53") or known.dns,
            login=busiest("tcp/22") or known.login,
            storage=busiest("tcp/2049", "tcp/9000") or known.storage,
            registry_name=next((host for host, _ in self._registries.most_common(1) if host), known.registry_name),
        )


def _room(found: Mapping[str, object], name: str) -> bool:
    """Whether a name is known or can still be taken up."""
    return name in found or len(found) < _NAMES


def _count(found: Counter[str], name: str, most: int) -> None:
    if name in found or len(found) < most:
        found[name] += 1


def _put(found: dict[str, Any], name: str, value: object, most: int) -> None:
    if name in found or len(found) < most:
        found[name] = value


def _office(minutes: Counter[int]) -> tuple[int, int]:
    """Minutes of the day (UTC) between which four fifths of somebody's records lie; at least four hours."""
    spread = sorted(minutes.elements())
    if not spread:
        return 9 * 60, 17 * 60
    begins, ends = spread[len(spread) // 10], spread[-1 - len(spread) // 10]
    return begins, max(ends, begins + 4 * 60)


def _is_outside(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_global or address.startswith(("198.51.100.", "203.0.113.", "192.0.2."))
    except ValueError:
        return False


def _host(text: str) -> str:
    return text.rpartition(":")[0].strip("[]") if text.count(":") == 1 or "]" in text else text


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object, kind: type = dict) -> list[Any]:
    return [item for item in value if isinstance(item, kind)] if isinstance(value, list) else []


def _int(value: object) -> int:
    return int(value) if isinstance(value, int | float) and 0 <= value < 2**60 else 0
