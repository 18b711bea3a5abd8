"""Whom network policies select and what they leave open: read, not probed. They say what a network plugin should do, if any."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from connectors.containment._kube_api import QUARANTINE, Metadata

DIRECTIONS = ("Ingress", "Egress")


class Requirement(msgspec.Struct, rename="camel", kw_only=True, frozen=True):
    """One expression of a selector."""

    key: str
    operator: str
    values: list[str] = []

    def holds(self, labels: dict[str, str]) -> bool:
        """Whether a thing with these labels meets it. An operator that is not known never holds."""
        present = self.key in labels
        holding = {
            "Exists": present,
            "DoesNotExist": not present,
            "In": present and labels.get(self.key) in self.values,
            "NotIn": not present or labels.get(self.key) not in self.values,
        }
        return holding.get(self.operator, False)


class Selector(msgspec.Struct, rename="camel", kw_only=True, frozen=True):
    """A label selector. An empty one selects everything."""

    match_labels: dict[str, str] = {}
    match_expressions: list[Requirement] = []

    def selects(self, labels: dict[str, str]) -> bool:
        """Whether a thing with these labels is selected."""
        plain = all(labels.get(key) == value for key, value in self.match_labels.items())
        return plain and all(one.holds(labels) for one in self.match_expressions)


class PolicySpec(msgspec.Struct, rename="camel", kw_only=True, frozen=True):
    """Of a NetworkPolicy."""

    pod_selector: Selector = Selector()
    policy_types: list[str] = []
    ingress: list[Any] = []
    egress: list[Any] = []


class NetworkPolicy(msgspec.Struct, rename="camel", kw_only=True, frozen=True):
    """A NetworkPolicy: it isolates in its directions and allows by its rules. No policy can take back what another allows."""

    metadata: Metadata
    spec: PolicySpec = PolicySpec()

    def allows(self, direction: str) -> bool:
        """Whether it lets anything at all through."""
        return bool(self.spec.ingress if direction == "Ingress" else self.spec.egress)


class DenySpec(msgspec.Struct, rename="camel", kw_only=True, frozen=True):
    """Of a CiliumClusterwideNetworkPolicy: the rules that win over every allowance."""

    endpoint_selector: Selector = Selector()
    ingress_deny: list[dict[str, Any]] = []
    egress_deny: list[dict[str, Any]] = []


class CiliumPolicy(msgspec.Struct, rename="camel", kw_only=True, frozen=True):
    """A CiliumClusterwideNetworkPolicy."""

    metadata: Metadata
    spec: DenySpec = DenySpec()

    def denies(self, labels: dict[str, str]) -> bool:
        """Whether it denies everything, both ways, to a pod with these labels."""
        inward = any("all" in rule.get("fromEntities", ()) for rule in self.spec.ingress_deny)
        outward = any("all" in rule.get("toEntities", ()) for rule in self.spec.egress_deny)
        return inward and outward and self.spec.endpoint_selector.selects(labels)


class CiliumEnforcing(msgspec.Struct, rename="camel", kw_only=True, frozen=True):
    """One direction of an endpoint's policy: what the agent is about to apply. Without ``endpoint-status: policy`` it says nothing."""

    enforcing: bool = False
    state: str = ""

    @property
    def silent(self) -> bool:
        """Whether nothing is said: the state is then missing, or "<status disabled>"."""
        return not self.enforcing and (not self.state or "disabled" in self.state)


class CiliumEnforced(msgspec.Struct, rename="camel", kw_only=True, frozen=True):
    """Of an endpoint: what its agent enforces."""

    ingress: CiliumEnforcing = CiliumEnforcing()
    egress: CiliumEnforcing = CiliumEnforcing()


class CiliumIdentity(msgspec.Struct, rename="camel", kw_only=True, frozen=True):
    """The labels that the agent has given the endpoint, each with its source in front."""

    labels: list[str] = []


class CiliumStatus(msgspec.Struct, rename="camel", kw_only=True, frozen=True):
    """Of an endpoint. ``state``: "ready" also while it is made anew, so that it tells only what has gone wrong."""

    identity: CiliumIdentity = CiliumIdentity()
    policy: CiliumEnforced | None = None
    state: str = ""


class CiliumEndpoint(msgspec.Struct, rename="camel", kw_only=True, frozen=True):
    """A pod as the Cilium agent of its node sees it."""

    metadata: Metadata
    status: CiliumStatus = CiliumStatus()

    def told(self, mark: str) -> Literal["applies", "behind", "silent"]:
        """What the agent says of the quarantine label of that value: applied both ways, not yet, or nothing."""
        if f"k8s:{QUARANTINE}={mark}" not in self.status.identity.labels or self.status.state not in ("", "ready"):
            return "behind"
        ways = (self.status.policy.ingress, self.status.policy.egress) if self.status.policy else ()
        if not ways or any(way.silent for way in ways):
            return "silent"
        return "applies" if all(way.enforcing for way in ways) else "behind"


def openings(policies: list[NetworkPolicy], labels: dict[str, str]) -> list[str]:
    """What is left open to a pod with these labels, as sentences; nothing where the policies as written cut it off both ways."""
    chosen = [policy for policy in policies if policy.spec.pod_selector.selects(labels)]
    found = [
        f"no NetworkPolicy isolates it for {direction.lower()}"
        for direction in DIRECTIONS
        if not any(direction in policy.spec.policy_types for policy in chosen)
    ]
    found += [
        f"NetworkPolicy {policy.metadata.name} allows {direction.lower()}"
        for policy in chosen
        for direction in DIRECTIONS
        if direction in policy.spec.policy_types and policy.allows(direction)
    ]
    return found
