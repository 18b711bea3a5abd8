"""Ground truth of all inputs at once, its logs called what the alerts of a replay of these inputs call them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path, PurePath

import msgspec

from replay.inputs import Inputs
from replay.simulate.labels import Label, read_labels
from replay.traces import Manifest, is_folder, read_manifest
from replay.trials import Subject


def labels_of(subject: Subject, inputs: Inputs) -> list[Label]:
    """The labels of all trace folders of a subject, its ``inputs`` open. Raises TraceError.

    A label knows a log by its name in the folder. An alert knows it by its file name, or, where several inputs share one, by its path.
    """
    paths = [log.path for log in inputs.logs]
    names = Counter(PurePath(path).name or path for path in paths)
    alone = inputs.events is None and all(many == 1 for many in names.values())
    found: list[Label] = []
    for folder in map(Path, subject.paths):
        if not is_folder(folder):
            continue
        manifest = read_manifest(folder)
        if manifest.labels is None:
            continue
        titles = {key: (PurePath(path).name or path) if alone else path for key, path in _logs(folder, manifest).items()}
        for label in read_labels(folder / manifest.labels):
            # What is not among the logs keeps its records out of every alert.
            records = {titles[log]: numbers for log, numbers in label.records.items() if log in titles}
            found.append(msgspec.structs.replace(label, records=records or {log: [] for log in label.records}))
    return found


def _logs(folder: Path, manifest: Manifest) -> dict[str, str]:
    """What a label of this folder may call a log -> what the replay calls it before file names are told apart."""
    whole: dict[str, str] = dict(zip(manifest.titles, manifest.titles, strict=True))
    for entry in manifest.logs:
        if entry.form == "lines":
            whole[entry.path] = str(folder / entry.path)
        elif entry.form == "raw":
            title = f"{entry.topic}-{entry.partition}"
            whole[title] = title
    # A bare file name will do where one log of the folder has it.
    bare = Counter(PurePath(key).name for key in whole)
    return {PurePath(key).name: path for key, path in whole.items() if bare[PurePath(key).name] == 1} | whole
