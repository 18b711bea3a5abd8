"""A real Kubernetes control plane for tests: etcd, kube-apiserver, kube-controller-manager, and kwok for nodes whose pods run.

Built from source where absent, ten minutes of CPU once, into ``${XDG_CACHE_HOME:-~/.cache}/tocsin/kube``; needs ``go``.
Two runs that find nothing wait for one build. Started on free ports of 127.0.0.1 in four to five seconds, for the whole session, by the
fixture ``kube``. There is no network plugin and no scheduler: a pod runs where its ``spec.nodeName`` says.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.ports import free_port

KUBERNETES, ETCD, KWOK = "1.36.3", "3.6.16", "0.8.0"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tocsin" / "kube"
#: Longest a build of one component may take, in seconds: ten times what it takes on two cores.
BUILD_TIMEOUT = 6000
#: Longest a component may take to answer, in seconds: on a busy machine of two cores it is about ten.
START_TIMEOUT = 120
ADMIN = "admin-token"
#: Stages of kwok, from its own module: nodes ready with a lease, pods running at once and gone at once.
STAGES = (
    "node/fast/node-initialize",
    "node/heartbeat-with-lease/node-heartbeat-with-lease",
    "pod/fast/pod-ready",
    "pod/fast/pod-delete",
)
CONTROLLERS = (
    "job-controller,disruption-controller,serviceaccount-controller,namespace-controller,node-lifecycle-controller,"
    "taint-eviction-controller,replicaset-controller,deployment-controller,garbage-collector-controller,pod-garbage-collector-controller"
)


def _go(folder: Path, *arguments: str, **variables: str) -> str:
    """A command of Go in a folder of its own; mostly silent, at the lowest priority."""
    given = {**os.environ, "GOFLAGS": "-mod=mod -p=2 -buildvcs=false", **variables}
    done = subprocess.run(  # noqa: S603 - our own words
        [shutil.which("nice") or "nice", "-n", "19", "go", *arguments],
        cwd=folder,
        env=given,
        capture_output=True,
        text=True,
        timeout=BUILD_TIMEOUT,
    )
    if done.returncode:
        raise RuntimeError(f"go {' '.join(arguments[:2])}: {done.stderr[-2000:]}")
    return done.stdout


def _build_kubernetes(part: str, work: Path, out: Path) -> None:
    """One component of Kubernetes. Its module names its staging modules at v0.0.0: they are pointed at the release's."""
    module = "k8s.io/kubernetes"
    _go(work, "mod", "init", "build")
    _go(work, "mod", "edit", f"-require={module}@v{KUBERNETES}")
    listed = json.loads(_go(work, "mod", "download", "-json", f"{module}@v{KUBERNETES}"))
    required = json.loads(_go(work, "mod", "edit", "-json", listed["GoMod"]))["Require"]
    staging = [one["Path"] for one in required if one["Path"].startswith("k8s.io/") and one["Version"] == "v0.0.0"]
    _go(work, "mod", "edit", *(f"-replace={one}={one}@v0.{KUBERNETES.partition('.')[2]}" for one in staging))
    flags = f"-s -w -X k8s.io/component-base/version.gitVersion=v{KUBERNETES}"
    _go(work, "build", "-ldflags", flags, "-o", str(out), f"{module}/cmd/{part}")


def _build_etcd(work: Path, out: Path) -> None:
    _go(work, "mod", "init", "build")
    _go(work, "get", f"go.etcd.io/etcd/server/v3@v{ETCD}")
    _go(work, "build", "-ldflags", "-s -w", "-o", str(out), "go.etcd.io/etcd/server/v3")


def _build_kwok(work: Path, out: Path) -> None:
    _go(work, "install", f"sigs.k8s.io/kwok/cmd/kwok@v{KWOK}", GOBIN=str(work))
    (work / "kwok").rename(out)


def _build_stages(work: Path, out: Path) -> None:
    found = json.loads(_go(work, "mod", "download", "-json", f"sigs.k8s.io/kwok@v{KWOK}"))
    stages = Path(found["Dir"]) / "kustomize" / "stage"
    out.write_text("\n---\n".join((stages / f"{stage}.yaml").read_text() for stage in STAGES))


