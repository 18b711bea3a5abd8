"""OpenBao, and Vault by the same API: tokens and leases revoked, entities disabled, the key of a model withheld and given back.

It acts with a token whose policy is ``deploy/openbao/tocsin.json``: what the five calls of each verb need, and nothing that reads a
secret or uses a key. Vault has no soft-delete of transit keys: ``withhold_key`` is then refused (405) and nothing changes.

By default the audit device hides accessors: then a log names the entity only, and ``disable_entity`` is what can be done.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec

from connectors.containment import Rehearsal, Verb
from connectors.containment._doing import ByVerb, Doing
from connectors.containment._fake import Rehearsed
from connectors.containment._fake_openbao import FakeOpenbao
from connectors.containment._http import Endpoint, Http, Secret
from connectors.containment._openbao_api import Api
from connectors.containment._openbao_verbs import DisableEntity, RevokeLeases, RevokeToken, WithholdKey


class OpenbaoSettings(Endpoint, kw_only=True, forbid_unknown_fields=True):
    """One server. ``url``: without ``/v1``."""

    token: Secret
    namespace: str = ""
    #: For kinds of identity (``user``, ``sa``) the accessor of the login method whose alias names are theirs; without, entities are
    #: looked for by their own name.
    alias_mounts: dict[str, str] = msgspec.field(default_factory=dict)
    #: Model -> its transit key, as "MOUNT/KEY"; the model without its "model:".
    model_keys: dict[str, str] = msgspec.field(default_factory=dict)


class Openbao(ByVerb):
    """The adapter. See the module."""

    title: ClassVar[str] = "OpenBao: tokens, leases, entities and transit keys"
    verbs: ClassVar[tuple[Verb, ...]] = (RevokeToken.verb, RevokeLeases.verb, DisableEntity.verb, WithholdKey.verb)
    Settings: ClassVar[type[msgspec.Struct]] = OpenbaoSettings

    def __init__(self, settings: OpenbaoSettings, http: Http | None = None) -> None:
        """``http``: what stands in for the connection where a server is rehearsed."""
        http = http or Http(settings)
        api = Api(http, settings.token, settings.namespace)
        doings: list[Doing] = [
            RevokeToken(api),
            RevokeLeases(api),
            DisableEntity(api, settings.alias_mounts),
            WithholdKey(api, settings.model_keys),
        ]
        super().__init__(http, doings)

    @classmethod
    def rehearsal(cls) -> Rehearsal:
        """A server with a person, a service account, leases of a database role, and a transit key that seals a model."""
        fake = FakeOpenbao()
        keys = {"ai/llama": "transit/llama"}
        mounts = {"sa": "auth_kubernetes_1"}
        settings = OpenbaoSettings(url="http://127.0.0.1:0", token=Rehearsed(), model_keys=keys, alias_mounts=mounts)
        targets = {
            "revoke_token": ("token:acc-alice",),
            "revoke_leases": ("secret:database/creds/trainer",),
            "disable_entity": ("user:alice", "sa:team-a/trainer"),
            "withhold_key": ("secret:transit/llama", "model:ai/llama"),
        }
        return Rehearsal(cls(settings, Http(settings, fake.transport())), targets, fake.state)


ADAPTER = Openbao
