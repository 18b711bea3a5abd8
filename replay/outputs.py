"""Files that a command writes beside what it reads: nothing is written over an input, and what cannot be written is said beforehand."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from connectors.trace import TraceError
from replay.traces import is_folder, replace


def check_outputs(outputs: Mapping[str, Path | None], paths: Iterable[Path], also: Iterable[Path | None] = ()) -> None:
    """Refuse an input named twice, and an output that is an input, lies in an input folder, is another output, or cannot be written.

    ``outputs``: option -> file. ``paths``: files and trace folders that are read; ``also``: other files that are. Raises TraceError;
    OSError where a folder is missing or may not be written.
    """
    folders: list[tuple[Path, Path]] = []
    seen: dict[Path, str] = {path.resolve(): "is an input already" for path in also if path is not None}
    for path in paths:
        if path.resolve() in seen:
            raise TraceError(f"{path}: named twice")
        seen[path.resolve()] = "is an input already"
        if is_folder(path):
            folders.append((path, path.resolve()))
    for option, output in outputs.items():
        if output is None or _stream(output):
            continue
        whole = output.resolve()
        # It is first written under this other name.
        for each in (whole, output.absolute(), whole.with_name(f"{output.name}.part")):
            if each in seen:
                raise TraceError(f"{output}: {seen[each]}, so {option} may not write to it")
        for name, folder in folders:
            if any(each.is_relative_to(folder) for each in (whole, output.parent.resolve() / output.name)):
                raise TraceError(f"{output}: lies in {name}, which is read, so {option} may not write to it")
        if output.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(output))
        if not output.parent.is_dir():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(output.parent))
        if not os.access(output.parent, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(output.parent))
        seen[whole] = f"is what {option} writes"


def put(path: Path, data: bytes) -> None:
    """Write a file all or nothing; a device or a pipe as it is. Raises OSError."""
    if _stream(path):
        with path.open("wb") as file:
            file.write(data)
    else:
        replace(path, data)


def _stream(path: Path) -> bool:
    """Whether this is a device or a pipe, which may be named as often as one likes and is not to be replaced by a file."""
    return path.exists() and not path.is_file() and not path.is_dir()
