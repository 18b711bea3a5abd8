"""What the detector has to say of itself: blind spots, as alerts on the line of their own, at most one a day and cause."""

from __future__ import annotations

import hashlib
from typing import Literal

import msgspec

from connectors.alert import Alert
from models.kernels import DAY

#: OCSF severity_id of a notice that names none: medium.
SEVERITY = 3


class Standing(msgspec.Struct, kw_only=True):
    """A notice that is still open: what its next revision must repeat. ``said``: when its last revision was made."""

    uid: str
    opened: float
    said: float
    severity: int
    revision: int = 0


class Notices:
    """Turns causes into alerts: opened once a day and cause, told again once a day while they last, closed when they are over.

    ``told``: cause -> when it was last opened. ``standing``: cause -> its open notice; causes that nobody will call over (a table that
    is full) have none. Both together are the whole state. Times are microseconds.
    """

    def __init__(self) -> None:
        self.told: dict[str, float] = {}
        self.standing: dict[str, Standing] = {}

    def full(self, time: float, table: str, limit: int) -> list[Alert]:
        """A table of profiles has met its limit at ``time`` (microseconds) and has forgotten the least settled of them."""
        text = (
            f"the limit of {limit:,} profiles ({table.replace('.', ': ')}) is reached: those idle longest and known shortest are "
            "forgotten, restricted ones are kept. Either the site has grown and limits.* is too low, or someone floods us with new "
            "identities"
        )
        return self._open(time, "service:tocsin/profiles", text, SEVERITY)

    def say(self, time: float, about: str, text: str, severity: int = SEVERITY) -> list[Alert]:
        """A cause holds at ``time``. Called as often as one likes; gives an alert where there is one to be written.

        It opens unless it was opened within the last day; while it stands it is updated once a day, or at once when it has grown more
        severe. ``about``: the identity that the alert blames, and the cause's name. ``severity``: OCSF severity_id.
        """
        held = self.standing.get(about)
        if held is None:
            out = self._open(time, about, text, severity)
            if out:
                self.standing[about] = Standing(uid=out[0].uid, opened=time, said=time, severity=severity)
            return out
        if time - held.said < DAY and severity <= held.severity:
            return []
        held.said, held.severity, held.revision = time, max(severity, held.severity), held.revision + 1
        return [_alert(held, "update", time, about, text)]

    def over(self, time: float, about: str, text: str) -> list[Alert]:
        """A cause no longer holds at ``time``: the closing revision of its notice, if one stands."""
        held = self.standing.pop(about, None)
        if held is None:
            return []
        held.revision += 1
        return [_alert(held, "close", time, about, text)]

    def _open(self, time: float, about: str, text: str, severity: int) -> list[Alert]:
        last = self.told.get(about)
        if last is not None and time - last < DAY:
            return []
        self.told[about] = time
        uid = hashlib.blake2b(f"{about}\n{int(time)}".encode(), digest_size=12).hexdigest()
        return [_alert(Standing(uid=uid, opened=time, said=time, severity=severity), "open", time, about, text)]


def _alert(held: Standing, activity: Literal["open", "update", "close"], time: float, about: str, text: str) -> Alert:
    return Alert(
        uid=held.uid,
        notice=text,
        revision=held.revision,
        activity=activity,
        time=int(time),
        opened=int(held.opened),
        first=int(held.opened),
        last=int(time),
        blamed=about,
        role="object",
        principals=[],
        targets=[],
        score=0.0,
        threshold=0.0,
        evidence_now=0.0,
        evidence_peak=0.0,
        severity=held.severity,
        events=1,
        partners=0,
        signals=[],
        streams=[],
        actions=[],
        evidence=[],
        probation=False,
    )
