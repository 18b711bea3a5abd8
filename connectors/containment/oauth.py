"""OAuth 2.0 token revocation (RFC 7009): tokens that we hold, such as those of a pipeline, revoked at the server that issued them.

The server says 200 whether it revoked a token, had done so before, or never knew it. So the effect is looked for by introspection
(RFC 7662), where a path for it is set; and there "inactive" is believed only where "active" was seen before, or where ``in_audience``
says that we may ask: some servers call every token inactive for a client that is not in its audience.
"""

from __future__ import annotations

from base64 import b64encode
from typing import Any, ClassVar, Literal
from urllib.parse import quote_plus

import msgspec

from connectors.containment import Action, Applied, Prepared, Rehearsal, Verb, Verified
from connectors.containment._doing import ByVerb, OneWay, gone, kept, shaped
from connectors.containment._fake import Rehearsed
from connectors.containment._fake_oauth import FakeOauth
from connectors.containment._http import CallFailed, Endpoint, Http, Reply, Secret


class OauthSettings(Endpoint, kw_only=True, forbid_unknown_fields=True):
    """One authorization server, and the client that the tokens were issued to: no other may revoke them."""

    client_id: str
    client_secret: Secret
    #: Paths below ``url``; Keycloak's are ``/realms/R/protocol/openid-connect/revoke`` and ``.../token/introspect``.
    revocation_path: str
    introspection_path: str = ""
    in_audience: bool = False
    #: Tokens that can be revoked: name (of the identity ``token:NAME``) -> where its value is.
    tokens: dict[str, Secret]
    #: What they are. With a refresh token the whole session ends; with an access token its refresh token lives on.
    hint: Literal["refresh_token", "access_token"] = "refresh_token"


class _Introspection(msgspec.Struct):
    active: bool


class RevokeOauthToken(OneWay):
    """Revoke one token that we hold."""

    verb = Verb(
        name="revoke_oauth_token",
        kinds=("token",),
        undoable=False,
        residual="Access tokens already issued are taken until they expire by whoever does not ask the server.",
        needs=("the credentials of the client that the token was issued to",),
    )

    def __init__(self, http: Http, settings: OauthSettings) -> None:
        self._http = http
        self._settings = settings

    def prepare(self, action: Action) -> Prepared:
        """See ``Doing``."""
        active = self._active(action)
        if active is False and self._settings.in_audience:
            return Prepared("already", "the server says that the token is not active")
        return Prepared("ready", "" if active else "whether it is active is not known", {"seen_active": bool(active)})

    def apply(self, action: Action) -> Applied:
        """See ``Doing``."""
        if self._active(action) is False and self._believed(action):
            return Applied("already", "the server says that the token is not active")
        reply = self._post(self._settings.revocation_path, {"token": self._token(action), "token_type_hint": self._settings.hint})
        said = _error_in(reply)
        if said:
            # Keycloak: 200, and in the body that it knew no such token.
            return Applied("already", f"the server answered {reply.status} and {said!r}: it held no such token any more")
        return Applied("applied", f"the server answered {reply.status}, as it does for any token")

    def verify(self, action: Action) -> Verified:
        """See ``Doing``."""
        active = self._active(action)
        if active:
            return Verified("not-effective", "the server says that the token is active")
        if active is None:
            return Verified("unverified", "no introspection is set up, and the server says 200 in any case")
        if not self._believed(action):
            return Verified("unverified", "inactive, says the server; but it may say so of every token when we ask")
        return Verified("verified", "the server says that the token is not active")

    def _believed(self, action: Action) -> bool:
        return self._settings.in_audience or bool(kept(action).get("seen_active"))

    def _token(self, action: Action) -> str:
        held = self._settings.tokens.get(action.target.partition(":")[2])
        if held is None:
            raise gone(f"{action.target} among the tokens we hold")
        return held.read()

    def _active(self, action: Action) -> bool | None:
        """What introspection says; None where none is set up."""
        token = self._token(action)
        if not self._settings.introspection_path:
            return None
        reply = self._post(self._settings.introspection_path, {"token": token, "token_type_hint": self._settings.hint})
        return shaped(reply.json(), _Introspection).active

    def _post(self, path: str, form: dict[str, str]) -> Reply:
        pair = f"{quote_plus(self._settings.client_id)}:{quote_plus(self._settings.client_secret.read())}"
        headers = {"Authorization": f"Basic {b64encode(pair.encode()).decode()}", "Accept": "application/json"}
        return self._http.call("POST", path, headers=headers, form=form)


def _error_in(reply: Reply) -> str:
    """The error in the body of an answer that says success; "" where there is none. RFC 7009 wants no body and allows any."""
    try:
        found: Any = reply.json()
    except CallFailed:
        return ""
    return str(found["error"])[:100] if isinstance(found, dict) and "error" in found else ""


class Oauth(ByVerb):
    """The adapter. See the module."""

    title: ClassVar[str] = "OAuth 2.0: tokens that we hold, revoked at their server"
    verbs: ClassVar[tuple[Verb, ...]] = (RevokeOauthToken.verb,)
    Settings: ClassVar[type[msgspec.Struct]] = OauthSettings

    def __init__(self, settings: OauthSettings, http: Http | None = None) -> None:
        """``http``: what stands in for the connection where a server is rehearsed."""
        http = http or Http(settings)
        super().__init__(http, [RevokeOauthToken(http, settings)])

    @classmethod
    def rehearsal(cls) -> Rehearsal:
        """A server with the refresh token of a pipeline."""
        fake = FakeOauth()
        settings = OauthSettings(
            url="http://127.0.0.1:0",
            client_id="tocsin",
            client_secret=Rehearsed(),
            revocation_path="/revoke",
            introspection_path="/introspect",
            in_audience=True,
            tokens={"pipeline": Rehearsed()},
        )
        return Rehearsal(cls(settings, Http(settings, fake.transport())), {"revoke_oauth_token": ("token:pipeline",)}, fake.state)


ADAPTER = Oauth
