"""What ``benchmarks.containment_kafka`` acts on: many targets for every verb, on the fakes that ship with the adapters, over HTTP; or
on the real servers that ``python -m tests.containment_targets`` starts."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from connectors.containment._fake import Fake, Rehearsed
from connectors.containment._fake_harbor import FakeHarbor
from connectors.containment._fake_keycloak import FakeKeycloak
from connectors.containment._fake_kubernetes import FakeKubernetes
from connectors.containment._fake_mlflow import FakeMlflow
from connectors.containment._fake_oauth import FakeOauth
from connectors.containment._fake_openbao import FakeOpenbao
from connectors.containment._fake_slurm import FakeSlurm

SECRET = {"env": "TOCSIN_BENCH_SECRET"}
#: The environment of a responder that acts on these.
ENVIRONMENT = {"TOCSIN_BENCH_SECRET": Rehearsed().read(), "TOCSIN_BENCH_HOOK": "a key of more than twenty-four bytes"}
#: Verb -> its targets.
Targets = dict[str, list[str]]


class Stage(NamedTuple):
    """An adapter's settings, without the address of a fake, and what there is to act on."""

    settings: dict[str, Any]
    targets: Targets


def _keycloak(many: int) -> tuple[Fake, Stage]:
    fake, found = FakeKeycloak(), Targets()
    for verb in ("revoke_sessions", "revoke_offline", "disable_user", "require_step_up"):
        found[verb] = []
        for number in range(many):
            name = f"{verb.replace('_', '-')}-{number}"
            fake.live[f"of-{name}"] = (fake.add(name)["id"], verb == "revoke_offline")
            found[verb].append(f"user:{name}")
    for number in range(many):
        fake.clients[f"c{number}"] = {"id": f"c{number}", "clientId": f"client-{number}", "notBefore": 0}
    found["push_not_before"] = [f"client:client-{number}" for number in range(many)]
    return fake, Stage({"realm": "ai", "client_id": "tocsin", "client_secret": SECRET}, found)


def _openbao(many: int) -> tuple[Fake, Stage]:
    fake, all_ = FakeOpenbao(), range(many)
    for number in all_:
        fake.accessors[f"acc-{number}"] = {"accessor": f"acc-{number}", "entity_id": "e1"}
        fake.entities[f"b{number}"] = {
            "id": f"b{number}",
            "name": f"bench-{number}",
            "disabled": False,
            "metadata": None,
            "policies": [],
        }
        fake.keys[f"k{number}"] = {"name": f"k{number}", "latest_version": 1, "soft_deleted": False}
        fake.leases.add(f"database/creds/r{number}/l1")
    targets = {
        "revoke_token": [f"token:acc-{number}" for number in all_],
        "revoke_leases": [f"secret:database/creds/r{number}" for number in all_],
        "disable_entity": [f"user:bench-{number}" for number in all_],
        "withhold_key": [f"secret:transit/k{number}" for number in all_],
    }
    return fake, Stage({"token": SECRET}, targets)


def _kubernetes(many: int) -> tuple[Fake, Stage]:
    fake, all_ = FakeKubernetes(), range(many)
    core, batch = "/api/v1/namespaces/team-a", "/apis/batch/v1/namespaces/team-a"
    for number in all_:
        for what in ("isolate", "evict"):
            name = f"{what}-{number}"
            fake.put(f"{core}/pods/{name}", spec={"nodeName": "gpu-2"}, owner="replicas", labels={"app": "trainer"})
            fake.put(f"/apis/cilium.io/v2/namespaces/team-a/ciliumendpoints/{name}", status={"identity": {"labels": []}})
        fake.put(f"{core}/secrets/token-{number}", annotations={"kubernetes.io/service-account.name": "trainer"})
        fake.put(f"/api/v1/nodes/cordon-{number}")
        fake.put(f"/api/v1/nodes/taint-{number}")
        fake.put(f"{batch}/jobs/job-{number}", spec={"suspend": False}, status={"active": 1})
        labels = {"kueue.x-k8s.io/queue-name": "gpus"}
        job = fake.put(f"{batch}/jobs/queued-{number}", spec={"suspend": False}, status={"active": 1}, labels=labels)
        path = f"/apis/kueue.x-k8s.io/v1beta2/namespaces/team-a/workloads/w-{number}"
        fake.put(path, spec={"active": True}, owner=job["metadata"]["uid"])
    targets = {
        "isolate_pod": [f"pod:team-a/isolate-{number}" for number in all_],
        "evict_pod": [f"pod:team-a/evict-{number}" for number in all_],
        "rotate_bound_object": [f"secret:team-a/token-{number}" for number in all_],
        "cordon_node": [f"node:cordon-{number}" for number in all_],
        "taint_node": [f"node:taint-{number}" for number in all_],
        "suspend_job": [f"job:k8s/team-a/job-{number}" for number in all_],
        "suspend_kueue_workload": [f"job:k8s/team-a/queued-{number}" for number in all_],
    }
    return fake, Stage({"token": SECRET}, targets)


