"""What one identity did and what one alert rests on, as figures of a report."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go  # type: ignore[import-untyped]

from connectors.alert import Alert
from connectors.event import HOUR
from connectors.ocsf import shown, title
from replay.plots import BAND, LINE, MARK, Figure, at, plain, safe, when
from replay.survey import Behaviour

#: Hours of the same time of day that make a band, at least: fewer are no baseline.
FEWEST = 5
#: Bars of evidence: signals shown of one alert.
BARS = 8


#: Part of a signal's name -> (what of a behaviour shows it, axis).
_MEASURES = (
    (("bytes", "egress", "size", "byte_volume", "drip"), "bytes", "bytes an hour"),
    (
        ("fan_out", "places", "rarity", "object_at", "actor_at", "first_seen", "outward", "sequence"),
        "partners",
        "distinct partners an hour",
    ),
)


def measure(alert: Alert) -> tuple[str, str]:
    """Which figure of its behaviour an alert's strongest signal is about, and what that counts."""
    reasons = alert.evidence[0].reasons if alert.evidence else []
    signal = reasons[0].signal if reasons else ""
    for words, field, axis in _MEASURES:
        if any(word in signal for word in words):
            return field, axis
    return "events", "events an hour"


def band(hours: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(10th, 90th percentile) float64[n] of one's own earlier hours within an hour of the same time of day; NaN while there are fewer
    than ``FEWEST``. Hours without events count: being away is behaviour too.

    >>> low, high = band(np.arange(240), np.ones(240))
    >>> bool(np.isnan(low[0])), float(low[-1]), float(high[-1])
    (True, 1.0, 1.0)
    """
    low, high = np.full(len(values), np.nan), np.full(len(values), np.nan)
    for i in range(len(values)):
        apart = np.abs(hours[:i] - hours[i]) % 24
        past = values[:i][(apart <= 1) | (apart == 23)]
        if len(past) >= FEWEST:
            low[i], high[i] = np.quantile(past, 0.1), np.quantile(past, 0.9)
    return low, high


def behaviour(number: int, held: Behaviour, alert: Alert, opened: list[int]) -> Figure:
    """An identity by the hour against the band of its own past, with where its alerts opened."""
    field, axis = measure(alert)
    values = np.array(getattr(held, field), float)
    hours = np.array(held.hours)
    low, high = band(hours, values)
    times = [at(hour * HOUR) for hour in held.hours]
    known = np.isfinite(low)
    figure = go.Figure()
    edge = {"width": 0, "color": LINE}
    band_x = [time for time, each in zip(times, known, strict=True) if each]
    figure.add_scatter(x=band_x, y=low[known].tolist(), mode="lines", line=edge, hoverinfo="skip", showlegend=False)
    figure.add_scatter(
        x=band_x, y=high[known].tolist(), mode="lines", line=edge, fill="tonexty", fillcolor=BAND, name="its own past", hoverinfo="skip"
    )
    figure.add_scatter(
        x=times,
        y=values.tolist(),
        mode="lines",
        line={"color": LINE, "width": 1.5},
        name="seen",
        hovertemplate="%{y:,.4~s}<extra></extra>",
    )
    seen = dict(zip(held.hours, values.tolist(), strict=True))
    marks = [time for time in opened if time // HOUR in seen]
    figure.add_scatter(
        x=[at(time) for time in marks],
        y=[seen[time // HOUR] for time in marks],
        mode="markers",
        name="alert opened",
        marker={"color": MARK, "symbol": "diamond", "size": 11, "line": {"width": 1, "color": "#ffffff"}},
        hovertemplate="%{x}<extra>alert</extra>",
    )
    plot = plain(
        figure,
        xaxis={"title": "time (UTC)", "type": "date"},
        yaxis={"title": axis, "rangemode": "tozero", "exponentformat": "SI"},
        hovermode="x unified",
    )
    most = np.argsort(-values, kind="stable")[:12]
    rows = [
        [when(held.hours[i] * HOUR), f"{values[i]:,.0f}", "too young" if not known[i] else f"{low[i]:,.0f} to {high[i]:,.0f}"]
        for i in sorted(most.tolist())
    ]
    return Figure(
        id=f"behaviour-{number}",
        title=shown(held.identity, 80),
        note=f"{axis[0].upper()}{axis[1:]}. Shaded: 10th to 90th percentile of its own earlier hours at the same time of day.",
        plot=plot,
        heads=["hour (UTC), its highest", axis, "its own past"],
        rows=rows,
        height=280,
    )


def evidence(number: int, alert: Alert) -> Figure:
    """What each signal adds to an alert's strongest piece of evidence."""
    reasons = sorted(alert.evidence[0].reasons if alert.evidence else [], key=lambda each: (-each.surprise, each.signal))[:BARS]
    figure = go.Figure()
    figure.add_bar(
        x=[reason.surprise for reason in reasons],
        y=[reason.signal.replace("_", " ") for reason in reasons],
        orientation="h",
        marker={"color": LINE},
        text=[f"{reason.surprise:.1f}" for reason in reasons],
        textposition="auto",
        hovertext=[safe(shown(reason.text, 200)) for reason in reasons],
        hovertemplate="%{hovertext}<extra></extra>",
    )
    plot = plain(
        figure,
        xaxis={"title": "surprise, nats", "rangemode": "tozero"},
        yaxis={"autorange": "reversed", "title": None},
        showlegend=False,
        bargap=0.35,
    )
    return Figure(
        id=f"evidence-{number}",
        title=shown(title(alert), 120),
        note="How strange each signal found its strongest event. 5 nats: one hour in 150 looks so strange; 10: one in 22,000.",
        plot=plot,
        heads=["signal", "surprise, nats", "seen", "expected", "unit"],
        rows=[
            [reason.signal, f"{reason.surprise:.1f}", _number(reason.seen), _number(reason.expected), shown(reason.unit, 20)]
            for reason in reasons
        ],
        height=110 + 30 * max(len(reasons), 2),
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.3g}"
