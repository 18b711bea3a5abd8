"""The report: one file that loads nothing, shows what it says, escapes whatever identities hold, in light, in dark and on a phone."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import orjson
import pytest
from playwright.sync_api import Browser, Dialog, Page

from connectors.alert import Alert
from detector.config import ConfigError, parse
from replay.compare import Score
from replay.explain import explain
from replay.plots import curve, timeline
from replay.portraits import band, measure
from replay.report import Gathered, _numbers, gather, page_of
from replay.simulate.labels import Label
from replay.trials import Subject
from replay.variants import Variant, flat
from tests.browser import Seen, address, launched
from tests.labelled_office import write_office
from tests.test_pipeline import conn, office

HOSTILE = "<img src=x onerror=alert(1)></script><script>alert(2)</script>\"'&amp; {{ 7*7 }} \u202eevil"
CONFIG = Variant(name="this configuration", text="[budget]\nalerts_per_day = 20\n")


@pytest.fixture(scope="module")
def gathered(tmp_path_factory: pytest.TempPathFactory) -> Gathered:
    """A small network and its attack, looked at with two budgets."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "conn.log").write_bytes(b"\n".join([*office(2.0), b"nonsense", conn(1_772_582_400.0, "10.0.0.1", "10.0.1.1")]) + b"\n")
    return gather(Subject(paths=[str(folder / "conn.log")]), CONFIG, [5.0], None, 1)


def hostile(found: Gathered) -> Gathered:
    """The same with names and texts as an attacker would choose them."""
    twin = msgspec.convert(msgspec.to_builtins(found), Gathered)
    for alert in twin.survey.alerts:
        alert.blamed = f"user:{HOSTILE}"
        for piece in alert.evidence:
            piece.actor = piece.object = piece.uid = alert.blamed
            for reason in piece.reasons:
                reason.text = HOSTILE
    for case in twin.survey.trial.cases:
        case.blamed = f"user:{HOSTILE}"
    for held in twin.behaviours:
        held.identity = f"user:{HOSTILE}"
    twin.survey.blind.append(HOSTILE)
    first, last = twin.survey.trial.first, twin.survey.trial.last
    twin.labels = [
        Label(scenario=HOSTILE, summary=HOSTILE, first="", last="", first_us=first, last_us=last, principals=[HOSTILE], records={})
    ]
    return twin


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("named") / "conn<b>.log"
    path.write_bytes(conn(1_772_582_400.0, "10.0.0.1", "10.0.1.1") + b"\n")
    return path


@pytest.fixture(scope="module")
def page(gathered: Gathered, trace: Path) -> str:
    return page_of(gathered, parse(CONFIG.text), [trace], {})


def test_the_page_says_what_was_found(page: str, gathered: Gathered) -> None:
    assert f"{gathered.survey.trial.events:,}" in page
    assert "1 records could not be read" in page
    assert "nothing on the main line could alert in the first" in page
    assert "budget.alerts_per_day" in page
    assert "no labels" in page


def test_the_page_explains_its_strongest_alerts_in_the_words_of_the_command(page: str, gathered: Gathered) -> None:
    import html

    assert explain(gathered.survey.alerts[0]) in html.unescape(page)


def test_the_page_is_the_same_for_the_same_findings(page: str, gathered: Gathered, trace: Path) -> None:
    assert page_of(gathered, parse(CONFIG.text), [trace], {}) == page


def test_the_page_allows_itself_nothing_but_its_own_scripts(page: str) -> None:
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)
    assert policy is not None
    said = policy[1].replace("&#39;", "'")
    assert said.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in said
    assert "unsafe-inline" not in said.partition("style-src")[0]
    assert "http" not in said
    assert not re.search(r'<(?:script|link|img|iframe)[^>]+(?:src|href)="(?!data:,)', page.split("<script>")[0])


def test_hostile_names_stay_text(gathered: Gathered, trace: Path) -> None:
    page = page_of(hostile(gathered), parse(CONFIG.text), [trace], {})
    outside = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert "<img" not in outside
    assert "\u202e" not in page
    assert outside.count("<script") == 1
    assert "49" not in re.findall(r"\{\{ (.*?) \}\}", outside)


def test_the_band_is_made_of_the_past_alone() -> None:
    hours, values = np.arange(24 * 10), np.random.default_rng(1).poisson(9, 240).astype(float)
    low, high = band(hours, values)
    values[200:] = 1e9
    again = band(hours, values)
    assert np.array_equal(low[:201], again[0][:201], equal_nan=True)
    assert np.array_equal(high[:201], again[1][:201], equal_nan=True)
    assert (low[100:] <= high[100:]).all()


