"""A small trace folder with labels: the office of the pipeline's tests, and whether its attack is labelled, slow, or left out."""

from __future__ import annotations

from pathlib import Path

import orjson

from connectors.event import SECOND
from replay.simulate.labels import LABELS, Label, write_labels
from replay.traces import Manifest, described, write_manifest
from tests.test_pipeline import office


def write_office(folder: Path, days: float = 2.0, *, lines: list[bytes] | None = None, more: tuple[Label, ...] = ()) -> Path:
    """Write ``lines``, else an office of so many days, with the sweep and the upload of 10.0.0.7 as one labelled attack."""
    folder.mkdir(parents=True)
    given = office(days) if lines is None else lines
    (folder / "conn.log").write_bytes(b"\n".join(given) + b"\n")
    records = [orjson.loads(line) for line in given]
    mine = [i for i, each in enumerate(records) if each["id.resp_h"].startswith(("10.0.2.", "203.0.113."))]
    if mine:
        times = [int(records[i]["ts"] * SECOND) for i in mine]
        attack = Label(
            scenario="sweep", summary="a host sweeps the others", first="", last="", first_us=min(times), last_us=max(times),
            principals=["ip:10.0.0.7"], records={"conn.log": mine},
        )  # fmt: skip
        more = (attack, *more)
    write_labels(folder / LABELS, list(more))
    write_manifest(folder, Manifest(logs=[described(folder, "conn.log", "zeek_conn", len(given), None, None)], labels=LABELS))
    return folder
