"""The figures of a report, each with the table that says the same.

Colours of data are fixed and tell apart for the colour-blind (Okabe and Ito), with symbols beside them; ink, grid and paper are left to
the page, which knows whether it is dark.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import plotly.graph_objects as go  # type: ignore[import-untyped]

from connectors.alert import Alert
from connectors.event import HOUR, SECOND
from connectors.ocsf import severity, shown, title
from replay.compare import Score
from replay.explain import headline
from replay.simulate.labels import Label
from replay.survey import Survey

#: Severity -> (colour, symbol). Each has a contrast of at least 3 against white and against the page's dark.
SEVERITIES = {
    2: ("#2f86c5", "circle"),
    3: ("#c07a00", "square"),
    4: ("#d55e00", "diamond"),
    5: ("#d6206a", "star-diamond"),
}
LINE, BAND, MARK = "#2f86c5", "rgba(47,134,197,0.20)", "#d55e00"
#: Colours of sources, in order.
SOURCES = ("#2f86c5", "#c07a00", "#1a9070", "#b65fa0", "#7d7d7d", "#d55e00", "#5b6bd0", "#8a6d3b")
#: Identities on the timeline; the others share one row.
ROWS = 14
ATTACKS = "labelled attacks"
#: Rows of a table beside a figure.
TABLE = 200


class Figure(msgspec.Struct, kw_only=True):
    """A figure as plotly's JSON, and its table. ``note``: how to read it."""

    id: str
    title: str
    note: str
    plot: dict[str, Any]
    heads: list[str]
    rows: list[list[str]]
    height: int


def when(time: int) -> str:
    """Microseconds UTC to the minute, for people."""
    return f"{datetime.fromtimestamp(time // SECOND, UTC):%Y-%m-%d %H:%M}"


def at(time: float) -> str:
    """Microseconds UTC as plotly reads a date."""
    return f"{datetime.fromtimestamp(time / SECOND, UTC):%Y-%m-%d %H:%M:%S}"


def plain(figure: go.Figure, **layout: Any) -> dict[str, Any]:
    """A figure as plain data, without plotly's own template: the page has its own."""
    figure.update_layout(template="none", **layout)
    plain: dict[str, Any] = msgspec.json.decode(figure.to_json(validate=True))
    plain["layout"].pop("template", None)
    return plain


def cut(text: str, most: int = 26) -> str:
    """A name that fits an axis."""
    return shown(text, most)


