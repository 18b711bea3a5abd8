"""What can be done to all tokens of a Keycloak realm, or of one of its clients; and which tokens are too old."""

from __future__ import annotations

from typing import Any

from connectors.containment import Action, Applied, Prepared, Trouble, Verb, Verified
from connectors.containment._doing import OneWay, gone, kept, shaped
from connectors.containment._http import CallFailed
from connectors.containment._keycloak_api import Api, Client, Realm
from connectors.containment._marked import unsure

_SECOND = 1_000_000
#: A token issued in the second of a logout survives it, so the logout of an account without sessions is done again after so long.
ONCE_MORE = 1.0
#: What every verb on tokens leaves open.
TOKENS_LIVE = "services that do not ask Keycloak accept tokens already issued until these expire"


def since(action: Action) -> int:
    """Tokens issued up to this second must be refused: Keycloak's when it was prepared, else ours when it was decided."""
    return int(kept(action).get("now", action.time // _SECOND))


class PushNotBefore(OneWay):
    """Refuse every token of a realm, or of one client, that was issued before now. Taking it back would bring stolen tokens to life."""

    verb = Verb(
        name="push_not_before",
        kinds=("realm", "client"),
        undoable=False,
        residual=f"Everybody logs in again, thieves of passwords too; {TOKENS_LIVE}.",
        needs=("realm-management: manage-realm (for a realm)", "realm-management: manage-clients (for a client)"),
        destructive=True,
    )

    def __init__(self, api: Api) -> None:
        self.api = api

    def prepare(self, action: Action) -> Prepared:
        """See ``Doing``."""
        before = self._thing(action)[1]
        if before > since(action):
            return Prepared("already", f"tokens issued before {before} are refused")
        return Prepared("ready", "", {"not_before": before, "now": self.api.now()})

    def apply(self, action: Action) -> Applied:
        """See ``Doing``."""
        path, before, fields = self._thing(action)
        if before > since(action):
            return Applied("already", f"tokens issued before {before} are refused")
        wanted = self.api.now()
        if wanted <= since(action):
            # A token of the very second is not older than it. A limit in the next second would refuse our own token too.
            return Applied("failed", "Keycloak is still in the second of the look", Trouble("busy", ONCE_MORE))
        self.api.call("PUT", path, json={**fields, "notBefore": wanted})
        try:
            self.api.call("POST", f"{path}/push-revocation")
        except CallFailed as error:
            raise unsure(error) from None
        return Applied("applied", f"tokens issued before {wanted} are refused")

    def verify(self, action: Action) -> Verified:
        """See ``Doing``."""
        before = self._thing(action)[1]
        if before > since(action):
            return Verified("verified", f"tokens issued before {before} are refused")
        return Verified("not-effective", "tokens from before the action are accepted")

    def _thing(self, action: Action) -> tuple[str, int, dict[str, Any]]:
        """Path, present limit in seconds, and the fields that a write must name."""
        kind, _, name = action.target.partition(":")
        if kind == "realm":
            realm = shaped(self.api.call("GET", "").json(), Realm)
            if realm.not_before is None:
                raise CallFailed("unauthorised", "we may not see the realm's settings")
            if name not in (realm.realm, realm.id):
                raise gone(action.target)
            return "", realm.not_before, {}
        found = shaped(self.api.call("GET", "/clients", query={"clientId": name}).json(), list[Client])
        ours = [one for one in found if one.client_id == name]
        if len(ours) != 1:
            raise gone(action.target)
        return f"/clients/{ours[0].id}", ours[0].not_before, {"clientId": name}
