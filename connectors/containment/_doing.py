"""An adapter made of one object per verb, for targets spoken to over HTTP: what each call raises becomes one of the typed results."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import msgspec

from connectors.containment import Action, Applied, Prepared, Snapshot, Trouble, Undone, Verb, Verified
from connectors.containment._http import CallFailed, Http, Reply

#: What systems accept as a mark: a label value of Kubernetes, the strictest of them.
_MARK = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")

T = TypeVar("T")


class Doing(Protocol):
    """How one verb is done. Called with a target of the verb's kinds; ``apply`` with a snapshot. May raise CallFailed."""

    @property
    def verb(self) -> Verb: ...
    def prepare(self, action: Action) -> Prepared: ...
    def apply(self, action: Action) -> Applied: ...
    def verify(self, action: Action) -> Verified: ...
    def undo(self, action: Action) -> Undone: ...
    def verify_undone(self, action: Action) -> Verified: ...


class OneWay:
    """The half of a verb that cannot be taken back."""

    def undo(self, action: Action) -> Undone:
        """Never."""
        return Undone("failed", "this cannot be taken back", Trouble("refused"))

    def verify_undone(self, action: Action) -> Verified:
        """Never."""
        return Verified("unverified", "this cannot be taken back", trouble=Trouble("refused"))


class ByVerb:
    """The five calls of ``Adapter``, handed to the object of the action's verb."""

    def __init__(self, http: Http, doings: Sequence[Doing]) -> None:
        self.http = http
        self._doings = {doing.verb.name: doing for doing in doings}

    def prepare(self, action: Action) -> Prepared:
        """See ``Adapter``."""
        doing = self._doing(action)
        if isinstance(doing, str):
            return Prepared("failed", doing, trouble=Trouble("refused"))
        try:
            with self.http.step():
                return doing.prepare(action)
        except CallFailed as error:
            return Prepared("failed", error.reason, trouble=error.trouble)

    def apply(self, action: Action) -> Applied:
        """See ``Adapter``."""
        doing = self._doing(action)
        if isinstance(doing, str):
            return Applied("failed", doing, Trouble("refused"))
        if action.snapshot is None:
            return Applied("failed", "not prepared: no snapshot", Trouble("refused"))
        try:
            with self.http.step():
                return doing.apply(action)
        except CallFailed as error:
            return Applied("unknown" if error.sent else "failed", error.reason, error.trouble)

    def verify(self, action: Action) -> Verified:
        """See ``Adapter``."""
        doing = self._doing(action)
        if isinstance(doing, str):
            return Verified("unverified", doing, trouble=Trouble("refused"))
        try:
            with self.http.step():
                return doing.verify(action)
        except CallFailed as error:
            return Verified("unverified", error.reason, trouble=error.trouble)

    def undo(self, action: Action) -> Undone:
        """See ``Adapter``."""
        doing = self._doing(action)
        if isinstance(doing, str):
            return Undone("failed", doing, Trouble("refused"))
        try:
            with self.http.step():
                return doing.undo(action)
        except CallFailed as error:
            if error.trouble.kind == "gone":
                return Undone("already", f"the thing itself is gone: {error.reason}", error.trouble)
            return Undone("failed", error.reason, error.trouble)

    def verify_undone(self, action: Action) -> Verified:
        """See ``Adapter``."""
        doing = self._doing(action)
        if isinstance(doing, str):
            return Verified("unverified", doing, trouble=Trouble("refused"))
        try:
            with self.http.step():
                return doing.verify_undone(action)
        except CallFailed as error:
            if error.trouble.kind == "gone":
                return Verified("verified", f"the thing itself is gone: {error.reason}", trouble=error.trouble)
            return Verified("unverified", error.reason, trouble=error.trouble)

    def close(self) -> None:
        """See ``Adapter``."""
        self.http.close()

    def _doing(self, action: Action) -> Doing | str:
        doing = self._doings.get(action.verb)
        if doing is None:
            return f"no such verb: {action.verb}"
        kind = action.target.partition(":")[0]
        return doing if kind in doing.verb.kinds else f"{action.verb} does not act on the kind {kind!r}"


def mark(action: Action) -> str:
    """What marks this action's work in a target: its id, or a digest where the id could not stand there."""
    if _MARK.fullmatch(action.id):
        return action.id
    return "h-" + hashlib.blake2b(action.id.encode(), digest_size=16).hexdigest()


def shaped(data: Any, form: type[T]) -> T:
    """Plain data in its form. Raises CallFailed (down): an answer of another shape is half a reply, or not this system's."""
    try:
        return msgspec.convert(data, form, strict=False)
    except msgspec.ValidationError as error:
        raise CallFailed("down", f"the answer is not what it should be: {error}", sent=True) from None


def error_body(reply: Reply) -> dict[str, Any]:
    """The body of an answer that is an error, {} where it is no JSON object: then it is not the target's own."""
    try:
        data = reply.json()
    except CallFailed:
        return {}
    return data if isinstance(data, dict) else {}


def kept(action: Action) -> Snapshot:
    """The snapshot, or nothing."""
    return action.snapshot or {}


def gone(what: str) -> CallFailed:
    """The thing is not there."""
    return CallFailed("gone", f"not found: {what}")
