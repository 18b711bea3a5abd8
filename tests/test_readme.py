"""What the documents say is so: commands parse, settings exist, names are there, sources describe themselves.

``python -m tests.test_readme`` writes the sources' self-descriptions into ``docs/sources.md``, and how a demo ends into the README.
"""

from __future__ import annotations

import importlib
import os
import re
import shlex
import subprocess
import sys
import tempfile
import tomllib
from typing import Any

import pytest
import typer
import yaml

from connectors.sources import INPUTS, Source, available
from detector.config import ConfigError, parse
from replay import cli
from tests.checkout import ROOT, CodeBlock, code_blocks

README = ROOT / "README.md"
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "docs/sources.md")
SOURCES = ROOT / "docs" / "sources.md"
#: Prefixes of what a newcomer types, and what stands behind them in this environment.
TOOLS = {"ruff", "mypy", "lint-imports"}

_NAME_IN_CODE = re.compile(r"`([\w/]+\.py):([\w.]+)`")
_LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)")
#: How a demo ends, as the README shows it; the number of lines of its progress that are enough to see what it is like.
_DEMO = re.compile(r"(?<=It ends like this:\n\n```text\n).*?(?=^```$)", re.MULTILINE | re.DOTALL)
_PROGRESS_LINES = 8
_MARKED = "<!-- {name}: its own words, written by tests/test_readme.py -->\n{text}<!-- end -->\n"
_SECTION = re.compile(r"^## (\w+)\n\n<!-- \1: [^\n]*-->\n(.*?)<!-- end -->\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)


def wrong_tocsin(words: list[str]) -> str:
    """Why ``tocsin`` would not take these arguments; "" where it would. Nothing is run."""
    group: Any = typer.main.get_command(cli.app)
    name, *arguments = words or [""]
    if name not in group.commands:
        return f"no such command: {name}"
    command: Any = group.commands[name]
    while arguments and arguments[0] in getattr(command, "commands", {}):
        name, *arguments = arguments
        command = command.commands[name]
    if arguments == ["--help"]:
        return ""
    if hasattr(command, "commands"):
        return f"no such command of {name}: {' '.join(arguments) or 'none given'}"
    try:
        command.make_context(name, arguments)
    except (Exception, SystemExit) as error:  # typer keeps its own exceptions private
        return f"{error!r}"
    return ""


def wrong_module(words: list[str]) -> str:
    """Why ``python -m`` would not take these words, as far as the module's own ``--help`` says."""
    module, *arguments = words
    if not (ROOT / f"{module.replace('.', '/')}.py").is_file():
        return f"no such module: {module}"
    options = {word.partition("=")[0] for word in arguments if word.startswith("-")}
    if not options:
        return ""
    shown = subprocess.run(  # noqa: S603 - a module of this checkout
        [sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    return "".join(f"no option {option}; " for option in sorted(options) if not re.search(rf"{option}\b", shown.stdout))


def wrong_command(line: str) -> str:
    """Why a command line of a document would not work as it stands; "" where nothing is wrong with it."""
    words = shlex.split(line, comments=True)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words.pop(0)
    if ">" in words:
        words = words[: words.index(">")]
    if words[:2] == ["docker", "compose"]:
        if words[2:] == ["up"] or ("run" in words and words[-1] in compose_services()):
            return ""
        return f"no such service: {words[-1]}"
    if words in (["pip", "install", "uv"], ["uv", "sync"]):
        return ""
    if words[:1] == ["bash"]:
        return "" if (ROOT / words[1]).is_file() else f"no such file: {words[1]}"
    words = words[2:] if words[:2] == ["uv", "run"] else words
    if words[:1] == ["tocsin"]:
        return wrong_tocsin(words[1:])
    if words[:1] == ["pytest"]:
        return wrong_tests(words[1:])
    if words[:2] == ["python", "-m"]:
        return wrong_module(words[2:])
    return "" if words and words[0] in TOOLS else f"not a command this test knows: {line}"


def wrong_tests(words: list[str]) -> str:
    """Why pytest would not take these words: a marker that does not exist, or a file."""
    if words[:1] == ["-m"]:
        options = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pytest"]["ini_options"]
        known = {line.partition(":")[0] for line in options["markers"]} | {"and", "not", "or"}
        return "".join(f"no such marker: {word}; " for word in words[1].split() if word not in known)
    return "".join(f"no such file: {word}; " for word in words if not (ROOT / word).exists())


def compose_services() -> list[str]:
    """The services of the compose file."""
    return list(yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"])


def shell_blocks(document: str) -> list[CodeBlock]:
    return [block for block in code_blocks(document) if block.language in ("", "sh")]


def missing_names(text: str) -> list[str]:
    """Names in code (``file.py:Name.name``) that a text mentions and that are not there."""
    missing = []
    for file, path in _NAME_IN_CODE.findall(text):
        if not (ROOT / file).is_file():
            missing.append(f"{file}:{path}")
            continue
        found: Any = importlib.import_module(file.removesuffix(".py").replace("/", ".").removesuffix(".__init__"))
        for name in path.split("."):
            fields = getattr(found, "__annotations__", {})
            found = getattr(found, name, fields.get(name))
            if found is None:
                missing.append(f"{file}:{path}")
                break
    return missing


def described(name: str, source: type[Source]) -> str:
    """A source in its own words, as Markdown."""
    cannot = [word for word in INPUTS if word not in source.feeds]
    lines = [
        f"{source.title[0].upper()}{source.title[1:]}.",
        "",
        f"* Feeds: {', '.join(word for word in INPUTS if word in source.feeds)}",
        f"* Cannot feed: {', '.join(cannot) or 'nothing is missing'}",
        f"* Mind: {source.limits}",
        "",
        "```json",
        source.example,
        "```",
    ]
    mapping = getattr(source, "example_mapping", "")
    if mapping:
        lines += ["", "Read with this mapping:", "", "```toml", mapping.rstrip("\n"), "```"]
    return _MARKED.format(name=name, text="\n".join([*lines, ""]))


def sections(page: str) -> dict[str, tuple[str, str]]:
    """Source -> (its own words, what people have written below them)."""
    return {name: (own, written.strip()) for name, own, written in _SECTION.findall(page)}


def rewritten(page: str) -> str:
    """The page with every source in its own words of now, in order of name; what people have written stays."""
    head = page.partition("\n## ")[0].rstrip()
    held = sections(page)
    parts = [f"## {name}\n\n{described(name, source)}\n{held.get(name, ('', ''))[1]}".rstrip() for name, source in available().items()]
    return "\n\n".join([head, *parts]) + "\n"


def demo_ending(*options: str) -> str:
    """The last lines of a demo's progress, and its whole summary."""
    with tempfile.TemporaryDirectory() as kept:
        done = subprocess.run(  # noqa: S603 - our own command
            [sys.executable, "-m", "replay.cli", "demo", *options],
            cwd=ROOT,
            env={**os.environ, "XDG_STATE_HOME": kept},
            capture_output=True,
            text=True,
            timeout=280,
            check=True,
        )
    return "\n".join([*done.stderr.splitlines()[-_PROGRESS_LINES:], done.stdout])


def labels(text: str) -> set[str]:
    """The words that begin the lines of a summary, names of attacks included; times and actions begin those of the progress."""
    return set(re.findall(r"^ {0,2}([a-z][a-z-]+)(?=  )", text, re.MULTILINE))


def test_the_two_commands_stand_first_in_the_readme() -> None:
    assert code_blocks("README.md")[0].lines == ["uv run tocsin demo", "uv run pytest"]
    top = README.read_text(encoding="utf-8").partition("```")[0]
    assert "pip install uv" in top
    assert "\n## " not in top


def test_ci_takes_its_commands_from_the_readme() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    (function,) = re.findall(r"^readme_commands\(\) \{.*\}$", script, re.MULTILINE)
    found = subprocess.run(  # noqa: S603 - a line of our own script
        ["bash", "-c", f"{function}\nreadme_commands"],  # noqa: S607 - the one that CI starts it with
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert found.stdout.splitlines() == code_blocks("README.md")[0].lines
    assert 'bash -euo pipefail -c "$tests"' in script
    assert 'bash -euo pipefail -c "$demo"' in script


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_in_a_document_parses(document: str) -> None:
    wrong = {line: wrong_command(line) for block in shell_blocks(document) for line in block.lines}
    assert {line: why for line, why in wrong.items() if why} == {}


@pytest.mark.parametrize(
    "line",
    [
        "uv run tocsin fly",
        "uv run tocsin replay --no-such-option x",
        "uv run tocsin demo --days many",
        "uv run tocsin check",
        "uv run tocsin dlq",
        "uv run tocsin dlq burn",
        "uv run tocsin dlq list --no-such-option",
        "uv run pytest tests/no_such_test.py",
        "uv run pytest -m 'kafka and no_such_marker'",
        "docker compose run --rm no_such_service",
        "uv run python -m benchmarks.no_such_benchmark",
        "uv run python -m benchmarks.throughput --no-such-option",
        "docker compose run --rm no-such-service",
        "curl site.example | sh",
    ],
)
def test_a_command_that_would_not_work_is_noticed(line: str) -> None:
    assert wrong_command(line)


def test_the_settings_shown_in_the_readme_are_good() -> None:
    shown = [block.text for block in code_blocks("README.md") if block.language == "toml"]
    assert shown
    for text in shown:
        parse(text)
    with pytest.raises(ConfigError):
        parse(shown[0].replace("[", "[no_such_", 1))


def test_every_exit_code_is_in_the_readme() -> None:
    codes = re.findall(r"(?:: |; |\n)(\d+) ", cli.__doc__ or "")
    assert len(codes) > 3
    assert re.findall(r"^\| (\d+) \|", README.read_text(encoding="utf-8"), re.MULTILINE) == codes


def test_every_source_is_in_the_readme() -> None:
    assert re.findall(r"^\| `(\w+)` \|", README.read_text(encoding="utf-8"), re.MULTILINE) == list(available())


def test_the_demo_ends_as_the_readme_shows() -> None:
    (shown,) = _DEMO.findall(README.read_text(encoding="utf-8"))
    small = demo_ending("--days", "2", "--scale", "0.05")
    assert {"events", "alerts", "actions", "state", "bulk-pull", "ledger"} <= labels(shown)
    # A small factory may have nothing to skip or to tell; whatever else is shown must still be what a demo says.
    assert labels(shown) - labels(small) <= {"skipped"}


def test_the_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 200


@pytest.mark.parametrize("document", [*DOCUMENTS, "CHANGELOG.md"])
def test_every_link_within_the_checkout_leads_somewhere(document: str) -> None:
    links = _LINK.findall((ROOT / document).read_text())
    assert [link for link in links if not ((ROOT / document).parent / link).exists()] == []


def test_every_name_on_a_records_way_through_the_code_is_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    assert len(_NAME_IN_CODE.findall(text)) > 20
    assert missing_names(text) == []


def test_a_name_that_is_gone_is_noticed() -> None:
    text = "`detector/fuse.py:Fusion.judge`, `detector/fuse.py:Fusion.gone`, `detector/gone.py:f`, `models/budget.py:Budget.threshold`"
    assert missing_names(text) == ["detector/fuse.py:Fusion.gone", "detector/gone.py:f"]


def test_the_page_of_sources_says_what_the_sources_say_of_themselves() -> None:
    page = SOURCES.read_text(encoding="utf-8")
    assert rewritten(page) == page, "run: uv run python -m tests.test_readme"


def test_the_page_of_sources_says_how_to_get_the_records_of_each() -> None:
    held = sections(SOURCES.read_text(encoding="utf-8"))
    assert list(held) == list(available())
    assert [name for name, (_, written) in held.items() if not written.startswith("**How to get the records.** ")] == []


def test_a_page_that_lags_behind_its_sources_is_rewritten_and_keeps_what_people_wrote() -> None:
    page = SOURCES.read_text(encoding="utf-8")
    own, written = sections(page)["zeek_conn"]
    stale = page.replace(own, "Something else.\n").replace("## table\n", "## gone\n")
    again = rewritten(stale)
    assert sections(again)["zeek_conn"] == (own, written)
    assert list(sections(again)) == list(available())


def test_the_image_is_made_of_files_that_are_there() -> None:
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    (build,) = re.findall(r"^ +dockerfile: (.+)$", (ROOT / "docker-compose.yml").read_text(), re.MULTILINE)
    assert build == "deploy/Dockerfile"
    copied = [word for words in re.findall(r"^COPY (?!--)(.+) \S+$", dockerfile, re.MULTILINE) for word in words.split()]
    assert [name for name in copied if not (ROOT / name).exists()] == []
    allowed = re.findall(r"^!(.+)$", (ROOT / "deploy" / "Dockerfile.dockerignore").read_text(), re.MULTILINE)
    assert sorted(allowed) == sorted(copied)
    assert re.search(r"^USER (?!root|0)\S+$", dockerfile, re.MULTILINE)


if __name__ == "__main__":
    SOURCES.write_text(rewritten(SOURCES.read_text(encoding="utf-8")), encoding="utf-8")
    ending = demo_ending()
    README.write_text(_DEMO.sub(lambda _: ending, README.read_text(encoding="utf-8")), encoding="utf-8")
