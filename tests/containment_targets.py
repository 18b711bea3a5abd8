"""``python -m tests.containment_targets MANY``: the real Keycloak and kube-apiserver with so many targets for each verb.

Prints one line of JSON, settings and targets by adapter, when all is there; runs until SIGTERM. For ``benchmarks.containment_kafka``.
"""

from __future__ import annotations

import json
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any

from tests.keycloak_stage import Realm
from tests.kube import start
from tests.kube_stage import Stage
from tests.servers import _CACHE, build_keycloak, running_keycloak

_SECRET = {"env": "TOCSIN_BENCH_SECRET"}


def _keycloak(stack: ExitStack, many: int) -> dict[str, Any]:
    home = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=_CACHE, prefix="run-"))) / "keycloak"
    realm = Realm(stack.enter_context(running_keycloak(build_keycloak(), home)))
    targets: dict[str, list[str]] = {}
    for verb in ("revoke_sessions", "revoke_offline", "disable_user", "require_step_up"):
        names = [realm.person() for _ in range(many)]
        for name in names:
            realm.login(name, "openid offline_access" if verb == "revoke_offline" else "openid")
        targets[verb] = [f"user:{name}" for name in names]
    given = {
        "url": realm.server.url,
        "realm": realm.name,
        "client_id": "tocsin",
        "client_secret": _SECRET,
        "step_up": "UPDATE_PASSWORD",
    }
    return {"settings": {**given, "timeout_seconds": 60, "deadline_seconds": 120}, "targets": targets}


def _kubernetes(stack: ExitStack, many: int) -> dict[str, Any]:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tocsin-kube-")))
    kube = start(folder)
    stack.callback(kube.close)
    stage = Stage(kube, folder)
    stack.callback(stage.close)
    targets: dict[str, list[str]] = {
        verb: [] for verb in ("isolate_pod", "evict_pod", "rotate_bound_object", "cordon_node", "taint_node", "suspend_job")
    }
    for number in range(many):
        for verb in ("isolate_pod", "evict_pod"):
            name = f"{verb.partition('_')[0]}-{number}"
            stage.pod(name)
            targets[verb].append(f"pod:{stage.namespace}/{name}")
        stage.owned(f"rotate-{number}")
        targets["rotate_bound_object"].append(f"pod:{stage.namespace}/rotate-{number}")
        for verb in ("cordon_node", "taint_node"):
            name = f"{verb.partition('_')[0]}-{number}"
            stage.node(name)
            targets[verb].append(f"node:{name}")
        stage.job(f"job-{number}")
        targets["suspend_job"].append(f"job:k8s/{stage.namespace}/job-{number}")
    (folder / "bench-token").write_text(kube.token("tocsin", "responder"))
    given = {"url": kube.url, "ca_file": str(kube.ca), "token": {"file": str(folder / "bench-token")}}
    return {"settings": {**given, "timeout_seconds": 60, "deadline_seconds": 120}, "targets": targets}


def main() -> None:
    """See the module."""

    def end(_number: int, _frame: FrameType | None) -> None:
        sys.exit(0)

    signal.signal(signal.SIGTERM, end)
    many = int(sys.argv[1])
    with ExitStack() as stack:
        found = {"kubernetes": _kubernetes(stack, many), "keycloak": _keycloak(stack, many)}
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()
        while True:
            signal.pause()


if __name__ == "__main__":
    main()
