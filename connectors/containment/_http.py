"""HTTP as every adapter speaks it: one bounded call, whose failure is always one of the kinds of ``Trouble``; and where secrets are.

No redirects are followed and no proxy is taken from the environment: a credential goes to the host that the settings name, or nowhere.
"""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from time import monotonic, time
from typing import Annotated, Any
from urllib.parse import urlsplit

import httpx
import msgspec

from connectors import secret
from connectors.containment import Trouble, TroubleKind

#: Largest answer read, in bytes: the largest object asked for (a namespace's pods) stays below; a hostile target must not fill memory.
LARGEST_ANSWER = 8 << 20
#: Longest piece of an answer quoted in a reason, in characters.
LONGEST_QUOTE = 200
#: Longest wait that a target's Retry-After is believed, in seconds: beyond it the containment would be a new decision.
LONGEST_WAIT = 900.0

_KINDS: dict[int, TroubleKind] = {
    401: "unauthorised",
    403: "unauthorised",
    404: "gone",
    408: "down",
    409: "conflict",
    410: "gone",
    412: "conflict",
    423: "busy",
    425: "busy",
    429: "busy",
}


class CallFailed(Exception):
    """A call that did not do what it should. The text is one sentence, free of secrets. ``sent``: it may have arrived all the same."""

    def __init__(self, kind: TroubleKind, reason: str, *, retry_after: float = 0.0, sent: bool = False, status: int = 0) -> None:
        super().__init__(reason)
        self.trouble = Trouble(kind, retry_after)
        self.reason = reason
        self.sent = sent
        #: HTTP status, 0 where no answer came.
        self.status = status


