"""Records as their programs write them: Zeek conn, registry notifications, Slurm job completions, Keycloak user events.

All times are microseconds UTC. Kubernetes has a file of its own, ``audit``.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np
import orjson

from connectors.event import SECOND
from replay.simulate.factory import Blob, Model

_ALPHABET = np.frombuffer(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", "S1")
#: Payload of a full segment on Ethernet with TCP timestamps, and what IP and TCP headers add to it.
_SEGMENT, _HEADERS = 1448, 52
#: Zeek's history strings by state, of a TCP connection whose payload went both ways.
_HISTORY = {"SF": "ShADadFf", "S0": "S", "REJ": "Sr", "RSTO": "ShADadR", "RSTR": "ShADadr", "S1": "ShADad"}
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_WEIGHTS = "application/vnd.cncf.model.weight.v1.raw"
_REALM = "factory"
#: What Slurm calls itself.
CLUSTER = "factory"


class Port(NamedTuple):
    """A service as Zeek sees it: protocol, port of the responder, and the analyser's name for it ("" = it knows none)."""

    proto: str
    number: int
    name: str


HTTPS = Port("tcp", 443, "ssl")
API = Port("tcp", 6443, "ssl")
DOMAIN = Port("udp", 53, "dns")
CLOCK = Port("udp", 123, "ntp")
SSH = Port("tcp", 22, "ssh")
SMTPS = Port("tcp", 465, "ssl")
AMQPS = Port("tcp", 5671, "ssl")
OBJECTS = Port("tcp", 9000, "ssl")
NFS = Port("tcp", 2049, "")
EXPORTER = Port("tcp", 9100, "http")
CALLS = Port("udp", 3478, "")
INFERENCE = Port("tcp", 8443, "ssl")
KUBELET = Port("tcp", 10250, "ssl")
WINRM = Port("tcp", 5985, "http")
SMB = Port("tcp", 445, "")


def seconds(time: int) -> str:
    """Microseconds as Zeek writes a time or interval: seconds with six places."""
    return f"{time // SECOND}.{time % SECOND:06d}"


@lru_cache(maxsize=1024)
def _date(day: int) -> str:
    return str(np.datetime64(day, "D"))


def iso(time: int) -> str:
    """A time as ISO 8601 with microseconds and no zone."""
    second, micro = divmod(time, SECOND)
    day, rest = divmod(second, 86_400)
    return f"{_date(day)}T{rest // 3600:02d}:{rest // 60 % 60:02d}:{rest % 60:02d}.{micro:06d}"


