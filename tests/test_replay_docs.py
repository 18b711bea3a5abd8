"""Commands of the documentation run: those of docs/replay-and-tune.md in order, in one folder; of the other pages what needs no server.

What does not run stands here with its reason, so that a new command of any page that does neither is noticed.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from replay.cli import app
from tests.checkout import ROOT, code_blocks
from tests.test_pipeline import office

PAGE = "docs/replay-and-tune.md"
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md"))

#: Commands that are quick, in an order in which they can run; ``Shop`` says what stands for what.
QUICK = (
    "uv run tocsin sources",
    "uv run tocsin replay conn.log --alerts alerts.jsonl",
    "uv run tocsin explain 3f2a --alerts alerts.jsonl",
    "tocsin check /etc/tocsin/tocsin.toml",
    "tocsin policy test alerts.jsonl --config policy.toml --mode enforce",
    'tocsin kill-switch on --reason "..." --config policy.toml',
)
#: And those that are not.
SLOW = (
    "uv run tocsin demo",
    "uv run tocsin simulate --out factory --days 10 --seed 1",
    "uv run tocsin replay factory",
    "uv run tocsin simulate --splice conn.log --scenario c2-beacon --scenario slow-drip --out spliced",
)
#: Why commands do not run here -> those commands.
NOT_RUN: dict[str, tuple[str, ...]] = {
    "needs a broker; the tests marked kafka run it": (
        "tocsin topics --raw --config /etc/tocsin/tocsin.toml",
        "tocsin topics --check --config /etc/tocsin/tocsin.toml",
        "tocsin topics --config /etc/tocsin/other.toml",
        "tocsin topics --config /etc/tocsin/new.toml",
        "tocsin topics --fix",
        "tocsin topics --check",
        "tocsin dlq list --config /etc/tocsin/tocsin.toml",
        "tocsin dlq list --config /etc/tocsin/tocsin.toml --reason wrong-type --since 6h --json",
        "tocsin dlq retry --config /etc/tocsin/tocsin.toml --dry-run",
        "tocsin dlq retry --config /etc/tocsin/tocsin.toml --reason wrong-type:orig_bytes",
        "tocsin control apply /etc/tocsin/new.toml --config /etc/tocsin/tocsin.toml",
        "tocsin control show --config /etc/tocsin/tocsin.toml",
        "tocsin state export /var/tmp/profiles.sqlite --config /etc/tocsin/tocsin.toml",
        "tocsin state import /var/tmp/profiles.sqlite --from-now --config /etc/tocsin/other.toml",
        "tocsin accept-topic zeek.conn --config /etc/tocsin/tocsin.toml",
        "tocsin record --from kafka --raw --out day --hours 24 --max-gb 50 --config /etc/tocsin/tocsin.toml",
        "tocsin record --from kafka --by-actor --out events --since 24h --until now --key key --config /etc/tocsin/tocsin.toml",
        "tocsin record --from kafka",
        "tocsin replay day --to kafka --rate recorded --shift now --config /etc/tocsin/rehearsal.toml",
        "tocsin replay --to kafka",
        "tocsin approvals approve ID --send --key FILE --person ann",
        "tocsin ledger verify --anchor kafka",
        "tocsin ledger anchor --anchor kafka",
    ),
    "goes on until it is ended, and needs a broker; the tests marked kafka run it": (
        "tocsin worker --stage ingest --instance ingest-0 --config /etc/tocsin/tocsin.toml --listen 127.0.0.1:9464",
        "tocsin worker --stage actor --instance actor-0 --config /etc/tocsin/tocsin.toml --listen 127.0.0.1:9465",
        "tocsin worker --stage object --instance object-0 --config /etc/tocsin/tocsin.toml --listen 127.0.0.1:9466",
        "tocsin worker --stage fuse --stage budget --stage watch --instance fuse-0"
        " --config /etc/tocsin/tocsin.toml --listen 127.0.0.1:9467",
        "tocsin worker --stage ingest --instance new-ingest-0 --config /etc/tocsin/new.toml --listen 127.0.0.1:9474",
        "tocsin worker --stage actor --stage object --stage fuse --stage budget --stage watch --instance new-0"
        " --config /etc/tocsin/new.toml --listen 127.0.0.1:9475",
        "tocsin respond --config /etc/tocsin/respond.toml --listen 127.0.0.1:9470",
        "tocsin respond --config policy.toml --listen 127.0.0.1:9470",
    ),
    "goes on until it is ended; tests/test_respond_follow.py runs it": ("tocsin respond alerts.jsonl --follow --config policy.toml",),
    "needs something that is contained; tests/test_respond_cli.py runs it": (
        "tocsin approvals list --held",
        'tocsin approvals release ID --reason "false alarm"',
    ),
    "a form, not a command; the page beside it or this page runs one like it": (
        "tocsin replay --state",
        "tocsin replay events --partitions P",
        "tocsin record --key",
        "tocsin approvals approve ... --send",
        "tocsin topics --config FILE",
    ),
    "its table is a company's own; tests/test_source_table.py reads such": ("tocsin replay FLOWS.csv --mapping FLOWS.toml",),
    "needs Docker": (
        "docker compose up --detach --wait",
        "docker compose exec --no-TTY kafka /opt/kafka/bin/kafka-console-producer.sh --bootstrap-server kafka:19092 --topic zeek.conn"
        " < conn.log",
        "docker compose exec kafka /opt/kafka/bin/kafka-console-consumer.sh --bootstrap-server kafka:19092 --topic tocsin.alerts"
        " --from-beginning",
        "docker compose down --volumes",
    ),
    "asks a worker that runs": ("curl --silent 127.0.0.1:9465/readyz",),
}


def blocks(text: str) -> list[tuple[str, str]]:
    """(language, text) of every fenced block of a page, those in lists included."""
    return [(language, inner) for _, language, inner in re.findall(r"^( *)```(\w*)\n(.*?)^\1```$", text, re.MULTILINE | re.DOTALL)]


def shown_with_a_prompt(page: str) -> list[str]:
    return [
        line.removeprefix("$ ")
        for block in code_blocks(page)
        if block.language == "console"
        for line in block.lines
        if line.startswith("$ ")
    ]


def commands_in(text: str) -> list[str]:
    """Commands of a page's blocks that have no prompt, and those within its sentences that say more than a command's name."""
    found = []
    for language, inner in blocks(text):
        lines = [line.partition(" #")[0].strip() for line in inner.replace("\\\n", " ").splitlines()]
        lines = [re.sub(r"\s+", " ", line) for line in lines]
        if language in ("sh", "bash"):
            found += [line for line in lines if line]
        elif language in ("", "text"):
            found += [line for line in lines if re.match(r"(?:uv run )?(?:tocsin|python -m|docker compose|curl) [-a-z0-9]", line)]
    prose = re.sub(r"^( *)```.*?^\1```$", "", text, flags=re.MULTILINE | re.DOTALL)
    spans = re.findall(r"`([^`\n]+)`", prose)
    return found + [span for span in spans if re.match(r"(?:uv run )?(?:tocsin|docker compose|curl) .* -", span)]


def neither(text: str) -> list[str]:
    """Commands of a page that neither run nor have a reason."""
    return [each for each in commands_in(text) if each not in {*QUICK, *SLOW, *(each for many in NOT_RUN.values() for each in many)}]


class Shop:
    """A folder with what commands are about. A week of an office is in ``conn.log``; configurations are those that the pages show."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "conn.log").write_bytes(b"\n".join(office(2.0)) + b"\n")
        kafka, policy = (
            "\n".join(block.text for block in code_blocks(f"docs/{page}.md") if block.language == "toml")
            for page in ("kafka", "containment")
        )
        (folder / "tocsin.toml").write_text(kafka)
        (folder / "policy.toml").write_text(policy.replace("/var/lib/tocsin", f"{folder}/tocsin"))

    def here(self, command: str) -> str:
        """The command with what stands here for what stands on the page."""
        alerts = self.folder / "alerts.jsonl"
        if alerts.exists():
            command = command.replace(" 3f2a ", f" {msgspec.json.decode(alerts.read_bytes().splitlines()[0])['metadata']['uid'][:8]} ")
        return command.replace("/etc/tocsin/", "").removeprefix("uv run ")


