"""The checkout as tests look at it: its files without what ``.gitignore`` names, and the code blocks of its documents."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]

#: The product: what the wheel is made of.
PACKAGES = ("connectors", "detector", "models", "replay")

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class CodeBlock(NamedTuple):
    """A fenced block: the word behind its fence ("" = none), its text."""

    language: str
    text: str

    @property
    def lines(self) -> list[str]:
        """Its lines that are not blank and no comment."""
        return [line for line in self.text.splitlines() if line.strip() and not line.lstrip().startswith("#")]


@cache
def _patterns() -> tuple[str, ...]:
    lines = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    return (".git", *(line.strip("/") for line in lines if line and not line.startswith("#")))


def ignored(path: Path) -> bool:
    """Whether git leaves this path alone; knows the plain patterns that our ``.gitignore`` is made of."""
    return any(fnmatchcase(path.name, pattern) for pattern in _patterns())


def files(folder: Path = ROOT) -> Iterator[Path]:
    """Every file of the checkout that is not ignored, in order."""
    for path in sorted(folder.iterdir()):
        if ignored(path):
            continue
        if path.is_dir():
            yield from files(path)
        else:
            yield path


def modules(*folders: str) -> list[Path]:
    """The Python files of some top-level folders."""
    return [path for folder in folders for path in files(ROOT / folder) if path.suffix == ".py"]


def code_blocks(document: str) -> list[CodeBlock]:
    """The fenced blocks of a Markdown file of the checkout, in order."""
    return [CodeBlock(*found) for found in _FENCE.findall((ROOT / document).read_text(encoding="utf-8"))]
