"""What the detector has to say of itself: blind spots, as alerts on the line of their own, at most one a day and cause."""

from __future__ import annotations

import hashlib

from connectors.alert import Alert
from models.kernels import DAY


class Notices:
    """Turns causes into alerts. ``told``: cause -> when it was last told; the whole state."""

    def __init__(self) -> None:
        self.told: dict[str, float] = {}

    def full(self, time: float, table: str, limit: int) -> list[Alert]:
        """A table of profiles has met its limit at ``time`` (microseconds) and has forgotten the least settled of them."""
        text = (
            f"the limit of {limit:,} profiles ({table.replace('.', ': ')}) is reached: those idle longest and known shortest are "
            "forgotten, restricted ones are kept. Either the site has grown and limits.* is too low, or someone floods us with new "
            "identities"
        )
        return self._say(time, "service:tocsin/profiles", text)

    def _say(self, time: float, about: str, text: str) -> list[Alert]:
        last = self.told.get(about)
        if last is not None and time - last < DAY:
            return []
        self.told[about] = time
        uid = hashlib.blake2b(f"{about}\n{int(time)}".encode(), digest_size=12).hexdigest()
        return [_alert(uid, int(time), about, text)]


def _alert(uid: str, time: int, about: str, text: str) -> Alert:
    return Alert(
        uid=uid,
        notice=text,
        revision=0,
        activity="open",
        time=time,
        opened=time,
        first=time,
        last=time,
        blamed=about,
        role="object",
        principals=[],
        targets=[],
        score=0.0,
        threshold=0.0,
        evidence_now=0.0,
        evidence_peak=0.0,
        severity=3,
        events=1,
        partners=0,
        signals=[],
        streams=[],
        actions=[],
        evidence=[],
        probation=False,
    )