#: File in the cache -> what makes it.
PARTS: dict[str, Callable[[Path, Path], None]] = {
    f"etcd-{ETCD}": _build_etcd,
    f"kube-apiserver-{KUBERNETES}": partial(_build_kubernetes, "kube-apiserver"),
    f"kube-controller-manager-{KUBERNETES}": partial(_build_kubernetes, "kube-controller-manager"),
    f"kwok-{KWOK}": _build_kwok,
    f"kwok-stages-{KWOK}.yaml": _build_stages,
}


def build() -> dict[str, Path]:
    """The components by name, made where they are absent. Raises RuntimeError where they cannot be."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for name, make in PARTS.items():
            if (CACHE / name).exists():
                continue
            if not shutil.which("go"):
                raise RuntimeError(f"{CACHE / name} is absent, and so is go to build it")
            with tempfile.TemporaryDirectory(dir=CACHE) as work:
                make(Path(work), Path(work) / "made")
                (Path(work) / "made").rename(CACHE / name)
    return {name.rpartition("-")[0]: CACHE / name for name in PARTS}


def until(what: str, holds: Callable[[], Any], seconds: float = START_TIMEOUT) -> Any:
    """What ``holds`` gives once it is true. Fails the test with ``what`` after ``seconds``."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = holds()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds:.0f} s: {what}")


