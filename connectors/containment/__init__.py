"""Containment: one file per system that can be acted on, each step small, checked, and taken back when its time is up.

**The contract.** An adapter is a module in this package with ``ADAPTER = <class>``, found by the module's name; nothing is listed
anywhere. The responder calls it in this order, from one thread, each call possibly again after a crash:

1. ``prepare``: read the present state and change nothing. Its snapshot is plain JSON data, written to the ledger *before* the next
   call, so that a restart knows both what to take back and which instance was meant (a pod's uid).
2. ``apply``: bring the effect about, for the very thing in the snapshot. With one action id it happens once however often it is called.
3. ``verify``: look at the *effect*, not at what ``apply`` wrote: does the token still authenticate, can the pod still connect?
4. ``undo``: take back our own change, and nothing that somebody else has changed since.
5. ``verify_undone``: nothing of this action is left in the target.

What fails in the ordinary course (not found, refused, replaced) is a typed result with a sentence. An adapter raises only on its own
faults. What it does not do: decide, limit, retry, or wait; every safety rule stands in ``detector.policy``, before any adapter.
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


class Action(msgspec.Struct, frozen=True, kw_only=True):
    """One bounded containment step. ``id`` is the idempotency key and marks whatever the adapter creates in the target."""

    id: str
    verb: str
    #: Normalised identity of one of the verb's kinds.
    target: str
    #: What ``prepare`` read; None before that.
    snapshot: Snapshot | None = None


class Prepared(NamedTuple):
    """``ready``: it can be done, ``snapshot`` is set. ``already``: it is so without us, there is nothing to do or to take back."""

    status: Literal["ready", "already", "failed"]
    reason: str
    snapshot: Snapshot | None = None


class Applied(NamedTuple):
    """``already``: it is so, by this very action or by somebody else since ``prepare``. ``failed``: nothing of it is in the target."""

    status: Literal["applied", "already", "failed"]
    reason: str


class Verified(NamedTuple):
    """``unverified``: the effect cannot be seen from here. ``not-effective``: it can be seen, and is missing."""

    status: Literal["verified", "unverified", "not-effective"]
    reason: str


class Undone(NamedTuple):
    """``already``: nothing of this action is left to take back."""

    status: Literal["undone", "already", "failed"]
    reason: str


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
    """Every verb that some adapter has, by its name; where two adapters share a verb, the first one's description."""
    verbs: dict[str, Verb] = {}
    for adapter in available().values():
        for verb in adapter.verbs:
            verbs.setdefault(verb.name, verb)
    return verbs