def conns(
    rng: np.random.Generator,
    start: np.ndarray,
    duration: np.ndarray,
    orig: str | list[str],
    resp: str | list[str],
    port: Port,
    out: np.ndarray,
    into: np.ndarray,
    state: str | list[str] = "SF",
    orig_port: int | None = None,
) -> tuple[list[int], list[bytes]]:
    """Connections of one service: when each record is written, and the records.

    ``start`` and ``duration`` are microseconds (int64[n]), ``out`` and ``into`` payload bytes of originator and responder
    (int64[n]). An unanswered attempt (S0) has neither duration nor bytes; a refused one (REJ) has no bytes.
    """
    n = len(start)
    ids = _ALPHABET[rng.integers(0, len(_ALPHABET), (n, 17))].view("S17").ravel().tolist()
    ports = rng.integers(32_768, 60_999, n).tolist() if orig_port is None else [orig_port] * n
    took = np.maximum(duration, 1)
    packets_out, packets_in = out // _SEGMENT + 3, into // _SEGMENT + 2
    columns = zip(
        start.tolist(),
        took.tolist(),
        ids,
        repeat(orig) if isinstance(orig, str) else orig,
        ports,
        repeat(resp) if isinstance(resp, str) else resp,
        out.tolist(),
        into.tolist(),
        repeat(state) if isinstance(state, str) else state,
        packets_out.tolist(),
        packets_in.tolist(),
        strict=False,
    )
    tail = f',"id.resp_p":{port.number},"proto":"{port.proto}"'
    service = f',"service":"{port.name}"' if port.name else ""
    times, lines = [], []
    for ts, lasted, uid, source, source_port, target, sent, got, ended, sent_packets, got_packets in columns:
        head = f'{{"ts":{seconds(ts)},"uid":"C{uid.decode()}","id.orig_h":"{source}","id.orig_p":{source_port}'
        head += f',"id.resp_h":"{target}"{tail}'
        local = f'"local_orig":{_local(source)},"local_resp":{_local(target)},"missed_bytes":0'
        history = _HISTORY[ended] if port.proto == "tcp" else ("D" if ended == "S0" else "Dd")
        if ended == "S0":
            times.append(ts)
            line = (
                f'{head},"conn_state":"S0",{local},"history":"{history}",'
                f'"orig_pkts":1,"orig_ip_bytes":60,"resp_pkts":0,"resp_ip_bytes":0}}'
            )
        elif ended == "REJ":
            times.append(ts + lasted)
            line = (
                f'{head},"duration":{seconds(lasted)},"orig_bytes":0,"resp_bytes":0,"conn_state":"REJ",{local},"history":"{history}",'
                f'"orig_pkts":1,"orig_ip_bytes":60,"resp_pkts":1,"resp_ip_bytes":40}}'
            )
        else:
            times.append(ts + lasted)
            line = (
                f'{head}{service},"duration":{seconds(lasted)},"orig_bytes":{sent},"resp_bytes":{got},"conn_state":"{ended}",{local},'
                f'"history":"{history}","orig_pkts":{sent_packets},"orig_ip_bytes":{sent + sent_packets * _HEADERS},'
                f'"resp_pkts":{got_packets},"resp_ip_bytes":{got + got_packets * _HEADERS}}}'
            )
        lines.append(line.encode() + b"\n")
    return times, lines


def _local(address: str) -> str:
    return "true" if address.startswith("10.") else "false"


class Peer(NamedTuple):
    """Who is at the other end of a registry request, and under what name it calls the registry (``host``). ``port``: the source port of
    its connection."""

    actor: str
    address: str
    port: int
    agent: str
    host: str


def registry_event(
    time: int, ids: tuple[str, str], action: str, method: str, peer: Peer, model: Model, blob: Blob | None, instance: str
) -> bytes:
    """One OCI distribution notification: the manifest where ``blob`` is None, else that blob. ``ids``: event and request id."""
    base = f"https://{peer.host}/v2/{model.repository}"
    if blob is None:
        size = 420 + 230 * (len(model.small) + len(model.weights))
        target: dict[str, Any] = {
            "mediaType": _MANIFEST,
            "size": size,
            "digest": model.digest,
            "length": size,
            "repository": model.repository,
            "url": f"{base}/manifests/{model.digest}",
            "tag": "v1",
            "references": [{"mediaType": "application/octet-stream", "size": b.size, "digest": b.digest} for b in model.small]
            + [{"mediaType": _WEIGHTS, "size": b.size, "digest": b.digest} for b in model.weights],
        }
    else:
        target = {
            "mediaType": "application/octet-stream",
            "size": blob.size,
            "digest": blob.digest,
            "length": blob.size,
            "repository": model.repository,
            "url": f"{base}/blobs/{blob.digest}",
        }
    event = {
        "id": ids[0],
        "timestamp": f"{iso(time)}000Z",
        "action": action,
        "target": target,
        "request": {
            "id": ids[1],
            "addr": f"{peer.address}:{peer.port}",
            "host": peer.host,
            "method": method,
            "useragent": peer.agent,
        },
        "actor": {"name": peer.actor},
        "source": {"addr": "registry-0:5000", "instanceID": instance},
    }
    return orjson.dumps({"events": [event]}, option=orjson.OPT_APPEND_NEWLINE)


class SlurmJob(NamedTuple):
    """A batch job as the scheduler knows it. Times are microseconds; ``gpus`` may be 0."""

    number: int
    user: str
    user_number: int
    team: str
    name: str
    nodes: str
    node_count: int
    gpus: int
    submit: int
    start: int
    end: int
    limit: int
    state: str


