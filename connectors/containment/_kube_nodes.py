"""What can be done to one node."""

from __future__ import annotations

from typing import Any

import msgspec

from connectors.containment import Action, Verb, Verified
from connectors.containment._kube_api import QUARANTINE, STOPPED_BY, Api, Node, Pod, Taint, name_of
from connectors.containment._kube_change import Change

#: How soon pods that must leave are looked for again, in seconds: their grace is 30 by default.
LOOK_AGAIN = 5.0


class OnNode(Change[Node]):
    """A change of a node."""

    what = "node"

    def find(self, target: str) -> Node | None:
        return self.api.find(f"/api/v1/nodes/{name_of(target)}", Node)

    def path(self, thing: Node) -> str:
        return f"/api/v1/nodes/{thing.metadata.name}"


class CordonNode(OnNode):
    """Let nothing new be placed on a node."""

    verb = Verb(
        name="cordon_node",
        kinds=("node",),
        undoable=True,
        residual="What runs on the node goes on, and pods that name their node are still placed there.",
        needs=("nodes: get, patch",),
    )

    def so(self, thing: Node) -> str:
        return "the node is cordoned" if thing.spec.unschedulable else ""

    def ours(self, thing: Node, our: str) -> bool:
        return thing.metadata.annotations.get(STOPPED_BY) == our

    def done(self, thing: Node, our: str) -> dict[str, Any]:
        return {"metadata": {"annotations": {STOPPED_BY: our}}, "spec": {"unschedulable": True}}

    def undone(self, thing: Node, our: str) -> dict[str, Any]:
        return {"metadata": {"annotations": {STOPPED_BY: None}}, "spec": {"unschedulable": None}}

    def seen(self, action: Action, thing: Node) -> Verified:
        return Verified("verified", "the scheduler places nothing on the node")


class TaintNode(OnNode):
    """Drive everything that does not tolerate it off a node. The whole list goes back with our taint in it: patches replace lists."""

    verb = Verb(
        name="taint_node",
        kinds=("node",),
        undoable=True,
        residual="Pods that tolerate every taint stay, daemons among them; what was driven off runs elsewhere.",
        needs=("nodes: get, patch", "pods: list"),
        destructive=True,
    )

    def so(self, thing: Node) -> str:
        return "the node bears the quarantine taint" if self._ours(thing) else ""

    def ours(self, thing: Node, our: str) -> bool:
        return any(taint.value == our for taint in self._ours(thing))

    def done(self, thing: Node, our: str) -> dict[str, Any]:
        return _taints([*thing.spec.taints, Taint(key=QUARANTINE, value=our, effect="NoExecute")])

    def undone(self, thing: Node, our: str) -> dict[str, Any]:
        return _taints([taint for taint in thing.spec.taints if taint.key != QUARANTINE or taint.value != our])

    def seen(self, action: Action, thing: Node) -> Verified:
        ours = self._ours(thing)[0]
        found = self.api.items("/api/v1/pods", Pod, fieldSelector=f"spec.nodeName={thing.metadata.name}")
        left = [pod for pod in found if not any(one.bears(ours) for one in pod.spec.tolerations)]
        if left:
            return Verified("not-effective", f"{len(left)} pods that do not tolerate it are still there", again=LOOK_AGAIN)
        return Verified("verified", "no pod is left on the node that does not tolerate it")

    def _ours(self, thing: Node) -> list[Taint]:
        return [taint for taint in thing.spec.taints if taint.key == QUARANTINE and taint.effect == "NoExecute"]


def _taints(taints: list[Taint]) -> dict[str, Any]:
    return {"spec": {"taints": msgspec.to_builtins(taints) or None}}


def node_doings(api: Api) -> list[OnNode]:
    """What can be done to nodes."""
    return [CordonNode(api), TaintNode(api)]
