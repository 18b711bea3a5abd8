"""A report's passes at their extremes: sources without rows, one row, no alert, many alerts, many notices; and its labelled page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest

from connectors.alert import Alert
from connectors.trace import TraceError
from detector.config import ConfigError, parse
from detector.notices import Notices
from detector.pipeline import Pipeline
from replay import survey as surveying
from replay.plots import timeline, volume
from replay.report import Gathered, gather, page_of
from replay.survey import KEPT, survey
from replay.trials import Subject
from replay.variants import Variant
from tests.labelled_office import write_office
from tests.test_pipeline import conn, office

START = 1_772_409_600.0
CONFIG = Variant(name="this configuration", text="")


def looked(path: Path, budgets: list[float] | None = None, **more: Any) -> tuple[Gathered, str]:
    found = gather(Subject(paths=[str(path)], **more), CONFIG, budgets or [], None, 1)
    return found, page_of(found, parse(""), [path], {})


def test_a_source_without_a_row_before_the_limit_is_left_out(tmp_path: Path) -> None:
    from replay.traces import Manifest, described, write_manifest

    (tmp_path / "conn.log").write_bytes(conn(START, "10.0.0.1", "10.0.1.1") + b"\n")
    login = {"time": (START + 60) * 1000, "type": "LOGIN", "realmId": "r", "clientId": "c", "userId": "u", "ipAddress": "10.0.0.1"}
    (tmp_path / "events.jsonl").write_bytes(orjson.dumps(login) + b"\n")
    entries = [
        described(tmp_path, "conn.log", "zeek_conn", 1, None, None),
        described(tmp_path, "events.jsonl", "keycloak_events", 1, None, None),
    ]
    write_manifest(tmp_path, Manifest(logs=entries))
    found, page = looked(tmp_path, limit=1)
    assert list(found.survey.hours) == ["zeek_conn"]
    assert "What was read" in page


def test_a_volume_of_nothing_is_drawn(tmp_path: Path) -> None:
    (tmp_path / "conn.log").write_bytes(conn(START, "10.0.0.1", "10.0.1.1") + b"\n")
    found, _ = looked(tmp_path / "conn.log")
    assert volume(msgspec.structs.replace(found.survey, hours={})).rows == []


def test_one_row_makes_a_page_without_alerts(tmp_path: Path) -> None:
    (tmp_path / "conn.log").write_bytes(conn(START, "10.0.0.1", "10.0.1.1") + b"\n")
    found, page = looked(tmp_path / "conn.log")
    assert found.survey.trial.alerts == 0
    assert "No alert." in page


def test_a_trace_of_nothing_but_rejects_is_refused(tmp_path: Path) -> None:
    good = orjson.loads(conn(START, "10.0.0.1", "10.0.1.1"))
    (tmp_path / "conn.log").write_bytes(orjson.dumps(good | {"ts": "never"}) + b"\n")
    with pytest.raises(TraceError, match="nothing to score"):
        looked(tmp_path / "conn.log")


def test_labels_that_nobody_alerted_on_are_missed(tmp_path: Path) -> None:
    path = write_office(tmp_path / "w", lines=[conn(START + i, "10.0.0.7", f"10.0.2.{i + 1}") for i in range(3)])
    found, page = looked(path)
    assert (found.mine.caught, found.mine.scenarios, found.mine.median_delay_seconds) == (0, 1, None)
    assert "not caught" in page
    assert "none caught" in page


@pytest.mark.parametrize("budgets", [[0.0], [float("nan")], [-1.0], [float(i) for i in range(1, 90)]])
def test_budgets_that_cannot_be_are_refused_before_the_trace_is_read(
    tmp_path: Path, budgets: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replay.report.survey", lambda *_: pytest.fail("the trace was read"))
    (tmp_path / "conn.log").write_bytes(conn(START, "10.0.0.1", "10.0.1.1") + b"\n")
    with pytest.raises(ConfigError):
        looked(tmp_path / "conn.log", budgets)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("few") / "conn.log"
    path.write_bytes(conn(START, "10.0.0.1", "10.0.1.1") + b"\n")
    return path


class Loud(Pipeline):
    """Says so many alerts and notices beside what the detector says."""

    alerts = notices = 0
    real: Alert

    def run(self, *given: Any, **more: Any) -> Any:
        for i in range(self.notices):
            for each in Notices().say(START * 1e6 + i, f"service:tocsin/{i}", f"blind in place {i}"):
                self._on_alert(each)
        for i in range(self.alerts):
            self._on_alert(msgspec.structs.replace(self.real, uid=f"{i:032x}", activity="open", evidence_peak=float(i % 977)))
        yield from super().run(*given, **more)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Alert:
    path = tmp_path_factory.mktemp("real") / "conn.log"
    path.write_bytes(b"\n".join(office(2.0)) + b"\n")
    return survey(Subject(paths=[str(path)]), parse("[budget]\nalerts_per_day = 20\n"), lambda _: None).alerts[0]


def test_many_alerts_do_not_push_out_what_the_detector_says_of_itself(few: Path, real: Alert, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surveying, "Pipeline", Loud)
    monkeypatch.setattr(Loud, "real", real, raising=False)
    monkeypatch.setattr(Loud, "alerts", 950)
    monkeypatch.setattr(Loud, "notices", KEPT + 30)
    found = survey(Subject(paths=[str(few)]), parse(""), lambda _: None)
    assert (len(found.alerts), found.trial.alerts, found.trial.notices) == (KEPT, 950, KEPT + 30)
    assert min(alert.evidence_peak for alert in found.alerts) >= 700
    assert "blind in place 0" in found.blind
    assert "30 more notices of the detector are not listed here" in found.blind
    note = timeline(found.alerts, [], found.trial.alerts).note
    assert f"{KEPT} of 950 shown" in note
    assert "shown" not in timeline(found.alerts, [], KEPT).note
