"""Whose word counts: checked before a person's decision is written down, and long before anything is done."""

from __future__ import annotations

from typing import NamedTuple

from connectors.decision import NotADecision, PersonDecision, content, decode
from connectors.event import MINUTE, SECOND
from connectors.secret import NoSecret
from connectors.signing import BadKey, Key
from detector.history import History
from detector.policy import Approver, Respond

#: How far two clocks may be apart.
SKEW = MINUTE


class Heard(NamedTuple):
    """A person's decision that counts, or why it does not."""

    decision: PersonDecision | None
    reason: str = ""


def hear(record: bytes, vouched: str, respond: Respond, history: History, now: int, wall: int | None = None) -> Heard:
    """Judge one record. ``vouched``: whom the channel itself knows to have made it, "" where it knows nobody.

    ``now``, ``wall``: the present in microseconds by the responder's time and by the wall clock. People's clocks go by the wall: a
    decision is in time where it is by either.
    """
    try:
        decision = decode(record)
    except NotADecision as error:
        return Heard(None, str(error))
    drift = (now if wall is None else wall) - now
    why = (
        _stranger(decision, vouched, respond)
        or ("taken before" if decision.id in history.heard else "")
        or (_untimely(decision.time, respond, now) and _untimely(decision.time - drift, respond, now))
        or _pointless(decision, history, max(decision.time, decision.time - drift))
        or _party(decision, history)
    )
    return Heard(None if why else decision, why)


def _stranger(decision: PersonDecision, vouched: str, respond: Respond) -> str:
    """Why it is not known to be this person's, or this person may not approve."""
    approver = respond.approvers.get(decision.person)
    if respond.approvers and approver is None:
        return f"{decision.person} is not in respond.approvers"
    if approver is not None and (approver.public_key or approver.secret):
        try:
            signed = _key(approver).signed(content(decision), decision.signature)
        except (BadKey, NoSecret) as error:
            return f"the key of {decision.person}: {error}"
        return "" if signed else f"not signed with the key of {decision.person}"
    if vouched == decision.person:
        return ""
    return f"nothing shows that {decision.person} made it: it came from {vouched or 'nobody known'}"


def _key(approver: Approver) -> Key:
    return Key(approver.secret.read()) if approver.secret else Key(approver.public_key)


def _untimely(time: int, respond: Respond, now: int) -> str:
    if time > now + SKEW:
        return "it is from the future"
    return "it is too old" if now - time > respond.approval_seconds * SECOND + SKEW else ""


def _party(decision: PersonDecision, history: History) -> str:
    """Why this person has no say: it is about them, or about what is theirs."""
    about = history.about(decision.action)
    mine = about is not None and decision.person in (about.target, *about.owners)
    return f"it is about {decision.person}, who has no say in it" if mine else ""


def _pointless(decision: PersonDecision, history: History, time: int) -> str:
    """Why there is nothing it could be about. ``time``: when it was made."""
    held = any(hold.entry.action == decision.action for hold in history.holds.values())
    under_way = decision.action in history.pending and not history.pending[decision.action].accepted
    if decision.word == "release":
        return "" if held or under_way else "no containment of this action is in force"
    if decision.word == "deny" and under_way:
        return ""
    waiting = history.waiting.get(decision.action)
    if waiting is None:
        return "this action does not wait for anybody"
    return "it was made before this was asked" if time < waiting.entry.time - SKEW else ""
