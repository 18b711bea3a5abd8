"""What analysts said of alerts: one JSON object a line, by the alert's id or by whom and when it was about."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Literal

import msgspec

from connectors.event import HOUR
from connectors.trace import TraceError
from replay.trials import Case, Trial

#: Two alerts on one identity are about the same if no more than this lies between them: the memory of evidence.
NEAR = 6 * HOUR


class Opinion(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One line of the file. ``blamed`` and ``time`` (ISO 8601 with its offset) stand for an alert that no run here opens again."""

    uid: str = ""
    verdict: Literal["true_positive", "false_positive"]
    note: str = ""
    blamed: str = ""
    time: datetime | None = None


class Judged(msgspec.Struct, kw_only=True):
    """An opinion with whom and when it is about; ``span`` in microseconds UTC, None where nothing says so."""

    opinion: Opinion
    blamed: str
    span: tuple[int, int] | None


def read_feedback(path: Path) -> list[Opinion]:
    """The opinions of a file. Raises TraceError naming the file, the line and the field."""
    found = []
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    found.append(_opinion(line, f"{path}: line {number}"))
    except OSError as error:
        raise TraceError(f"{path}: cannot be read: {error.strerror}") from None
    return found


def _opinion(line: bytes, at: str) -> Opinion:
    try:
        opinion = msgspec.json.decode(line, type=Opinion)
    except (ValueError, RecursionError) as error:
        raise TraceError(f"{at}: {str(error)[:200]}") from None
    if not opinion.uid and not (opinion.blamed and opinion.time):
        raise TraceError(f"{at}: expected uid, or blamed and time")
    if opinion.time is not None and opinion.time.tzinfo is None:
        raise TraceError(f"{at}: time: expected a time with its offset (2026-03-01T22:00:00Z)")
    return opinion


def judged(opinions: list[Opinion], trials: list[Trial]) -> list[Judged]:
    """Whom and when each opinion is about: the alert of that id in any of the trials, else what its line says."""
    cases: dict[str, Case] = {}
    for trial in reversed(trials):
        cases |= {case.uid: case for case in trial.cases}
    found = []
    for opinion in opinions:
        known = cases.get(opinion.uid)
        if known is not None:
            found.append(Judged(opinion=opinion, blamed=known.blamed, span=(known.opened, known.last)))
            continue
        time = None if opinion.time is None else int(opinion.time.timestamp() * 1e6)
        found.append(Judged(opinion=opinion, blamed=opinion.blamed, span=None if time is None else (time, time)))
    return found


def answer(case: Case, opinions: list[Judged]) -> Judged | None:
    """The opinion on an alert: by its id, else by the identity blamed and an overlap in time, the first in the file."""
    by_id = next((each for each in opinions if each.opinion.uid == case.uid), None)
    if by_id is not None:
        return by_id
    return next((each for each in opinions if each.blamed == case.blamed and each.span and near(case, each.span)), None)


def near(case: Case, span: tuple[int, int]) -> bool:
    """Whether an alert and a span of time overlap, or nearly so."""
    return case.opened <= span[1] + NEAR and span[0] <= case.last + NEAR


def kept(opinions: list[Judged], trial: Trial, verdict: str) -> tuple[int, int]:
    """(how many alerts of that verdict a trial still opens, how many there are)."""
    wanted = [each for each in opinions if each.opinion.verdict == verdict]
    ids = {case.uid for case in trial.cases}
    still = sum(
        each.opinion.uid in ids
        or (each.span is not None and any(case.blamed == each.blamed and near(case, each.span) for case in trial.cases))
        for each in wanted
    )
    return still, len(wanted)
