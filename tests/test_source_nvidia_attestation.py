from __future__ import annotations

import json
from typing import Any

import pytest

from connectors.sources import available
from tests.shared import samples
from tests.source_stage import events, fresh, reasons

NAME = "nvidia_attestation"
CLAIMS: dict[str, Any] = {
    "sub": "NVIDIA-PLATFORM-ATTESTATION",
    "x-nvidia-ver": "2.0",
    "iss": "https://nras.attestation.nvidia.com",
    "x-nvidia-overall-att-result": True,
    "submods": {"GPU-0": ["DIGEST", ["SHA-256", "e8fd"]], "GPU-1": ["DIGEST", ["SHA-256", "e8fe"]]},
    "iat": 1795214848,
    "jti": "dd6a874b",
}
ROW = {
    "record": 0,
    "time": 1795214848_000000,
    "stream": "attestation",
    "action": "attest",
    "outcome": "ok",
    "actor": "service:nras.attestation.nvidia.com",
    "object": "node:gpu-07",
    "detail": "gpu/2",
    "uid": "dd6a874b",
}


def of_node(**changes: Any) -> dict[str, Any]:
    return {"node": "GPU-07", "claims": {key: value for key, value in {**CLAIMS, **changes}.items() if value is not None}}


def test_an_attestation_is_read_field_by_field() -> None:
    assert events(fresh(NAME, of_node())) == [ROW]


def test_a_failed_attestation_is_a_refusal() -> None:
    assert events(fresh(NAME, of_node(**{"x-nvidia-overall-att-result": False})))[0]["outcome"] == "denied"


def test_claims_without_submodules_or_id_are_read() -> None:
    row = events(fresh(NAME, of_node(submods=None, jti=None)))[0]
    assert row["detail"] == "gpu"
    assert "uid" not in row


def test_the_real_claims_are_read_once_the_node_is_named_and_refused_before() -> None:
    for line in (samples() / "misc_real_records.jsonl").read_bytes().splitlines():
        found = json.loads(line)
        if found["_src"].startswith("nvtrust"):
            assert events(fresh(NAME, {"node": "n1", "claims": found["record"]}))[0]["time"] == 1727387975_000000
            assert reasons(fresh(NAME, found["record"])) == [(0, "unsupported-format:nvtrust")]
            return
    raise AssertionError("no claims among the samples")


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"claims": CLAIMS}, "missing:node"),
        ({**of_node(), "node": ""}, "missing:node"),
        ({**of_node(), "node": "a\u202eb"}, "bad-identity:node"),
        (of_node(iss=None), "missing:iss"),
        (of_node(iss=""), "missing:claims.iss"),
        (of_node(iat="soon"), "wrong-type:claims.iat"),
        (of_node(iat=1), "time-out-of-range:claims.iat"),
        (of_node(**{"x-nvidia-overall-att-result": "true"}), "wrong-type:claims.x-nvidia-overall-att-result"),
        (of_node(**{"x-nvidia-overall-att-result": None}), "missing:x-nvidia-overall-att-result"),
    ],
)
def test_what_is_bad_is_named_and_the_rest_goes_on(record: dict[str, Any], reason: str) -> None:
    decoded = fresh(NAME, of_node(), record, of_node())
    assert reasons(decoded) == [(1, reason)]
    assert [row["record"] for row in events(decoded)] == [0, 2]


def test_only_a_nodes_claims_are_recognised() -> None:
    assert available()[NAME].recognises(of_node())
    assert not available()[NAME].recognises(CLAIMS)
    assert not available()[NAME].recognises({"node": "a", "claims": {"iat": 1}})
