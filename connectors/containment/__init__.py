"""Containment: one file per system that can be acted on, each step small, checked, and taken back when its time is up.

**The contract.** An adapter is a module in this package with ``ADAPTER = <class>``, found by the module's name; nothing is listed
anywhere. The responder calls it in this order, from one thread, each call possibly again after a crash:

1. ``prepare``: read the present state and change nothing. Its snapshot is plain JSON data, written to the ledger *before* the next
   call, so that a restart knows both what to take back and which instance was meant (a pod's uid).
2. ``apply``: bring the effect about, for the very thing in the snapshot. With one action id it happens once however often it is called.
3. ``verify``: look at the *effect*, not at what ``apply`` wrote: does the token still authenticate, can the pod still connect?
4. ``undo``: take back our own change, and nothing that somebody else has changed since.
5. ``verify_undone``: nothing of this action is left in the target.

What fails in the ordinary course (not found, refused, replaced, down) is a typed result with a sentence and, where it is known, the
``Trouble``: it says whether trying again later can help. An adapter raises only on its own faults; what is raised ends the process, and
the restart finds the step unfinished. What an adapter does not do: decide, limit, retry, or wait; every safety rule stands in
``detector.kernel``, which is asked before every call, a retry included. No call may last longer than the adapter's own time-outs.

**Secrets** come from files or the environment (``_http.Secret``) and are read when needed, so that a rotated one is taken up. They
never stand in ``Settings``, in a snapshot, or in a reason.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

import msgspec

#: State before the action, as plain JSON data.
Snapshot = dict[str, Any]


class Verb(msgspec.Struct, frozen=True, kw_only=True):
    """One thing an adapter can do."""

    name: str
    #: Kinds of identity it acts on (``connectors.names.KINDS``).
    kinds: tuple[str, ...]
    #: Whether it can be taken back. What cannot is used once and has no end.
    undoable: bool
    #: What stays open although the effect is there: one sentence, copied into the ledger.
    residual: str
    #: The least permissions the adapter's account must have for it, undo included.
    needs: tuple[str, ...]
    #: It loses work or data, or puts a thing out of use that others depend on: two people must have approved it.
    destructive: bool = False
    #: Its effect can never be seen from here (a message to others): "unverified" is its usual end and no sign of trouble.
    blind: bool = False


class Action(msgspec.Struct, frozen=True, kw_only=True):
    """One bounded containment step. ``id`` is the idempotency key and marks whatever the adapter creates in the target."""

    id: str
    verb: str
    #: Normalised identity of one of the verb's kinds.
    target: str
    #: What ``prepare`` read; None before that.
    snapshot: Snapshot | None = None
    #: The alert it answers, for marks and messages in the target; "" where it answers none.
    alert: str = ""
    #: When this step was decided on, and when it will be taken back (0 = never), in microseconds. An adapter that needs the time of the
    #: first keeps it in the snapshot.
    time: int = 0
    due: int = 0


#: What kept a call from its end. ``gone``: the thing is not there (any more). ``refused``: the target will not, whoever asks.
#: ``unauthorised``: it will not for us (401, 403). ``conflict``: somebody changed it meanwhile (409, 412). ``busy``: it asks us to
#: wait (429, 503 with Retry-After, 423). ``down``: no whole answer came (no connection, time-out, 5xx, half a reply).
TroubleKind = Literal["gone", "refused", "unauthorised", "conflict", "busy", "down"]

#: The kinds that may pass by themselves: the responder tries again, with growing, jittered pauses, while the rules still allow it.
PASSING: frozenset[TroubleKind] = frozenset({"conflict", "busy", "down"})


class Trouble(NamedTuple):
    """Why a call did not do what it should. ``retry_after``: seconds the target asked us to wait, 0 where it named none."""

    kind: TroubleKind
    retry_after: float = 0.0


class Prepared(NamedTuple):
    """``ready``: it can be done, ``snapshot`` is set. ``already``: it is so without us, there is nothing to do or to take back."""

    status: Literal["ready", "already", "failed"]
    reason: str
    snapshot: Snapshot | None = None
    trouble: Trouble | None = None


class Applied(NamedTuple):
    """``already``: it is so, by this very action or by somebody else since ``prepare``. ``failed``: nothing of it is in the target.

    ``unknown``: the call, or a part of it, may have arrived (time-out after sending, half a reply). The responder then looks with
    ``verify``, and calls ``apply`` again or ``undo``. ``residual``: what stays open in this very case, where that is more exact than
    the verb's sentence ("issued access tokens live until 12:05:00Z").
    """

    status: Literal["applied", "already", "failed", "unknown"]
    reason: str
    trouble: Trouble | None = None
    residual: str = ""


class Verified(NamedTuple):
    """``unverified``: the effect cannot be seen from here. ``not-effective``: it can be seen, and is missing.

    ``again``: look once more after so many seconds, because the target is known to take that long (a cache); 0 = this is final.
    """

    status: Literal["verified", "unverified", "not-effective"]
    reason: str
    again: float = 0.0
    trouble: Trouble | None = None


class Undone(NamedTuple):
    """``already``: nothing of this action is left to take back. ``failed``: it is still there, or nobody knows: tried again later."""

    status: Literal["undone", "already", "failed"]
    reason: str
    trouble: Trouble | None = None


@runtime_checkable
class Adapter(Protocol):
    """A containment plug-in. Class attributes are its self-description."""

    #: One line: what is acted on.
    title: ClassVar[str]
    verbs: ClassVar[tuple[Verb, ...]]
    #: Its settings, a msgspec Struct that forbids unknown fields. Never a secret: those come from files or the environment.
    Settings: ClassVar[type[msgspec.Struct]]

    def __init__(self, settings: Any) -> None: ...

    def prepare(self, action: Action) -> Prepared:
        """Read the state before the action; change nothing."""
        ...

    def apply(self, action: Action) -> Applied:
        """Bring the effect about, once per action id. ``action.snapshot`` is what ``prepare`` gave."""
        ...

    def verify(self, action: Action) -> Verified:
        """Whether the effect is there. Anything but ``verified`` is not success."""
        ...

    def undo(self, action: Action) -> Undone:
        """Take back what this action changed, unless somebody has changed it since."""
        ...

    def verify_undone(self, action: Action) -> Verified:
        """Whether nothing of this action is left."""
        ...

    def close(self) -> None:
        """Let go of connections. Called once, at the end."""
        ...

    @classmethod
    def rehearsal(cls) -> Rehearsal:
        """A fresh adapter over a target that stands by itself, for the conformance battery and for trying a policy out."""
        ...


class Rehearsal(NamedTuple):
    """An adapter and what it acts on, made for trying out.

    ``targets``: for each verb, identities that exist and are not contained. ``state``: the whole state of the target as plain data.
    """

    adapter: Adapter
    targets: Mapping[str, tuple[str, ...]]
    state: Callable[[], Any]


@cache
def available() -> dict[str, type[Adapter]]:
    """Every adapter by name, found by listing this package, in order of name."""
    found: dict[str, type[Adapter]] = {}
    for module in sorted(info.name for info in pkgutil.iter_modules(__path__)):
        if not module.startswith("_"):
            found[module] = importlib.import_module(f"{__name__}.{module}").ADAPTER
    return found


@cache
def offered() -> dict[str, Verb]:
    """Every verb that some adapter has, by its name. Where adapters share one, the first one's description, with all their kinds."""
    verbs: dict[str, Verb] = {}
    for adapter in available().values():
        for verb in adapter.verbs:
            first = verbs.setdefault(verb.name, verb)
            kinds = tuple(dict.fromkeys(first.kinds + verb.kinds))
            verbs[verb.name] = msgspec.structs.replace(first, kinds=kinds, destructive=first.destructive or verb.destructive)
    return verbs
