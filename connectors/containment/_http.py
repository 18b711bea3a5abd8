"""HTTP as every adapter speaks it: one bounded call, whose failure is always one of the kinds of ``Trouble``; and where secrets are.

No redirects are followed and no proxy is taken from the environment: a credential goes to the host that the settings name, or nowhere.
"""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from time import monotonic, time
from typing import Annotated, Any
from urllib.parse import urlsplit

import httpx
import msgspec

from connectors import secret
from connectors.containment import Trouble, TroubleKind
from connectors.containment._deadline import Deadline, Transport
from connectors.containment._quote import quote, remember, remember_sent

#: Largest answer read, in bytes: the largest object asked for (a namespace's pods) stays below; a hostile target must not fill memory.
LARGEST_ANSWER = 8 << 20
#: Longest wait that a target's Retry-After is believed, in seconds: beyond it the containment would be a new decision.
LONGEST_WAIT = 900.0

_KINDS: dict[int, TroubleKind] = {
    401: "unauthorised",
    403: "unauthorised",
    # Only where it is the target's own: see ``Http.call``.
    404: "gone",
    408: "down",
    409: "conflict",
    412: "conflict",
    423: "busy",
    425: "busy",
    429: "busy",
}


_NO_HEADER = "the call cannot be made: a secret or a name holds a character that no header may hold"


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
        """The secret, without the line end. Raises CallFailed (unauthorised) where it is not there, or can be none."""
        try:
            value = secret.Secret.read(self)
        except secret.NoSecret as error:
            raise CallFailed("unauthorised", str(error)) from None
        remember(value)
        return value


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
    #: Longest pause in a call (to connect, between two bytes), and longest step, all its calls together: a slow target must not hold up
    #: other actions.
    timeout_seconds: Annotated[float, msgspec.Meta(gt=0, le=60)] = 5.0
    deadline_seconds: Annotated[float, msgspec.Meta(gt=0, le=120)] = 30.0

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


#: Whether an answer of status 404 is the target's own word that the thing asked for is not there.
Gone = Callable[[Reply], bool]


class Http:
    """One target. Safe to call again after any failure. ``transport``: what stands in for the network where a target is rehearsed."""

    def __init__(self, endpoint: Endpoint, transport: httpx.BaseTransport | None = None) -> None:
        self._endpoint = endpoint
        self._transport = transport
        self._client: httpx.Client | None = None
        self._deadline = Deadline()
        #: Until when the running step may last, on the monotonic clock; infinite where none runs.
        self._until = float("inf")

    @contextmanager
    def step(self) -> Iterator[None]:
        """A step of several calls: all together are over within the deadline."""
        self._until = monotonic() + self._endpoint.deadline_seconds
        try:
            yield
        finally:
            self._until = float("inf")

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
        gone: Gone | None = None,
    ) -> Reply:
        """One request, answered or failed within the deadline. ``path`` begins with "/"; parts that are names are quoted by the caller.

        Raises CallFailed on anything but a whole answer with a status below 300 or in ``expect``. A 404 comes from whatever stands in
        front of a target as well as from the target: without ``gone``, or where ``gone`` denies it, it is no answer (down).
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
        except UnicodeError:
            raise CallFailed("unauthorised", _NO_HEADER) from None
        except (OSError, ValueError, httpx.InvalidURL) as error:
            # A certificate file that is not there.
            raise CallFailed("unauthorised", f"the call cannot be made: {quote(str(error))}") from None
        remember_sent(given, form)
        try:
            reply = self._answer(client, request)
        except httpx.LocalProtocolError:
            # Its text quotes the header.
            raise CallFailed("unauthorised", _NO_HEADER) from None
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise CallFailed("down", f"no connection: {quote(str(error)) or type(error).__name__}") from None
        except httpx.HTTPError as error:
            raise CallFailed("down", f"no whole answer: {quote(str(error)) or type(error).__name__}", sent=True) from None
        if reply.status == 404 and not (gone and gone(reply)):
            raise CallFailed("down", f"not the target's own answer: {_told(reply)}", sent=True, status=404)
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
            transport = self._transport or Transport(context, self._deadline)
            self._client = httpx.Client(timeout=ours.timeout_seconds, trust_env=False, follow_redirects=False, transport=transport)
        return self._client

    def _answer(self, client: httpx.Client, request: httpx.Request) -> Reply:
        until = self._deadline.at = min(self._until, monotonic() + self._endpoint.deadline_seconds)
        if monotonic() >= until:
            raise CallFailed("down", f"not called: the step has lasted {self._endpoint.deadline_seconds:g} s")
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
    # A 5xx may come from something in between, after the call arrived.
    return CallFailed(kind, _told(reply), retry_after=wait, sent=kind == "down", status=reply.status)


def _retry_after(text: str) -> float:
    """Seconds that a Retry-After header asks for, as a number or a date; 0 where it is neither."""
    try:
        wait = float(text) if text.strip().isdigit() else parsedate_to_datetime(text).timestamp() - time()
    except (ValueError, TypeError, IndexError):
        return 0.0
    return min(max(wait, 0.0), LONGEST_WAIT)


def _told(reply: Reply) -> str:
    """Status and beginning of an answer, in one line."""
    quoted = quote(reply.body.decode("utf-8", "replace"))
    return f"HTTP {reply.status}{': ' if quoted else ''}{quoted}"


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
