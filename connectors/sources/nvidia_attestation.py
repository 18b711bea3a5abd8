"""NVIDIA attestation of a node's GPUs: the overall claims of NRAS, or of a verifier that speaks like it, with the node's name.

Read: ``{"node": "gpu-07", "claims": {...}}``. ``claims`` is the payload of the overall token (an EAT, RFC 9711), after whoever writes
the record has checked its signature and its nonce. The claims name GPUs by number and no node, so without ``node`` they are refused.

============  ==========================================================================================================
time          ``iat``
actor         ``service:<host of iss>``: the verifier
object        ``node:<node>``
action        attest
outcome       ``x-nvidia-overall-att-result``: true ok, false denied
detail        ``gpu``, where there are submodules ``gpu/<how many>``
uid           ``jti``
============  ==========================================================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import msgspec

from connectors.event import Action, Outcome, Row, Stream
from connectors.names import Names
from connectors.sources import Decoded
from connectors.sources._acts import Act, Words, decode_acts, one, required
from connectors.sources._records import epoch_time

#: More GPUs than any one machine holds: the count is a word of the detail, and words are few.
_MOST_GPUS = 64


class _Claims(
    msgspec.Struct,
    rename={"passed": "x-nvidia-overall-att-result"},
):
    iss: str
    iat: float
    passed: bool
    jti: str = ""
    submods: dict[str, msgspec.Raw] | None = None


class _Record(msgspec.Struct):
    node: str
    claims: _Claims


_record = msgspec.json.Decoder(_Record).decode


class NvidiaAttestation:
    """NVIDIA attestation results. See the module."""

    title: ClassVar[str] = "NVIDIA attestation (NRAS, nvtrust): the overall claims about a node's GPUs, with the node's name"
    feeds: ClassVar[frozenset[str]] = frozenset({"attestation", "outcome"})
    limits: ClassVar[str] = (
        "signature and nonce are the writer's to check; the claims name no node, so the writer must; times in whole seconds; a node "
        "that stops attesting shows only when work starts on it, and that only where a source of jobs names the node"
    )
    times: ClassVar[dict[str, int]] = {"claims.iat": 1, "claims.nbf": 1, "claims.exp": 1}
    example: ClassVar[str] = (
        '{"node":"gpu-07","claims":{"sub":"NVIDIA-PLATFORM-ATTESTATION","x-nvidia-ver":"2.0","nbf":1795214848,"iss":'
        '"https://nras.attestation.nvidia.com","x-nvidia-overall-att-result":true,"submods":{"GPU-0":["DIGEST",["SHA-256","e8fd"]]},'
        '"eat_nonce":"931d","iat":1795214848,"jti":"dd6a874b","exp":1795218448}}'
    )

    def __init__(self, names: Names) -> None:
        self._words = Words(names)

    @classmethod
    def recognises(cls, record: dict[str, Any]) -> bool:
        """Whether this is a node's attestation. Bare claims are not: they name no node."""
        claims = record.get("claims")
        return "node" in record and isinstance(claims, dict) and "x-nvidia-overall-att-result" in claims

    def decode(self, records: Sequence[bytes]) -> Decoded:
        """Decode a batch. Reasons: ``missing``, ``wrong-type``, ``time-out-of-range`` and ``bad-identity`` with the field,
        ``malformed-json``, ``too-long``, ``empty``, ``unsupported-format``."""
        return decode_acts(self._words.names, "nvidia_attestation", records, one, self._read)

    def _read(self, index: int, raw: bytes) -> Act:
        record = _record(raw)
        claims = record.claims
        gpus = min(len(claims.submods or ()), _MOST_GPUS)
        row = Row(
            record=index,
            time=epoch_time(claims.iat, "claims.iat"),
            stream=Stream.attestation,
            action=Action.attest,
            outcome=Outcome.ok if claims.passed else Outcome.denied,
            actor=self._words.identity("service", required(_host(claims.iss), "claims.iss"), "claims.iss"),
            object=self._words.identity("node", required(record.node, "node"), "node"),
            detail=self._words.detail(f"gpu/{gpus}" if gpus else "gpu"),
            uid=claims.jti,
        )
        return Act([row], [])


def _host(issuer: str) -> str:
    """The host of an issuer's address, or the issuer as it is.

    >>> _host("https://nras.attestation.nvidia.com"), _host("our-verifier")
    ('nras.attestation.nvidia.com', 'our-verifier')
    """
    return issuer.partition("://")[2].partition("/")[0] if "://" in issuer else issuer


SOURCE = NvidiaAttestation