def slurm_record(job: SlurmJob, finished: bool) -> bytes:
    """The record of a job's start, or of its end. Slurm writes whole seconds, UTC, without a zone."""
    cpus = max(4, 12 * job.gpus)
    requested = f"cpu={cpus},mem={cpus * 8}G,node={job.node_count},billing={cpus}"
    gpus = f",gres/gpu={job.gpus},gres/gpu:h200={job.gpus}" if job.gpus else ""
    elapsed = job.end // SECOND - job.start // SECOND
    record: dict[str, Any] = {
        "jobid": job.number,
        "container": None,
        "username": job.user,
        "user_id": job.user_number,
        "groupname": job.team,
        "group_id": 2000,
        "@start": iso(job.start)[:19],
    }
    if finished:
        record |= {"@end": iso(job.end)[:19], "elapsed": elapsed}
    record |= {
        "partition": "gpu" if job.gpus else "cpu",
        "alloc_node": "login-0",
        "nodes": job.nodes,
        "total_cpus": cpus,
        "total_nodes": job.node_count,
    }
    if finished:
        code = {"COMPLETED": "0:0", "FAILED": "1:0", "TIMEOUT": "0:0", "NODE_FAIL": "1:0", "REQUEUED": "0:0"}[job.state]
        record |= {"derived_ec": "0:0", "exit_code": code, "state": job.state, "failed_node": None}
        record |= {"cpu_hours": elapsed * cpus / 3600, "pack_job_id": 0, "pack_job_offset": 0}
    else:
        record |= {"state": None}
    record |= {
        "het_job_id": 0,
        "het_job_offset": 0,
        "priority": 1,
        "@submit": iso(job.submit)[:19],
        "@eligible": iso(job.submit)[:19],
        "@queue_wait": job.start // SECOND - job.submit // SECOND,
        "work_dir": f"/scratch/{job.team}/{job.user}",
        "std_in": "/dev/null",
        "std_out": "slurm-%j.out",
        "cluster": CLUSTER,
        "qos": "normal",
        "ntasks": 0,
        "ntasks_per_node": 0,
        "ntasks_per_tres": 0,
        "cpus_per_task": 1,
        "time_limit": job.limit,
        "job_name": job.name,
        "tres_req": requested + gpus,
        # Slurm's way to say that the energy is not known.
        "tres_alloc_raw": f"1={cpus},3=18446744073709551614,4={job.node_count},5={cpus}" + (f",1001={job.gpus}" if job.gpus else ""),
        "tres_alloc": f"cpu={cpus},node={job.node_count},billing={cpus}{gpus}",
        "account": job.team,
        "parent_accounts": f"/root/{job.team}",
    }
    return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)


def attestation_record(time: int, node: str, passed: bool, id: str, gpus: int) -> bytes:
    """The overall claims of an attestation service about a node's GPUs, as our collector writes them; the time is in seconds."""
    issued = time // SECOND
    claims = {
        "sub": "NVIDIA-PLATFORM-ATTESTATION",
        "x-nvidia-ver": "2.0",
        "nbf": issued,
        "iss": "https://nras.attestation.nvidia.com",
        "x-nvidia-overall-att-result": passed,
        "submods": {f"GPU-{i}": ["DIGEST", ["SHA-256", hashlib.sha256(f"{id} {i}".encode()).hexdigest()]] for i in range(gpus)},
        "eat_nonce": hashlib.sha256(id.encode()).hexdigest(),
        "iat": issued,
        "jti": id,
        "exp": issued + 3600,
    }
    return orjson.dumps({"node": node, "claims": claims}, option=orjson.OPT_APPEND_NEWLINE)


def keycloak_event(
    time: int, id: str, kind: str, client: str, user: str | None, address: str, session: str | None, **details: str
) -> bytes:
    """One Keycloak user event as its event listeners serialise it; the time is in milliseconds. ``error`` goes beside the details."""
    error = details.pop("error", None)
    record = {
        "id": id,
        "time": time // 1000,
        "type": kind,
        "realmId": "5f0c3d1e-7a36-4f5e-9d0b-2f6f1d1f7c11",
        "realmName": _REALM,
        "clientId": client,
        "userId": user,
        "sessionId": session,
        "ipAddress": address,
        "error": error,
        "details": details,
    }
    return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)