def run_each(commands: list[str], folder: Path) -> None:
    """Run commands, each in a process of its own, as somebody types them."""
    (folder / "bin").mkdir()
    wrapper = folder / "bin" / "tocsin"
    wrapper.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m replay.cli "$@"\n')
    wrapper.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{wrapper.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "XDG_STATE_HOME": str(folder),
    }
    for command in commands:
        done = subprocess.run(["/bin/sh", "-ec", command], cwd=folder, capture_output=True, text=True, env=environment, check=False)  # noqa: S603
        assert done.returncode == 0, (command, done.stdout, done.stderr)


def test_the_page_shows_every_command_of_this_part() -> None:
    shown = {command.split()[1] for command in shown_with_a_prompt(PAGE) if command.startswith("tocsin ")}
    assert shown == {"simulate", "replay", "record", "tune", "report"}
    assert [page for page in PAGES if page != PAGE and shown_with_a_prompt(page)] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_runs_or_says_why_not(page: str) -> None:
    assert neither((ROOT / page).read_text(encoding="utf-8")) == []


def test_what_is_said_of_commands_is_said_of_some_that_are_there() -> None:
    said = [*QUICK, *SLOW, *(each for many in NOT_RUN.values() for each in many)]
    there = {each for page in PAGES for each in commands_in((ROOT / page).read_text(encoding="utf-8"))}
    assert [each for each in said if each not in there] == []
    assert len(said) == len(set(said))


