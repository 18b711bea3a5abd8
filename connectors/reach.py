"""Whether a broker answers, and if not, why: the one sentence that a bare "connection closed" leaves out."""

from __future__ import annotations

import asyncio
import socket
import ssl
from datetime import UTC, datetime
from typing import Any, NamedTuple

from aiokafka import errors
from aiokafka.conn import AIOKafkaConnection
from aiokafka.protocol.metadata import MetadataRequest


class Away(NamedTuple):
    """Why an address cannot be used: a sentence that names it and the setting to change; ``final``: whether waiting is useless."""

    why: str
    final: bool


#: X509_V_ERR codes of OpenSSL: not yet valid, expired; another host name, another address.
_NOT_YET, _EXPIRED, _OTHER_NAME = 9, 10, (62, 64)

#: First two bytes of a TLS alert; read as the length of a Kafka answer they are its upper half.
_TLS_ALERT = 0x1503

#: Kafka's own limit of what goes over the wire at once; a longer "answer" is text of another protocol read as a length.
_LARGEST = 100 << 20

#: Longest wait for a socket to close: a turn of the loop, but under TLS an exchange with a broker that may be busy.
_CLOSE_SECONDS = 2.0


async def reach(addresses: list[tuple[str, int]], given: dict[str, Any], seconds: float) -> Away | None:
    """None if one of the addresses (host, port) answers and what it advertises answers too, else why not.

    ``given``: keyword arguments of an aiokafka client without its addresses. ``seconds``: limit for each answer.
    """
    away: list[Away] = []
    for host, port in addresses:
        found = await _brokers(host, port, given, seconds)
        why = found if isinstance(found, Away) else await _advertised((host, port), found, given, seconds)
        if why is None:
            return None
        away.append(why)
    return Away("; ".join(each.why for each in away), any(each.final for each in away))


async def _advertised(asked: tuple[str, int], brokers: list[tuple[str, int]], given: dict[str, Any], seconds: float) -> Away | None:
    """None if one of the addresses that this broker tells clients to use answers, else why the first does not."""
    host, port = asked
    if asked in brokers:
        return None
    first: Away | None = None
    for each in brokers:
        found = await _brokers(*each, given, seconds)
        if not isinstance(found, Away):
            return None
        first = first or found
    if first is None:
        return Away(f"kafka.bootstrap: {host}:{port}: answers, but knows of no broker yet", False)
    return Away(f"{host}:{port} answers, but not the address it tells clients to use (advertised.listeners): {first.why}", first.final)


async def _brokers(host: str, port: int, given: dict[str, Any], seconds: float) -> list[tuple[str, int]] | Away:
    """The addresses of the brokers that this one knows, or why it does not answer."""
    connection = AIOKafkaConnection(host, port, request_timeout_ms=round(seconds * 1000), **given)
    wait = _CLOSE_SECONDS
    try:
        await connection.connect()
        answer = await connection.send(MetadataRequest([]))
        return [(broker[1], broker[2]) for broker in answer.brokers]
    except Exception as error:
        # Everything: whoever listens there may answer anything, and the library stumbles over it where it happens to.
        if isinstance(error, OSError):
            # There never was a socket, nor will anything ever say that it closed.
            wait = 0.0
        why, final = explained(error, given)
        return Away(f"kafka.bootstrap: {host}:{port}: {why}", final)
    finally:
        await asyncio.wait([connection.close()], timeout=wait)


def explained(error: BaseException, given: dict[str, Any]) -> tuple[str, bool]:
    """(what is wrong, whether waiting is useless) for what aiokafka raised when it was to connect with ``given``."""
    cause = error.__cause__ if isinstance(error, errors.KafkaConnectionError) and error.__cause__ is not None else error
    if isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return _tls(cause)
    if isinstance(cause, errors.SaslAuthenticationFailed):
        return f"refuses the username or the password ({given['sasl_mechanism']}); see kafka.username_file, kafka.password_file", True
    if isinstance(cause, errors.UnsupportedSaslMechanismError):
        return f"does not offer {given['sasl_mechanism']}; see kafka.sasl_mechanism", True
    if isinstance(cause, errors.IllegalSaslStateError):
        return "asks for no username; set kafka.security to plaintext or ssl, or take its SASL listener's port", True
    if isinstance(cause, asyncio.IncompleteReadError) and (length := cause.expected or 0) > _LARGEST:
        if length >> 16 == _TLS_ALERT:
            return "speaks TLS; set kafka.security to ssl or sasl_ssl", True
        return "does not speak Kafka's protocol; is it the broker's port?", True
    if isinstance(cause, OSError | EOFError | errors.KafkaError):
        return _unreachable(cause, given), False
    return f"does not speak Kafka's protocol ({type(cause).__name__}); is it the broker's port?", True


def _unreachable(cause: BaseException, given: dict[str, Any]) -> str:
    protocol = given["security_protocol"]
    if isinstance(cause, ConnectionRefusedError):
        return "nobody listens there (is the broker up?)"
    if isinstance(cause, socket.gaierror):
        return "no such host name"
    if isinstance(cause, TimeoutError | asyncio.TimeoutError | errors.RequestTimedOutError):
        return "no answer in time"
    if isinstance(cause, ConnectionResetError | ssl.SSLError) and protocol.endswith("SSL"):
        return "breaks off the TLS handshake; a listener without TLS does that (see kafka.security)"
    if isinstance(cause, ConnectionError | EOFError):
        hint = "" if protocol.startswith("SASL") else "; a listener that wants a username does that (see kafka.security)"
        return f"closes the connection without an answer{hint}"
    if isinstance(cause, OSError):
        return cause.strerror or type(cause).__name__
    return f"answers with {type(cause).__name__}"


def _tls(error: ssl.SSLError) -> tuple[str, bool]:
    if isinstance(error, ssl.SSLCertVerificationError):
        now = f"{datetime.now(UTC):%Y-%m-%dT%H:%MZ}"
        if error.verify_code == _EXPIRED:
            return f"its certificate has expired (by this machine's clock, {now})", True
        if error.verify_code == _NOT_YET:
            return f"its certificate is not valid yet (by this machine's clock, {now})", True
        if error.verify_code in _OTHER_NAME:
            return "its certificate is for another name than this address", True
        return "its certificate is signed by nobody that we trust; see kafka.ca_file", True
    if "ALERT" in (error.reason or "") and "CERTIFICATE" in (error.reason or ""):
        return "wants a client certificate that it trusts; see kafka.cert_file, kafka.key_file", True
    return f"TLS fails ({error.reason or 'no reason given'}); see kafka.security", True