class Kube:
    """The control plane while it runs. ``call`` speaks to it as its administrator."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.url = f"https://127.0.0.1:{port}"
        self.ca = folder / "certs" / "apiserver.crt"
        self.processes: list[subprocess.Popen[bytes]] = []
        self._client: httpx.Client | None = None

    def call(self, method: str, path: str, body: Any = None, *, token: str = ADMIN, form: str = "application/json") -> httpx.Response:
        """One request; any answer is an answer."""
        if self._client is None:
            trusted = ssl.create_default_context(cafile=self.ca)
            self._client = httpx.Client(base_url=self.url, verify=trusted, timeout=30, trust_env=False)
        headers = {"Authorization": f"Bearer {token}", "Content-Type": form}
        return self._client.request(method, path, headers=headers, content=None if body is None else json.dumps(body))

    def ask(self, method: str, path: str, body: Any = None, *, form: str = "application/json") -> Any:
        """One request that must succeed; its answer."""
        reply = self.call(method, path, body, form=form)
        assert reply.status_code < 300, f"{method} {path}: {reply.status_code} {reply.text[:500]}"
        return reply.json()

    def merge(self, path: str, body: Any) -> Any:
        """A merge patch that must succeed."""
        return self.ask("PATCH", path, body, form="application/merge-patch+json")

    def apply(self, text: str, namespace: str = "") -> list[dict[str, Any]]:
        """Create the objects of a YAML text, in a namespace where they have none and need one; those that exist are left alone."""
        objects = [one for one in yaml.safe_load_all(text) if one]
        for one in objects:
            reply = self.call("POST", collection(one, namespace), one)
            assert reply.status_code in (200, 201, 409), f"{one['kind']} {one['metadata']['name']}: {reply.text[:500]}"
        return objects

    def token(self, namespace: str, account: str, **bound: str) -> str:
        """A token of a service account, bound to an object where ``kind``, ``name`` and ``uid`` are given."""
        spec: dict[str, Any] = {"expirationSeconds": 3600}
        if bound:
            spec["boundObjectRef"] = {"apiVersion": "v1", **bound}
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
        made: str = self.ask("POST", path, {"spec": spec})["status"]["token"]
        return made

    def close(self) -> None:
        """Stop everything that was started, by its id, the youngest first."""
        if self._client is not None:
            self._client.close()
        for process in reversed(self.processes):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


#: Kinds whose objects are in no namespace, and kinds whose plural is not made with an s.
_CLUSTERWIDE = {
    "ClusterRole",
    "ClusterRoleBinding",
    "CustomResourceDefinition",
    "CiliumClusterwideNetworkPolicy",
    "Namespace",
    "Node",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
}


def collection(one: dict[str, Any], namespace: str = "") -> str:
    """The path to which an object is posted."""
    version, kind = one["apiVersion"], one["kind"]
    root = f"/apis/{version}" if "/" in version else f"/api/{version}"
    plural = f"{kind.lower()[:-1]}ies" if kind.endswith("y") else f"{kind.lower()}s"
    if kind in _CLUSTERWIDE:
        return f"{root}/{plural}"
    return f"{root}/namespaces/{one['metadata'].get('namespace') or namespace}/{plural}"


def _write_settings(folder: Path, url: str) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())
    (folder / "sa.key").write_bytes(key.private_bytes(*form))
    (folder / "tokens.csv").write_text(f'{ADMIN},admin,admin-uid,"system:masters"\n')
    cluster = {"name": "c", "cluster": {"server": url, "insecure-skip-tls-verify": True}}
    context = {"name": "c", "context": {"cluster": "c", "user": "u"}}
    user = {"name": "u", "user": {"token": ADMIN}}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [cluster],
        "contexts": [context],
        "users": [user],
        "current-context": "c",
    }
    (folder / "kubeconfig").write_text(json.dumps(config))


def _arguments(kube: Kube, parts: dict[str, Path]) -> dict[str, list[str]]:
    etcd, peer, manager, kwok = (free_port() for _ in range(4))
    clients, peers, port = f"http://127.0.0.1:{etcd}", f"http://127.0.0.1:{peer}", kube.url.rpartition(":")[2]
    issuer = "https://kubernetes.default.svc"
    server = f"--etcd-servers={clients} --cert-dir=certs --bind-address=127.0.0.1 --endpoint-reconciler-type=none --secure-port={port}"
    server += f" --service-cluster-ip-range=10.0.0.0/24 --service-account-issuer={issuer} --api-audiences={issuer}"
    server += " --service-account-signing-key-file=sa.key --service-account-key-file=sa.key --authorization-mode=RBAC"
    server += " --token-auth-file=tokens.csv --disable-admission-plugins=ServiceAccount"
    store = f"--data-dir=data --listen-client-urls={clients} --advertise-client-urls={clients} --listen-peer-urls={peers}"
    store += f" --initial-advertise-peer-urls={peers} --initial-cluster=default={peers} --unsafe-no-fsync --log-level=warn"
    manage = "--kubeconfig=kubeconfig --service-account-private-key-file=sa.key --leader-elect=false --bind-address=127.0.0.1"
    manage += f" --secure-port={manager} --controllers={CONTROLLERS}"
    nodes = "--kubeconfig=kubeconfig --manage-all-nodes=true --node-lease-duration-seconds=40 --node-ip=127.0.0.1 --node-name=localhost"
    nodes += f" --node-port={kwok} --server-address=127.0.0.1:{kwok} --tls-cert-file=certs/apiserver.crt"
    nodes += f" --tls-private-key-file=certs/apiserver.key --config={parts['kwok-stages']}"
    return {
        name: text.split()
        for name, text in (("etcd", store), ("kube-apiserver", server), ("kube-controller-manager", manage), ("kwok", nodes))
    }


def start(folder: Path) -> Kube:
    """Build and start everything, its files in ``folder``. Raises RuntimeError or AssertionError where that fails."""
    parts = build()
    kube = Kube(folder, free_port())
    _write_settings(folder, kube.url)
    try:
        for name, given in _arguments(kube, parts).items():
            log = (folder / f"{name}.log").open("wb")
            with log:
                command = [str(parts[name]), *given]
                kube.processes.append(subprocess.Popen(command, cwd=folder, stdout=log, stderr=log))  # noqa: S603 - what was built
            if name == "kube-apiserver":
                until("the API server is ready", partial(_ready, kube))
        until(
            "the default namespace has its account",
            lambda: kube.call("GET", "/api/v1/namespaces/default/serviceaccounts/default").is_success,
        )
    except BaseException:
        kube.close()
        raise
    return kube


def _ready(kube: Kube) -> bool:
    dead = [process.args for process in kube.processes if process.poll() is not None]
    assert not dead, f"ended at once: {dead}"
    try:
        return kube.ca.exists() and kube.call("GET", "/readyz").status_code == 200
    except (httpx.HTTPError, ssl.SSLError):
        return False


@pytest.fixture(scope="session")
def kube() -> Iterator[Kube]:
    """The control plane. Where it cannot be built the test is skipped, in CI it fails."""
    try:
        build()
    except RuntimeError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"no Kubernetes control plane: {error}")
    with tempfile.TemporaryDirectory(prefix="tocsin-kube-") as folder:
        running = start(Path(folder))
        yield running
        running.close()
