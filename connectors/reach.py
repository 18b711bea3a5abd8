"""Whether a broker answers, and if not, why: the one sentence that a bare "connection closed" leaves out."""

from __future__ import annotations

import asyncio
import socket
import ssl
from datetime import UTC, datetime
from typing import Any

from aiokafka import errors
from aiokafka.conn import AIOKafkaConnection
from aiokafka.protocol.metadata import MetadataRequest


class Refused(ValueError):
    """Waiting does not help: one sentence that names the address and the setting to change."""


#: X509_V_ERR codes of OpenSSL: not yet valid, expired; another host name, another address.
_NOT_YET, _EXPIRED, _OTHER_NAME = 9, 10, (62, 64)

#: First two bytes of a TLS alert; read as the length of a Kafka answer they are its upper half.
_TLS_ALERT = 0x1503

#: Longest wait for a socket to close: a turn of the loop, but under TLS an exchange with a broker that may be busy.
_CLOSE_SECONDS = 2.0


async def reach(addresses: list[tuple[str, int]], given: dict[str, Any], seconds: float) -> str | None:
    """None if one of the addresses (host, port) answers and what it advertises answers too, else why not.

    ``given``: keyword arguments of an aiokafka client without its addresses. ``seconds``: limit for each answer. Raises Refused.
    """
    reasons = []
    for host, port in addresses:
        found = await _brokers(host, port, given, seconds)
        if isinstance(found, str):
            reasons.append(found)
            continue
        away = [why for each in found if isinstance(why := await _brokers(*each, given, seconds), str)]
        if found and len(away) < len(found):
            return None
        reasons.append(
            f"{host}:{port} answers, but not the address it tells clients to use (advertised.listeners): {away[0]}"
            if away
            else f"{host}:{port} answers, but knows of no broker yet"
        )
    return "; ".join(reasons)


async def _brokers(host: str, port: int, given: dict[str, Any], seconds: float) -> list[tuple[str, int]] | str:
    """The addresses of the brokers that this one knows, or why it does not answer. Raises Refused."""
    connection = AIOKafkaConnection(host, port, request_timeout_ms=round(seconds * 1000), **given)
    try:
        await connection.connect()
    except (OSError, errors.KafkaError) as error:
        # Without a socket there is nothing to close, and nothing that would ever say that it closed.
        await _closed(connection, 0.0 if isinstance(error, OSError) else _CLOSE_SECONDS)
        return _said(host, port, error, given)
    try:
        answer = await connection.send(MetadataRequest([]))
    except (OSError, errors.KafkaError) as error:
        return _said(host, port, error, given)
    finally:
        await _closed(connection, _CLOSE_SECONDS)
    return [(broker[1], broker[2]) for broker in answer.brokers]


async def _closed(connection: AIOKafkaConnection, seconds: float) -> None:
    await asyncio.wait([connection.close()], timeout=seconds)


def _said(host: str, port: int, error: BaseException, given: dict[str, Any]) -> str:
    why, final = explained(error, given)
    sentence = f"kafka.bootstrap: {host}:{port}: {why}"
    if final:
        raise Refused(sentence) from None
    return sentence


def explained(error: BaseException, given: dict[str, Any]) -> tuple[str, bool]:
    """(what is wrong, whether waiting is useless) for what aiokafka raised when it was to connect with ``given``."""
    cause = error.__cause__ if isinstance(error, errors.KafkaConnectionError) and error.__cause__ is not None else error
    if isinstance(cause, ssl.SSLError):
        return _tls(cause)
    if isinstance(cause, errors.SaslAuthenticationFailed):
        return f"refuses the username or the password ({given['sasl_mechanism']}); see kafka.username_file, kafka.password_file", True
    if isinstance(cause, errors.UnsupportedSaslMechanismError):
        return f"does not offer {given['sasl_mechanism']}; see kafka.sasl_mechanism", True
    if isinstance(cause, errors.IllegalSaslStateError):
        return "asks for no username; set kafka.security to plaintext or ssl, or take its SASL listener's port", True
    if isinstance(cause, asyncio.IncompleteReadError) and cause.expected is not None and cause.expected >> 16 == _TLS_ALERT:
        return "speaks TLS; set kafka.security to ssl or sasl_ssl", True
    return _unreachable(cause, given), False


def _unreachable(cause: BaseException, given: dict[str, Any]) -> str:
    protocol = given["security_protocol"]
    if isinstance(cause, ConnectionRefusedError):
        return "nobody listens there (is the broker up?)"
    if isinstance(cause, socket.gaierror):
        return "no such host name"
    if isinstance(cause, TimeoutError | asyncio.TimeoutError | errors.RequestTimedOutError):
        return "no answer in time"
    if isinstance(cause, ConnectionResetError) and protocol.endswith("SSL"):
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