def safe(text: str) -> str:
    """A text as plotly shows it: it takes some tags for its own."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def timeline(alerts: list[Alert], labels: list[Label], opened: int) -> Figure:
    """Alerts on behaviour over time, one row an identity, the labelled attacks behind them. ``opened``: how many there were in all."""
    real = sorted((alert for alert in alerts if not alert.notice), key=lambda alert: alert.opened)
    order: dict[str, float] = {}
    for alert in real:
        order[alert.blamed] = max(order.get(alert.blamed, 0.0), alert.evidence_peak)
    top = sorted(order, key=lambda each: (-order[each], each))[:ROWS]
    rows = [*top, "others"] if len(order) > len(top) else top
    place = {identity: len(rows) - 1 - i for i, identity in enumerate(rows)}
    figure = go.Figure()
    for level, (colour, symbol) in SEVERITIES.items():
        mine = [alert for alert in real if alert.severity == level]
        if not mine:
            continue
        levels = [place.get(alert.blamed, 0) for alert in mine]
        spans_x: list[str | None] = []
        spans_y: list[int | None] = []
        for alert, y in zip(mine, levels, strict=True):
            spans_x += [at(alert.opened), at(max(alert.last, alert.opened)), None]
            spans_y += [y, y, None]
        name = severity(mine[0])[1]
        figure.add_scatter(x=spans_x, y=spans_y, mode="lines", line={"color": colour, "width": 3}, hoverinfo="skip", showlegend=False)
        figure.add_scatter(
            x=[at(alert.opened) for alert in mine],
            y=levels,
            mode="markers",
            name=name,
            marker={"color": colour, "symbol": symbol, "size": 11, "line": {"width": 1, "color": "#ffffff"}},
            text=[safe(headline(alert, 110)) for alert in mine],
            hovertemplate="%{text}<extra></extra>",
        )
    attacks = [label for label in labels if not label.benign]
    if attacks:
        _attacks(figure, attacks, len(rows))
        rows, place = [*rows, ATTACKS], place | {ATTACKS: len(rows)}
    labels_y = [safe(cut(each)) for each in place]
    plot = plain(
        figure,
        xaxis={"title": "time (UTC)", "type": "date"},
        yaxis={"tickvals": list(place.values()), "ticktext": labels_y, "range": [-0.6, len(rows) - 0.4], "title": None},
        meta={"short": [safe(cut(each, 16)) for each in place]},
    )
    return Figure(
        id="timeline",
        title="Alerts over time",
        note="A mark is where an alert opened, the line how long evidence went on; shape and colour are its severity."
        + (" Grey, in the top row: how long each labelled attack went on." if attacks else "")
        + (f" {len(real):,} of {opened:,} shown: those whose evidence rose highest." if len(real) < opened else ""),
        plot=plot,
        heads=["opened (UTC)", "severity", "line", "about", "score, nats", "id"],
        rows=[[when(a.opened), severity(a)[1], a.line, shown(title(a), 120), f"{a.score:.1f}", a.uid[:8]] for a in real[:TABLE]],
        height=140 + 28 * max(len(rows), 3),
    )


def _attacks(figure: go.Figure, attacks: list[Label], row: int) -> None:
    """Labelled attacks as bars in a row of their own; where several overlap the bar is darker."""
    for label in attacks:
        figure.add_scatter(
            x=[at(label.first_us), at((label.first_us + label.last_us) / 2), at(label.last_us)],
            y=[row] * 3,
            mode="lines",
            line={"color": "rgba(128,128,128,0.45)", "width": 12},
            text=[safe(shown(f"{label.scenario}: {label.summary}", 110))] * 3,
            hovertemplate="%{text}<extra></extra>",
            showlegend=False,
        )


def volume(found: Survey) -> Figure:
    """Events an hour by source."""
    hours = sorted({hour for held in found.hours.values() for hour in held})
    span = list(range(hours[0], hours[-1] + 1)) if hours else []
    figure = go.Figure()
    for i, (source, held) in enumerate(sorted(found.hours.items(), key=lambda each: (-sum(each[1].values()), each[0]))):
        figure.add_scatter(
            x=[at(hour * HOUR) for hour in span],
            y=[held.get(hour, 0) or None for hour in span],
            mode="lines",
            name=source,
            line={"color": SOURCES[i % len(SOURCES)], "width": 1.5, "dash": ("solid", "dot", "dash", "dashdot")[i // 2 % 4]},
            hovertemplate="%{y:,} events<extra>" + source + "</extra>",
        )
    plot = plain(
        figure,
        xaxis={"title": "time (UTC)", "type": "date"},
        yaxis={"title": "events an hour (log)", "type": "log", "dtick": 1},
        hovermode="x",
    )
    totals = [[source, f"{sum(held.values()):,}", f"{max(held.values()):,}"] for source, held in sorted(found.hours.items())]
    note = "By source. A gap is an hour without a record: a quiet night or a blind spot."
    return Figure(
        id="volume", title="What was read", note=note, plot=plot, heads=["source", "events", "busiest hour"], rows=totals, height=320
    )


def curve(scores: list[Score], budgets: list[float], chosen: float) -> Figure:
    """What a budget buys: scenarios caught where they are labelled, else alerts opened against alerts granted."""
    points = sorted(zip(budgets, scores, strict=True), key=lambda each: each[0])
    labelled = any(score.scenarios for _, score in points)
    x = [score.alerts_per_day for _, score in points] if labelled else [budget for budget, _ in points]
    y = [score.caught if labelled else score.alerts_per_day for _, score in points]
    texts = [f"budget {budget:g} a day: {score.alerts_per_day:.1f} alerts a day" for budget, score in points]
    figure = go.Figure()
    figure.add_scatter(
        x=x,
        y=y,
        mode="lines+markers",
        line={"color": LINE, "width": 2},
        marker={"size": 8},
        text=texts,
        name="budgets",
        hovertemplate="%{text}<br>%{y}<extra></extra>",
    )
    mine = [i for i, (budget, _) in enumerate(points) if budget == chosen]
    figure.add_scatter(
        x=[x[i] for i in mine],
        y=[y[i] for i in mine],
        mode="markers",
        name=f"this configuration ({chosen:g} a day)",
        marker={"color": MARK, "symbol": "diamond", "size": 13, "line": {"width": 1, "color": "#ffffff"}},
        hoverinfo="skip",
    )
    many = max((score.scenarios for _, score in points), default=0)
    plot = plain(
        figure,
        xaxis={"title": "alerts a day, opened" if labelled else "alert budget, a day", "rangemode": "tozero"},
        yaxis={
            "title": f"scenarios caught of {many}" if labelled else "alerts a day, opened",
            "rangemode": "tozero",
            **({"range": [0, many + 0.5]} if labelled else {}),
        },
    )
    heads = ["budget a day", "alerts a day", "scenarios caught", "median delay, min", "false alerts"]
    rows = [
        [
            f"{budget:g}",
            f"{each.alerts_per_day:.2f}",
            f"{each.caught} of {each.scenarios}" if each.scenarios else "no labels",
            "" if each.median_delay_seconds is None else f"{each.median_delay_seconds / 60:.0f}",
            "" if each.false_alerts is None else str(each.false_alerts),
        ]
        for budget, each in points
    ]
    note = "Each point is a whole pass over the trace with that budget."
    if not labelled:
        note += " The trace has no labels, so nothing says what was caught; record attacks or give a labelled trace to see it."
    return Figure(id="curve", title="What a budget buys", note=note, plot=plot, heads=heads, rows=rows, height=340)