def test_each_alert_is_drawn_by_what_made_it_strange(gathered: Gathered) -> None:
    alert: Alert = copy.deepcopy(gathered.survey.alerts[0])
    wanted = {"fan_out": "partners", "bytes_out": "bytes", "pair_rate": "events", "egress": "bytes"}
    for signal, field in wanted.items():
        alert.evidence[0].reasons[0].signal = signal
        assert measure(alert)[0] == field


def test_the_timeline_has_a_table_that_says_the_same(gathered: Gathered) -> None:
    figure = timeline(gathered.survey.alerts, [], gathered.survey.trial.alerts)
    marks = sum(len(trace["x"]) for trace in figure.plot["data"] if trace["mode"] == "markers")
    assert marks == len(figure.rows) == len([alert for alert in gathered.survey.alerts if not alert.notice])


def test_the_curve_shows_what_was_caught_where_there_are_labels_and_what_opened_where_there_are_none(gathered: Gathered) -> None:
    bare = curve(gathered.scores, gathered.budgets, 20.0)
    assert "no labels" in bare.note
    assert bare.plot["layout"]["xaxis"]["title"]["text"] == "alert budget, a day"
    scores: list[Score] = [msgspec.structs.replace(each, scenarios=3, caught=i) for i, each in enumerate(gathered.scores)]
    assert "scenarios caught of 3" in curve(scores, gathered.budgets, 20.0).plot["layout"]["yaxis"]["title"]["text"]


def test_budgets_that_are_no_numbers_are_refused() -> None:
    assert _numbers("none") == []
    assert _numbers("1, 2.5") == [1.0, 2.5]
    with pytest.raises(ConfigError, match="--budgets"):
        _numbers("1;2")


@pytest.fixture(scope="module")
def browser() -> Any:
    with launched() as running:
        yield running


def opened(browser: Browser, path: Path, width: int, scheme: Any) -> tuple[Page, Seen]:
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme, offline=True)
    context.set_default_timeout(120_000)
    tab = context.new_page()
    seen = Seen(tab)
    tab.goto(address(path))
    tab.wait_for_function("document.documentElement.dataset.drawn === 'yes'")
    return tab, seen


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_draws_offline_asks_for_nothing_and_fits(browser: Browser, page: str, tmp_path: Path, width: int, scheme: str) -> None:
    path = tmp_path / "report.html"
    path.write_text(page, encoding="utf-8")
    tab, seen = opened(browser, path, width, scheme)
    assert seen.requests == [address(path)]
    assert seen.complaints == []
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    plots = tab.evaluate("[...document.querySelectorAll('.plot')].map(p => [p.querySelectorAll('.main-svg').length, p.offsetWidth])")
    assert plots
    assert all(drawn >= 1 and 0 < wide <= width for drawn, wide in plots)
    ink, paper = tab.evaluate("(s => [s.color, s.backgroundColor])(getComputedStyle(document.body))")
    assert contrast(ink, paper) >= 7
    text = tab.evaluate("getComputedStyle(document.querySelector('.plot .xtick text')).fill")
    assert contrast(text, paper) >= 7
    shot = tmp_path / "shot.png"
    tab.screenshot(path=shot, full_page=True)
    assert shot.stat().st_size > 20_000


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Gathered, str]:
    """The page of a trace with labels, with the curve of two budgets."""
    path = write_office(tmp_path_factory.mktemp("labelled") / "w")
    found = gather(Subject(paths=[str(path)]), CONFIG, [0.5], None, 1)
    return found, page_of(found, parse(CONFIG.text), [path], {"--config": path / "manifest.json", "--feedback": None})


def test_the_page_of_a_labelled_trace_says_what_was_caught(labelled: tuple[Gathered, str]) -> None:
    found, page = labelled
    assert found.mine.caught == 1
    assert "Labelled scenarios" in page
    assert "1 of 1" in page
    assert re.search(r"labels\.jsonl</td><td>labels</td><td></td><td>[0-9a-f]{64}", page)
    assert re.search(r"<td>--config</td><td>manifest\.json</td><td>[0-9a-f]{64}", page)


