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
    """An opinion with whom and when it is about; ``span`` in microseconds UTC, None where nothing says so. ``others``: ids of what was
    open on that identity beside the alert it is about, and so is another alert."""

    opinion: Opinion
    blamed: str
    span: tuple[int, int] | None
    others: frozenset[str] = frozenset()


def read_feedback(path: Path) -> list[Opinion]:
    """The opinions of a file; of several on one alert the last, for people change their minds. Raises TraceError naming the file, the
    line and the field."""
    found: dict[tuple[str, str, datetime | None], Opinion] = {}
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    opinion = _opinion(line, f"{path}: line {number}")
                    found[(opinion.uid, "", None) if opinion.uid else ("", opinion.blamed, opinion.time)] = opinion
    except OSError as error:
        raise TraceError(f"{path}: cannot be read: {error.strerror}") from None
    return list(found.values())


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
    cases: dict[str, tuple[Case, Trial]] = {}
    for trial in reversed(trials):
        cases |= {case.uid: (case, trial) for case in trial.cases}
    found = []
    for opinion in opinions:
        known = cases.get(opinion.uid)
        if known is not None:
            case, trial = known
            others = frozenset(each.uid for each in trial.cases if each.blamed == case.blamed) - {case.uid}
            found.append(Judged(opinion=opinion, blamed=case.blamed, span=(case.opened, case.last), others=others))
            continue
        time = None if opinion.time is None else int(opinion.time.timestamp() * 1e6)
        found.append(Judged(opinion=opinion, blamed=opinion.blamed, span=None if time is None else (time, time)))
    return found


def answer(case: Case, opinions: list[Judged]) -> Judged | None:
    """The opinion on an alert: by its id, else by the identity blamed and an overlap in time, the first in the file."""
    by_id = next((each for each in opinions if each.opinion.uid == case.uid), None)
    if by_id is not None:
        return by_id
    return next((each for each in opinions if _alike(case, each)), None)


def unheard(opinions: list[Judged], trials: list[Trial]) -> int:
    """How many opinions are about no alert of any trial."""
    ids = {case.uid for trial in trials for case in trial.cases}
    return sum(
        each.opinion.uid not in ids and not any(_alike(case, each) for trial in trials for case in trial.cases) for each in opinions
    )


def _alike(case: Case, opinion: Judged) -> bool:
    """Whether an alert of another id may be the one that an opinion is about."""
    return case.blamed == opinion.blamed and opinion.span is not None and case.uid not in opinion.others and near(case, opinion.span)


def near(case: Case, span: tuple[int, int]) -> bool:
    """Whether an alert and a span of time overlap, or nearly so."""
    return case.opened <= span[1] + NEAR and span[0] <= case.last + NEAR


def kept(opinions: list[Judged], trial: Trial, verdict: str) -> tuple[int, int]:
    """(how many alerts of that verdict a trial still opens, how many there are)."""
    wanted = [each for each in opinions if each.opinion.verdict == verdict]
    ids = {case.uid for case in trial.cases}
    still = sum(each.opinion.uid in ids or any(_alike(case, each) for case in trial.cases) for each in wanted)
    return still, len(wanted)