@pytest.mark.parametrize(
    "text",
    [
        "```sh\ntocsin replay other.log   # as ever\n```\n",
        "1. so:\n\n   ```sh\n   tocsin replay other.log \\\n     --json\n   ```\n",
        "```text\ndocker compose up kafka\n```\n",
        "`tocsin policy test other.jsonl --mode observe` prints it\n",
    ],
)
def test_a_command_that_neither_runs_nor_says_why_is_noticed(text: str) -> None:
    assert len(neither(text)) == 1


def test_the_quick_commands_of_the_other_pages_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = Shop(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    for command in QUICK:
        words = shlex.split(shop.here(command))
        done = CliRunner().invoke(app, words[1:])
        assert (words[0], done.exit_code) == ("tocsin", 0), (command, done.output, done.exception)
        assert done.output, command


@pytest.mark.slow
@pytest.mark.timeout(1500)  # a factory of ten days, and one with attacks
def test_the_slow_commands_of_the_other_pages_run(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    run_each([shop.here(command) for command in SLOW[:3]], tmp_path)
    # A scenario needs a log that is long enough for it.
    shutil.copy(tmp_path / "factory" / "conn.log", tmp_path / "conn.log")
    shutil.rmtree(tmp_path / "bin")
    run_each([shop.here(SLOW[3])], tmp_path)
    assert (tmp_path / "spliced" / "manifest.json").exists()


@pytest.mark.slow
@pytest.mark.timeout(1500)  # a dozen commands, each a process that loads compiled code
def test_every_command_of_the_page_runs(tmp_path: Path) -> None:
    run_each(shown_with_a_prompt(PAGE), tmp_path)
    made = {path.name for path in tmp_path.iterdir()}
    assert {"alerts.jsonl", "ab.json", "report.html", "events", "shared"} <= made
    secret = (tmp_path / "key").read_bytes().strip()
    assert all(secret not in path.read_bytes() for path in (tmp_path / "shared").rglob("*") if path.is_file())
