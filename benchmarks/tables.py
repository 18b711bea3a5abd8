"""The figures of ``benchmarks.detection`` as tables for people."""

from __future__ import annotations

from typing import Any

#: Alerts a day that must hold on benign data.
BUDGETS = (1, 5, 10, 20)
#: A figure, as a heading.
SHOWN = {
    "auc": "AUC",
    "ap": "AP",
    "hard_auc": "hard",
    "hard_ap": "hard AP",
    "macro_auc": "macro50",
    "macro_auc_5": "macro5",
    "names_caught_at_10_per_day": "names",
    "names_loose": "loose",
    "instances_caught": "inst.",
    "precision_at_10_per_day": "prec.",
    "alerts_per_day": "a day",
    "false_per_day": "false",
    "worst_day": "worst",
    "slow_per_day": "slow",
    "delay_seconds": "delay s",
    "delay_events": "delay ev",
    "events_per_second": "events/s",
}
#: The figures of one score on one data set, by name.
Figures = dict[str, Any]


def _cell(key: str, value: Any) -> str:
    if value is None:
        return "-"
    if key in ("events_per_second", "delay_seconds", "delay_events", "worst_day"):
        return f"{value:,.0f}"
    return f"{value:.4f}" if key in ("auc", "ap", "hard_ap") else f"{value:.3f}"


def aligned(rows: list[list[str]]) -> str:
    """Rows as columns, the first to the left, the others to the right."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return "\n".join(
        "  ".join(f"{cell:<{w}}" if k == 0 else f"{cell:>{w}}" for k, (cell, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    )


def shown(name: str, table: dict[str, Figures]) -> str:
    """A set's table for people; per attack, and attack steps, below it."""
    keys = [key for key in SHOWN if any(figures.get(key) is not None for figures in table.values())]
    rows = [[name, *(SHOWN[key] for key in keys)]]
    rows += [[row, *(_cell(key, figures.get(key)) for key in keys)] for row, figures in table.items()]
    text = aligned(rows)
    attacks = list(table["ours"]["by_attack"])
    if len(attacks) <= 15:
        per = [["AUC by attack", *attacks]]
        per += [[row, *(_cell("", figures["by_attack"].get(attack)) for attack in attacks)] for row, figures in table.items()]
        text += f"\n\n{aligned(per)}"
    if table["ours"].get("beaten"):
        ratios = ", ".join(f"{key.replace('_', ' ')} {ratio:.2f}" for key, ratio in table["ours"]["beaten"].items())
        text += f"\n\nours to the best rival: {ratios}"
    for step, rank in table["ours"].get("steps", {}).items():
        text += f"\n{step}: {'not among the strongest evidence' if rank is None else f'number {rank} of the strongest evidence'}"
    return text


def shown_budgets(budgets: dict[str, Figures]) -> str:
    """The budgets for people."""
    rows = [["alerts a day on benign data", "days", *(f"at {n}" for n in BUDGETS), "slow line", "remark"]]
    for name, figures in budgets.items():
        if "main" not in figures:
            rows.append([name, *["-"] * (2 + len(BUDGETS)), figures["remark"]])
            continue
        main = [f"{figures['main'][str(n)]:.2f} ({figures['main'][str(n)] / n - 1:+.0%})" for n in BUDGETS]
        # Its budget is its own, so that of the main line does not matter.
        slow = f"{figures['slow'][str(BUDGETS[-1])]:.2f}"
        rows.append([name, f"{figures['days']:g}", *main, slow, figures["remark"]])
    return aligned(rows)


def shown_frogs(frogs: list[dict[str, object]]) -> str:
    """The boiling frogs for people."""
    rows = [[key.replace("_", " ") for key in frogs[0] if key != "said"]]
    rows += [[str(value) if key != "day" or value else "never" for key, value in each.items() if key != "said"] for each in frogs]
    said = ["said", *(str(each["said"]) for each in frogs)]
    return "\n".join(f"{row}  {text}".rstrip() for row, text in zip(aligned(rows).splitlines(), said, strict=True))