class Secret(secret.Secret, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A secret of an adapter: where it is missing, the call has failed like one that was refused."""

    def read(self) -> str:
        """The secret, without the line end. Raises CallFailed (unauthorised) where it is not there."""
        try:
            return secret.Secret.read(self)
        except secret.NoSecret as error:
            raise CallFailed("unauthorised", str(error)) from None


class Endpoint(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Settings of anything reached by HTTP; an adapter's ``Settings`` inherits from it (with ``forbid_unknown_fields=True``)."""

    #: Base address, without a trailing slash. ``https``; ``http`` only to this machine, or where ``plain_http`` says so.
    url: str
    #: File with the certificate authorities to trust, in PEM; the system's if not given.
    ca_file: str = ""
    #: Own certificate and key, in PEM, where the target asks for them.
    cert_file: str = ""
    key_file: str = ""
    plain_http: bool = False
    #: Longest pause in a call (to connect, between two bytes), and longest call: a slow target must not hold up other actions.
    timeout_seconds: Annotated[float, msgspec.Meta(gt=0, le=60)] = 5.0
    deadline_seconds: Annotated[float, msgspec.Meta(gt=0, le=120)] = 15.0

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query or parts.fragment:
            raise ValueError("url: expected https://host[:port][/path], without user, query or fragment")
        if parts.scheme == "http" and not self.plain_http and not _is_here(parts.hostname):
            raise ValueError("url: expected https; plain http to another machine needs plain_http = true")
        self.url = self.url.rstrip("/")


class Reply(msgspec.Struct, frozen=True):
    """An answer with a status below 300, or one that the caller said it expects. ``body``: bytes as they came."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as plain JSON data, None where it is empty. Raises CallFailed (down) where it is no JSON, as half a reply is."""
        if not self.body.strip():
            return None
        try:
            return msgspec.json.decode(self.body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise CallFailed("down", "the answer is not JSON", sent=True, status=self.status) from None


class Http:
    """One target. Safe to call again after any failure. ``transport``: what stands in for the network where a target is rehearsed."""

    def __init__(self, endpoint: Endpoint, transport: httpx.BaseTransport | None = None) -> None:
        self._endpoint = endpoint
        self._transport = transport
        self._client: httpx.Client | None = None

    def call(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
        json: Any = msgspec.UNSET,
        form: Mapping[str, str] | None = None,
        content: bytes | None = None,
        expect: tuple[int, ...] = (),
    ) -> Reply:
        """One request, answered or failed within the deadline. ``path`` begins with "/"; parts that are names are quoted by the caller.

        Raises CallFailed on anything but a whole answer with a status below 300 or in ``expect``.
        """
        if {".", ".."} & set(path.split("/")):
            # Quoting leaves dots alone, and the client would walk up to another place.
            raise CallFailed("refused", "a name that walks up the path")
        given = dict(headers or {})
        if json is not msgspec.UNSET:
            content = msgspec.json.encode(json)
            given.setdefault("Content-Type", "application/json")
        try:
            client = self._connected()
            request = client.build_request(method, self._endpoint.url + path, headers=given, params=query, data=form, content=content)
        except (OSError, ValueError, httpx.InvalidURL) as error:
            # A certificate file that is not there, or a header value with a line end.
            raise CallFailed("unauthorised", f"the call cannot be made: {_quote(str(error))}") from None
        try:
            reply = self._answer(client, request)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise CallFailed("down", f"no connection: {_quote(str(error)) or type(error).__name__}") from None
        except httpx.HTTPError as error:
            raise CallFailed("down", f"no whole answer: {_quote(str(error)) or type(error).__name__}", sent=True) from None
        if reply.status < 300 or reply.status in expect:
            return reply
        raise failure(reply)

    def close(self) -> None:
        """Let go of the connections."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def _connected(self) -> httpx.Client:
        if self._client is None:
            ours = self._endpoint
            # To read the system's authorities takes longer than a whole rehearsal, where there is no network.
            context = (
                ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if self._transport else ssl.create_default_context(cafile=ours.ca_file or None)
            )
            if ours.cert_file:
                context.load_cert_chain(ours.cert_file, ours.key_file or None)
            self._client = httpx.Client(
                verify=context, timeout=ours.timeout_seconds, trust_env=False, follow_redirects=False, transport=self._transport
            )
        return self._client

    def _answer(self, client: httpx.Client, request: httpx.Request) -> Reply:
        until = monotonic() + self._endpoint.deadline_seconds
        reply = client.send(request, stream=True)
        body = bytearray()
        try:
            for piece in reply.iter_bytes():
                body += piece
                if len(body) > LARGEST_ANSWER:
                    raise CallFailed("down", f"an answer of over {LARGEST_ANSWER} bytes", sent=True, status=reply.status_code)
                if monotonic() > until:
                    raise CallFailed("down", "the answer came too slowly", sent=True, status=reply.status_code)
        finally:
            reply.close()
        return Reply(reply.status_code, {name.lower(): value for name, value in reply.headers.items()}, bytes(body))


def failure(reply: Reply) -> CallFailed:
    """What an answer that is no success means."""
    kind = _KINDS.get(reply.status) or ("down" if reply.status >= 500 else "refused")
    wait = _retry_after(reply.headers.get("retry-after", ""))
    if reply.status == 503 and wait:
        kind = "busy"
    quoted = _quote(reply.body[: 4 * LONGEST_QUOTE].decode("utf-8", "replace"))
    text = f"HTTP {reply.status}{': ' if quoted else ''}{quoted}"
    # A 5xx may come from something in between, after the call arrived.
    return CallFailed(kind, text, retry_after=wait, sent=kind == "down", status=reply.status)


def _retry_after(text: str) -> float:
    """Seconds that a Retry-After header asks for, as a number or a date; 0 where it is neither."""
    try:
        wait = float(text) if text.strip().isdigit() else parsedate_to_datetime(text).timestamp() - time()
    except (ValueError, TypeError, IndexError):
        return 0.0
    return min(max(wait, 0.0), LONGEST_WAIT)


def _quote(text: str) -> str:
    """A piece of foreign text, in one printable line."""
    line = " ".join(text.split())
    return "".join(each if each.isprintable() else f"\\u{ord(each):04x}" for each in line)[:LONGEST_QUOTE]


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