def _slurm(many: int) -> tuple[Fake, Stage]:
    fake, found = FakeSlurm(), Targets()
    for base, (verb, like) in enumerate({"hold_job": 12, "requeue_hold": 11, "cancel_job": 11}.items(), 1):
        found[verb] = [f"job:slurm/aifac/{base * 10_000 + number}" for number in range(many)]
        for number in range(many):
            fake.jobs[base * 10_000 + number] = {**copy.deepcopy(fake.jobs[like]), "job_id": base * 10_000 + number}
    fake.nodes |= {f"bench-{number}": {"name": f"bench-{number}", "state": ["IDLE"], "reason": ""} for number in range(many)}
    fake.associations += [{**copy.deepcopy(fake.associations[0]), "user": f"bench-{number}"} for number in range(many)]
    found |= {"drain_node": [f"node:bench-{number}" for number in range(many)]}
    found |= {"limit_user": [f"user:bench-{number}" for number in range(many)]}
    return fake, Stage({"username": "tocsin", "token": SECRET, "cluster": "aifac"}, found)


def _mlflow(many: int) -> tuple[Fake, Stage]:
    fake = FakeMlflow()
    fake.grants |= {f"bench-{number}": {} for number in range(many)}
    return fake, Stage({"password": SECRET}, {"deny_model": [f"user:bench-{number}" for number in range(many)]})


def _harbor(many: int) -> tuple[Fake, Stage]:
    fake = FakeHarbor()
    fake.robots |= {
        100 + number: {**copy.deepcopy(fake.robots[3]), "id": 100 + number, "name": f"robot$bench-{number}"} for number in range(many)
    }
    targets = {"disable_robot": [f"user:robot$bench-{number}" for number in range(many)]}
    return fake, Stage({"username": "robot$tocsin", "password": SECRET}, targets)


def _oauth(many: int) -> tuple[Fake, Stage]:
    fake = FakeOauth()
    tokens = {f"t{number}": {"env": f"TOCSIN_BENCH_TOKEN_{number}"} for number in range(many)}
    ENVIRONMENT.update({each["env"]: f"token-of-{name}" for name, each in tokens.items()})
    fake.live |= {f"token-of-{name}" for name in tokens}
    paths = {"revocation_path": "/revoke", "introspection_path": "/introspect"}
    return fake, Stage(
        {"client_id": "tocsin", "client_secret": SECRET, **paths, "tokens": tokens},
        {"revoke_oauth_token": [f"token:{name}" for name in tokens]},
    )


class _Accepts(Fake):
    """A receiver of messages that says yes."""

    def answer(self, ask: Any) -> Any:
        """202."""
        from connectors.containment._fake import Answer

        return Answer(202)


def _caep(many: int) -> tuple[Fake, Stage]:
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    ENVIRONMENT["TOCSIN_BENCH_PEM"] = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(*form).decode()
    given = {"issuer": "https://tocsin.test", "audience": "https://idp.test", "key_id": "k1", "subject_issuer": "https://idp.test"}
    return _Accepts(), Stage(
        {**given, "key": {"env": "TOCSIN_BENCH_PEM"}}, {"signal_risk_level": [f"user:bench-{number}" for number in range(many)]}
    )


def _webhook(many: int) -> tuple[Fake, Stage]:
    return _Accepts(), Stage({"key": {"env": "TOCSIN_BENCH_HOOK"}}, {"notify_soar": [f"user:bench-{number}" for number in range(many)]})


FAKES: dict[str, Callable[[int], tuple[Fake, Stage]]] = {
    "keycloak": _keycloak,
    "openbao": _openbao,
    "kubernetes": _kubernetes,
    "slurm": _slurm,
    "mlflow": _mlflow,
    "harbor": _harbor,
    "oauth": _oauth,
    "caep": _caep,
    "webhook": _webhook,
}


@contextmanager
def fakes(many: int) -> Iterator[dict[str, Stage]]:
    """Every fake as a server of this process, with so many targets for each verb."""
    with ExitStack() as servers:
        found = {}
        for name, make in FAKES.items():
            fake, stage = make(many)
            found[name] = Stage({"url": servers.enter_context(fake.serve()), **stage.settings}, stage.targets)
        yield found


@contextmanager
def real(many: int, folder: Path) -> Iterator[dict[str, Stage]]:
    """Keycloak and kube-apiserver, as far as they can be had."""
    # Benchmarks import nothing of the tests; servers are what this one gives when it is run.
    log = (folder / "servers.log").open("wb")
    with log:
        command = [sys.executable, "-m", "tests.containment_targets", str(many)]
        given = {**os.environ, **ENVIRONMENT}
        holder = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=given)  # noqa: S603 - our own module
    try:
        line = holder.stdout.readline() if holder.stdout else ""
        if not line:
            raise RuntimeError(f"no real server: {(folder / 'servers.log').read_text()[-500:]}")
        yield {name: Stage(**one) for name, one in json.loads(line).items()}
    finally:
        holder.send_signal(signal.SIGTERM)
        holder.wait(120)