def test_the_page_has_the_whole_configuration_beside_what_differs(page: str) -> None:
    assert re.search(r"<td>budget\.alerts_per_day</td><td>20\.0</td><td>[0-9.]+</td>", page)
    whole = page.partition('id="whole"')[2].partition("</details>")[0]
    assert whole.count("<tr>") == len(flat(parse(CONFIG.text))) + 1
    assert "<td>budget.alerts_per_day</td><td>20.0</td>" in whole


def test_the_figures_are_a_table_with_units(page: str) -> None:
    figures = page.partition('<table class="figures">')[2].partition("</table>")[0]
    assert "<caption>" in figures
    assert re.search(r'<th scope="row">peak memory</th><td class="value">[\d,]+</td><td>MB</td>', figures)


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 390])
def test_the_attacks_and_the_curve_of_a_labelled_trace_are_drawn(
    browser: Browser, labelled: tuple[Gathered, str], tmp_path: Path, width: int
) -> None:
    path = tmp_path / "report.html"
    path.write_text(labelled[1], encoding="utf-8")
    tab, seen = opened(browser, path, width, "light")
    assert (seen.requests, seen.complaints) == ([address(path)], [])
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert ("labelled attacks" if width > 600 else "labelled") in "".join(tab.locator("#timeline .ytick text").all_text_contents())
    bars = "[...document.querySelectorAll('#timeline .scatterlayer .js-line')].map(p => getComputedStyle(p).strokeWidth)"
    assert "12px" in tab.evaluate(bars)
    assert "scenarios caught of 1" in "".join(tab.locator("#curve .infolayer text").all_text_contents())
    points = "[...document.querySelectorAll('#curve .scatterlayer .point')].filter(p => p.getBBox().width > 0).length"
    assert tab.evaluate(points) == 3  # two budgets, and the mark of this configuration
    assert "sweep 1" in tab.inner_text("section[aria-labelledby=scenarios]")
    assert tab.get_by_role("table", name="Key figures of this configuration on this trace").count() == 1
    assert not tab.locator("#whole table").is_visible()
    tab.click("#whole summary")
    assert tab.locator("#whole table").is_visible()


@pytest.mark.browser
def test_a_page_of_hostile_names_runs_none_of_them(browser: Browser, gathered: Gathered, trace: Path, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(page_of(hostile(gathered), parse(CONFIG.text), [trace], {}), encoding="utf-8")
    tab, seen = opened(browser, path, 1280, "light")
    said: list[str] = []

    def dismiss(dialog: Dialog) -> None:
        said.append(dialog.message)
        dialog.dismiss()

    tab.on("dialog", dismiss)
    tab.hover(".plot .main-svg")
    assert (said, seen.complaints, seen.requests) == ([], [], [address(path)])
    assert tab.evaluate("document.querySelectorAll('img').length") == 0
    assert "<img src" in tab.inner_text("#timeline")


@pytest.mark.browser
def test_the_policy_would_stop_a_script_that_got_in(browser: Browser, page: str, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(page.replace("</main>", "<script>document.title = 'owned'</script><img src='http://127.0.0.1:9/x'></main>", 1))
    tab, seen = opened(browser, path, 1280, "light")
    assert tab.title() != "owned"
    assert any("Content Security Policy" in each for each in seen.complaints)
    assert seen.loaded == [address(path)]


def contrast(one: str, other: str) -> float:
    """The contrast of two colours by WCAG 2."""
    light = sorted((luminance(one), luminance(other)))
    return (light[1] + 0.05) / (light[0] + 0.05)


def luminance(colour: str) -> float:
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


@pytest.mark.slow
def test_the_command_writes_a_report_or_says_why_not(tmp_path: Path) -> None:
    from tests.test_tune import tocsin

    (tmp_path / "conn.log").write_bytes(b"\n".join(office(2.0)) + b"\n")
    done = tocsin("report", tmp_path / "conn.log", "--out", tmp_path / "r.html", "--budgets", "none")
    assert "alerts of" in done.stdout
    assert (tmp_path / "r.html").stat().st_size < 6_000_000
    assert "--budgets" in tocsin("report", tmp_path / "conn.log", "--out", tmp_path / "s.html", "--budgets", "x", code=2).stderr
    (tmp_path / "empty.log").write_bytes(orjson.dumps({"a": 1}) + b"\n")
    assert "no known format" in tocsin("report", tmp_path / "empty.log", "--out", tmp_path / "s.html", code=3).stderr
    assert not (tmp_path / "s.html").exists()
