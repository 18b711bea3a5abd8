"""Keycloak: sessions ended, offline ones too, an account disabled, another factor asked for, old tokens of a realm or client refused.

It acts as the service account of a client of the realm. With ``realm-management/manage-users`` alone it does everything but
``push_not_before``, which needs more than a responder should have by default; both accounts are in ``deploy/keycloak/``.

Keycloak keeps no note of who disabled an account, so each action that can be taken back is noted in a group of its own, ``tocsin-ID``,
without members or roles: it says what was done, why and for how long, and it goes with the undoing.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec

from connectors.containment import Rehearsal, Verb
from connectors.containment._doing import ByVerb, Doing
from connectors.containment._fake import Rehearsed
from connectors.containment._fake_keycloak import FakeKeycloak
from connectors.containment._http import Endpoint, Http, Secret
from connectors.containment._keycloak_api import Api
from connectors.containment._keycloak_realm import PushNotBefore
from connectors.containment._keycloak_verbs import DisableUser, RequireStepUp, RevokeOffline, RevokeSessions


class KeycloakSettings(Endpoint, kw_only=True, forbid_unknown_fields=True):
    """One realm. ``url``: as users see it, without ``/realms``."""

    realm: str
    #: The client whose service account acts, and its secret.
    client_id: str
    client_secret: Secret
    #: What is asked for at the next login: a required action that is enabled in the realm.
    step_up: str = "CONFIGURE_TOTP"
    #: Lifespan of the realm's access tokens, to say in the ledger how long those already issued may still be taken elsewhere.
    access_token_seconds: Annotated[float, msgspec.Meta(gt=0)] = 300.0


class Keycloak(ByVerb):
    """The adapter. See the module."""

    title: ClassVar[str] = "Keycloak: accounts, sessions and tokens of a realm"
    verbs: ClassVar[tuple[Verb, ...]] = (
        RevokeSessions.verb,
        RevokeOffline.verb,
        DisableUser.verb,
        RequireStepUp.verb,
        PushNotBefore.verb,
    )
    Settings: ClassVar[type[msgspec.Struct]] = KeycloakSettings

    def __init__(self, settings: KeycloakSettings, http: Http | None = None) -> None:
        """``http``: what stands in for the connection where a realm is rehearsed."""
        http = http or Http(settings)
        api = Api(http, settings.realm, settings.client_id, settings.client_secret)
        lasting = settings.access_token_seconds
        doings: list[Doing] = [
            RevokeSessions(api, lasting),
            RevokeOffline(api, lasting),
            DisableUser(api, lasting),
            RequireStepUp(api, lasting, settings.step_up),
            PushNotBefore(api),
        ]
        super().__init__(http, doings)

    @classmethod
    def rehearsal(cls) -> Rehearsal:
        """A realm with a user who is logged in, one with an offline session, one who is not logged in, and a client's own account."""
        fake = FakeKeycloak()
        settings = KeycloakSettings(url="http://127.0.0.1:0", realm="ai", client_id="tocsin", client_secret=Rehearsed())
        targets = {
            "revoke_sessions": ("user:alice", "user:bob", "client:trainer"),
            "revoke_offline": ("user:bob",),
            "disable_user": ("user:carol", "client:evaluator"),
            "require_step_up": ("user:carol",),
            "push_not_before": ("realm:ai", "client:trainer"),
        }
        return Rehearsal(cls(settings, Http(settings, fake.transport())), targets, fake.state)


ADAPTER = Keycloak
