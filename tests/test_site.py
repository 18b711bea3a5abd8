"""The documentation site: it builds strictly, loads nothing from elsewhere, and says of signals and adapters what they say themselves.

``python -m tests.test_site`` writes ``docs/signals.md`` and ``docs/adapters.md``.
"""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from connectors import containment
from detector.config import read
from models import signals
from tests.checkout import ROOT, code_blocks
from tests.test_readme import wrong_command

DOCS = ROOT / "docs"
SIGNALS, ADAPTERS = DOCS / "signals.md", DOCS / "adapters.md"
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in DOCS.glob("*.md"))
_WRITTEN = "<!-- written by `python -m tests.test_site` from the plug-ins: change those -->"
#: A literal in reStructuredText; Markdown's has one backtick.
_LITERAL = re.compile(r"``(.+?)``", re.DOTALL)
_ELSEWHERE = re.compile(r"""(?:src|href)=["']?(?:https?:)?//([^/"'>\s]+)[^>]*(?:rel=["']?(?:stylesheet|preconnect|preload))?""")


def prose(text: str | None) -> str:
    """A docstring as Markdown."""
    return _LITERAL.sub(r"`\1`", inspect.cleandoc(text or "")).replace("<", "&lt;")


def signals_page() -> str:
    """Every learner in its own words, with the signals of the default configuration that use it."""
    used: dict[str, list[str]] = {}
    default = read(None)
    for name, asked in default.learners().items():
        line = f"`{name}`: weight {asked.weight:g}, asked at the {asked.visit}, {asked.line} line, needs {asked.needs}"
        used.setdefault(type(asked).__module__.rpartition(".")[2], []).append(line)
    parts = [
        "# Signals",
        "",
        _WRITTEN,
        "",
        'One question put to a profile each. `nats` are natural logarithms of "one in so many": 7 nats are one in a thousand. What',
        "a signal needs is what a source [feeds](sources.md); how the answers become one score: [detection](detection.md).",
    ]
    for name, learner in signals.learners().items():
        parts += ["", f"## {name}", "", prose(learner.__doc__), ""]
        parts += [f"* {each}" for each in used.get(name, [])] or ["Not in the default configuration."]
        settings = [f for f in msgspec.structs.fields(learner) if f.name not in ("weight", "learner", "line")]
        if settings:
            parts += ["", "Settings: " + ", ".join(f"`{f.name} = {shown(f)}`" for f in settings)]
    return "\n".join(parts) + "\n"


def adapters_page() -> str:
    """Every adapter in its own words: verbs, permissions, what stays open, settings."""
    parts = [
        "# Adapters",
        "",
        _WRITTEN,
        "",
        "What `tocsin respond` can act on. A verb that needs two people is marked **destructive**; one that is *final* cannot be taken",
        "back; one that is *blind* cannot see its own effect. How they are chosen and bounded: [containment](containment.md).",
    ]
    for name, adapter in containment.available().items():
        module = inspect.cleandoc(sys.modules[adapter.__module__].__doc__ or "")
        parts += ["", f"## {name}", "", f"{adapter.title}.", "", prose(module.partition("\n\n")[2] or module)]
        for verb in adapter.verbs:
            marks = [
                word
                for word, on in (("**destructive**", verb.destructive), ("*final*", not verb.undoable), ("*blind*", verb.blind))
                if on
            ]
            parts += [
                "",
                f"### {name}: {verb.name}",
                "",
                f"* Acts on: {', '.join(verb.kinds)}{'; ' if marks else ''}{', '.join(marks)}",
            ]
            parts += [f"* Needs: {'; '.join(f'`{need}`' for need in verb.needs) or 'nothing'}", f"* Stays open: {verb.residual}"]
        parts += ["", "| setting | default |", "|---|---|"]
        parts += [
            f"| `{f.name}` | {f'`{shown(f)}`' if not f.required else 'must be given'} |"
            for f in msgspec.structs.fields(adapter.Settings)
        ]
    return "\n".join(parts) + "\n"


def shown(field: Any) -> str:
    """A default as TOML would have it, as far as that matters to a reader."""
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    return msgspec.json.encode(value).decode() if value is not None else "none"


@pytest.mark.parametrize(("path", "page"), [(SIGNALS, signals_page), (ADAPTERS, adapters_page)], ids=["signals", "adapters"])
def test_a_page_made_from_the_plug_ins_is_of_this_release(path: Path, page: Any) -> None:
    assert path.read_text(encoding="utf-8") == page(), "run: python -m tests.test_site"


def built(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603  the documented command
        [sys.executable, "-m", "mkdocs", "build", "-f", "deploy/mkdocs.yml", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        # The theme's makers announce their plans on every build, on standard error.
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.mark.slow
def test_the_site_builds_strictly_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    done = built(tmp_path / "site")
    assert done.returncode == 0, done.stdout + done.stderr
    pages = sorted((tmp_path / "site").rglob("*.html"))
    assert len(pages) > len(PAGES)
    for page in pages:
        text = page.read_text(encoding="utf-8")
        loaded = [
            tag
            for tag in re.findall(r"<(?:script|link|img|iframe)\b[^>]*>", text)
            if re.search(r"(?:src|href)=[\"']?(?:https?:)?//", tag)
        ]
        assert loaded == [], page


def test_every_page_is_in_the_navigation_once() -> None:
    config = yaml.safe_load((ROOT / "deploy" / "mkdocs.yml").read_text(encoding="utf-8"))
    named = [
        page
        for entry in config["nav"]
        for each in entry.values()
        for page in ([each] if isinstance(each, str) else [p for d in each for p in d.values()])
    ]
    assert sorted(named) == sorted(page.removeprefix("docs/") for page in PAGES)
    assert config["theme"]["font"] is False


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_ours_on_a_page_parses(page: str) -> None:
    blocks = [block for block in code_blocks(page) if block.language in ("", "sh", "console", "text", "bash")]
    lines = [line.strip().removeprefix("$ ") for block in blocks for line in block.lines]
    ours = [line for line in lines if re.match(r"(?:uv run )?(?:tocsin [a-z]|python -m (?:tests|benchmarks|replay))", line)]
    wrong = {line: wrong_command(line) for line in ours}
    assert {line: why for line, why in wrong.items() if why} == {}


if __name__ == "__main__":
    SIGNALS.write_text(signals_page(), encoding="utf-8")
    ADAPTERS.write_text(adapters_page(), encoding="utf-8")
