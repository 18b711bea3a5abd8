"""What is deployed: compose file, Prometheus, systemd units. All hold to their formats, are shut in, and run commands of ours."""

from __future__ import annotations

import ast
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from connectors.kafka import Kafka, KafkaError, client
from connectors.topics import Topics
from detector.blindspots import RULES
from detector.config import parse
from detector.policy import Respond
from detector.process import AGAIN, BROKER, MISTAKE, REFUSED, TOPICS
from detector.respond import observer
from detector.responder import Service, Switch
from detector.vitals import Vitals
from detector.watch import ABOUT
from tests.checkout import PACKAGES, ROOT, code_blocks, modules
from tests.test_readme import wrong_command

COMPOSE = ROOT / "docker-compose.yml"
KAFKA = ROOT / "docs" / "kafka.md"
UNITS = sorted((ROOT / "deploy" / "systemd").glob("*.service"))
STAGES = ("ingest", "actor", "object", "fuse", "budget", "watch")
#: Services of ours, and those of others.
OURS = {*STAGES, "topics", "respond", "replay"}
THEIRS = {"kafka", "prometheus"}


def compose() -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))
    return read


def against_the_specification(read: dict[str, Any]) -> list[str]:
    """What the JSON schema of the compose specification has against a file."""
    schema = json.loads(resources.files("check_jsonschema").joinpath("builtin_schemas/vendor/compose-spec.json").read_text())
    return [error.message for error in jsonschema.validators.validator_for(schema)(schema).iter_errors(read)]


def open_doors(name: str, service: dict[str, Any]) -> list[str]:
    """What of the hardening a service lacks."""
    found = [
        ("user", re.fullmatch(r"[1-9]\d*:[1-9]\d*", service.get("user", "")) is not None),
        ("read_only", service.get("read_only") is True or name == "kafka"),
        ("cap_drop", service.get("cap_drop") == ["ALL"] and "cap_add" not in service),
        ("no-new-privileges", "no-new-privileges:true" in service.get("security_opt", [])),
        ("limits", "pids_limit" in service and "mem_limit" in service),
        ("privileged", not {"privileged", "pid", "ipc", "devices", "userns_mode"} & service.keys()),
        ("network", service.get("network_mode", "none") == "none"),
        ("ports", all(str(port).startswith("127.0.0.1:") for port in service.get("ports", []))),
        ("socket", "docker.sock" not in str(service.get("volumes", ""))),
    ]
    return [what for what, good in found if not good]


def secrets_in_plain(service: dict[str, Any]) -> list[str]:
    """Variables that look as if they held a secret: those come as files."""
    return [key for key in service.get("environment", {}) if re.search("PASSWORD|SECRET|TOKEN|_KEY|CREDENTIAL", key.upper())]


def command_of(name: str, service: dict[str, Any]) -> str:
    """The command line of one of our services."""
    words = service["command"]
    return words[0].removeprefix("exec ") if name == "replay" else shlex.join(["tocsin", *words])


def test_the_compose_file_keeps_to_the_specification() -> None:
    assert against_the_specification(compose()) == []


@pytest.mark.parametrize(
    ("service", "key", "value"), [("actor", "restart_policy", "x"), ("kafka", "ports", {"9092": 1}), ("fuse", "read_only", [1])]
)
def test_what_the_specification_does_not_know_is_noticed(service: str, key: str, value: object) -> None:
    read = compose()
    read["services"][service][key] = value
    assert against_the_specification(read)


def test_every_part_of_the_engine_has_a_service() -> None:
    assert set(compose()["services"]) == OURS | THEIRS
    assert [name for name, service in compose()["services"].items() if "profiles" in service] == ["replay"]


def test_every_container_is_shut_in() -> None:
    found = {name: open_doors(name, service) + secrets_in_plain(service) for name, service in compose()["services"].items()}
    assert {name: doors for name, doors in found.items() if doors} == {}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("user", "root"),
        ("user", "0:0"),
        ("read_only", False),
        ("cap_drop", []),
        ("cap_add", ["NET_ADMIN"]),
        ("security_opt", []),
        ("privileged", True),
        ("network_mode", "host"),
        ("ports", ["9092:9092"]),
        ("ports", ["0.0.0.0:1:1"]),
        ("volumes", ["/var/run/docker.sock:/x"]),
        ("mem_limit", None),
    ],
)
def test_a_container_with_an_open_door_is_noticed(key: str, value: object) -> None:
    service = compose()["services"]["actor"]
    service[key] = value
    if value is None:
        del service[key]
    assert open_doors("actor", service)
    assert secrets_in_plain({"environment": {"TOCSIN_KAFKA_PASSWORD": "x"}})


def test_ingest_reaches_the_broker_and_nothing_else_and_holds_no_secret() -> None:
    read = compose()
    ingest = read["services"]["ingest"]
    assert ingest["networks"] == ["bus"]
    assert read["networks"]["bus"]["internal"] is True
    assert not {"secrets", "environment", "env_file", "volumes", "ports"} & ingest.keys()
    assert [each["source"] for each in ingest["configs"]] == ["tocsin"]


def test_the_replay_reaches_nothing_and_cannot_write_to_the_traces() -> None:
    replay = compose()["services"]["replay"]
    assert replay["network_mode"] == "none"
    assert replay["volumes"][0]["read_only"] is True
    # A file that names a variable without a value would keep everything else from starting.
    assert not re.search(r"\$\{\w+:?\?", COMPOSE.read_text())


@pytest.mark.parametrize("name", sorted(OURS))
def test_every_command_of_the_compose_file_parses(name: str) -> None:
    assert wrong_command(command_of(name, compose()["services"][name])) == ""


def test_each_stage_is_run_once_under_a_name_that_stays_and_waits_for_its_topics() -> None:
    services = compose()["services"]
    for stage in STAGES:
        words = services[stage]["command"]
        assert words[:3] == ["worker", "--stage", stage]
        assert words[words.index("--instance") + 1] == f"{stage}-0"
        assert services[stage]["depends_on"] == {"topics": {"condition": "service_completed_successfully"}}
        assert services[stage]["stop_grace_period"] == "15s"
        assert "/readyz" in services[stage]["healthcheck"]["test"][-1]
    assert services["topics"]["depends_on"] == {"kafka": {"condition": "service_healthy"}}


def test_every_image_is_named_with_its_version_and_the_broker_is_the_tested_one() -> None:
    images = {name: service["image"] for name, service in compose()["services"].items()}
    assert all(re.fullmatch(r"[\w/-]+:v?\d+\.\d+\.\d+", image) for image in images.values()), images
    pom = (ROOT / "tests" / "kafka-broker.pom.xml").read_text()
    assert f"<kafka.version>{images['kafka'].partition(':')[2]}<" in pom
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert {images[name] for name in OURS} == {f"tocsin:{version}"}


def test_what_the_compose_file_mounts_is_there_and_can_be_used() -> None:
    for config in compose()["configs"].values():
        assert (ROOT / config["file"]).is_file()
    config = parse((ROOT / "deploy" / "tocsin.toml").read_text())
    assert config.kafka.bootstrap == ["kafka:19092"]
    assert "BUS://kafka:19092" in compose()["services"]["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    assert config.respond.mode == "observe"
    assert len(config.kafka.raw) >= 3


def test_prometheus_asks_every_process_at_the_address_it_listens_on() -> None:
    jobs = {job["job_name"]: job for job in yaml.safe_load((ROOT / "deploy" / "prometheus.yml").read_text())["scrape_configs"]}
    asked = jobs["tocsin"]["static_configs"][0]["targets"]
    listening = [
        f"{name}:{service['command'][service['command'].index('--listen') + 1].rpartition(':')[2]}"
        for name, service in compose()["services"].items()
        if "--listen" in service.get("command", [])
    ]
    assert sorted(asked) == sorted(listening)
    assert {target.partition(":")[0] for target in asked} == {*STAGES, "respond"}


def responding() -> str:
    """The page of a responder."""
    vitals = Vitals("0.1.0", lambda: 3, lambda: 1.0)
    vitals.service = Service(observer(Respond()), lambda: 0, Switch(""))
    return vitals.render()[0].decode()


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((ROOT / "deploy" / "alerts.yml").read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def test_every_metric_in_the_alert_rules_is_one_that_a_process_counts() -> None:
    from tests.test_health import filled

    text = filled().render()[0].decode() + responding()
    counted = set(re.findall(r"^(tocsin_\w+)", text, re.MULTILINE))
    for rule in rules():
        named = set(re.findall(r"\btocsin_\w+", rule["expr"]))
        assert named <= counted, (rule["alert"], named - counted)
        assert rule["labels"]["severity"] in ("critical", "warning")


def literal(node: ast.expr) -> str:
    """How a text in code begins, as far as it stands there; ``ABOUT`` is known."""
    if isinstance(node, ast.JoinedStr):
        head = ""
        for part in node.values:
            if isinstance(part, ast.Constant):
                head += str(part.value)
            elif isinstance(part, ast.FormattedValue) and isinstance(part.value, ast.Name) and part.value.id == "ABOUT":
                head += ABOUT
            else:
                break
        return head
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def causes(*sources: str) -> set[str]:
    """What our own alerts can be about, without ``service:tocsin/`` and the name of the one thing: every ``Cause`` of the rules, and
    every identity that is spelled out."""
    found = set()
    for node in (node for source in sources for node in ast.walk(ast.parse(source))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Cause":
            name = literal(node.args[0])
            assert "/" in name, f"a cause whose kind is not to be read: {ast.unparse(node)}"
            found.add(name.partition("/")[0])
        elif isinstance(node, ast.expr) and (text := literal(node)).startswith(ABOUT) and text != ABOUT:
            found.add(text.removeprefix(ABOUT).partition("/")[0])
    return found


@cache
def told_of() -> frozenset[str]:
    """Every cause that our code tells of."""
    return frozenset(causes(*(path.read_text(encoding="utf-8") for path in modules(*PACKAGES))))


def without_runbook(page: str, names: frozenset[str]) -> list[str]:
    """Causes that have no row in the page's table of blind spots."""
    told = set(re.findall(r"^\| `([\w-]+)(?:/[^`]*)?` \|", page.partition("### Blind spots")[2].partition("\n## ")[0], re.MULTILINE))
    return sorted(names - told)


def test_every_alert_rule_every_metric_and_every_blind_spot_is_in_the_runbook() -> None:
    from tests.test_health import filled

    page = KAFKA.read_text(encoding="utf-8")
    kinds = re.findall(r"^# TYPE (tocsin_\w+) ", filled().render()[0].decode() + responding(), re.MULTILINE)
    # The client writes beside each counter when it began.
    missing = [name for name in kinds if f"`{name}`" not in page and not name.endswith("_created")]
    missing += [rule["alert"] for rule in rules() if f"`{rule['alert']}`" not in page]
    missing += without_runbook(page, told_of())
    assert missing == []


def test_the_causes_are_those_that_the_code_tells_of() -> None:
    found = told_of()
    # One of the rules, one that the watcher tells at once, one of the tables: all the ways in which a cause is named.
    assert {"canary", "lost", "profiles"} <= found
    assert len(found) > len(RULES)
    assert causes('yield Cause(f"moon/{name}", True, text)', 'say(now, f"{ABOUT}sun/{name}", text)') == {"moon", "sun"}


def test_a_cause_without_a_row_in_the_runbook_is_noticed() -> None:
    page, known = KAFKA.read_text(encoding="utf-8"), told_of()
    for cause in known:
        assert without_runbook(re.sub(rf"^\| `{cause}\b.*\n", "", page, flags=re.MULTILINE), known) == [cause]
    assert without_runbook(page, known | {"moon"}) == ["moon"]


#: Modules of commands that meet a broker -> how the table of rights names what they do; stages and responder stand there as such.
RIGHTS = {
    "accept": ["`tocsin accept-topic`"],
    "approvals": ["`tocsin approvals approve"],
    "control": ["`tocsin control show`, `apply`"],
    "dlq": ["`tocsin dlq list`", "`tocsin dlq retry`"],
    "from_kafka": ["`tocsin record --from kafka`"],
    "ledger": ["`tocsin ledger verify", "`tocsin ledger anchor"],
    "moves": ["`tocsin state export`", "`tocsin state import`"],
    "skip": ["`tocsin skip`"],
    "to_kafka": ["`tocsin replay --to kafka`"],
    "topics": ["`tocsin topics`"],
}


def test_the_table_of_rights_has_every_command_that_meets_a_broker_and_names_topics_that_are_there() -> None:
    table = re.findall(
        r"^\|.*\|$", KAFKA.read_text(encoding="utf-8").partition("| user | topics |")[2].partition("\n\n")[0], re.MULTILINE
    )
    meeting = {path.stem for path in modules("replay") if re.search(r"^\s+await connected\(", path.read_text(), re.MULTILINE)}
    assert meeting == RIGHTS.keys()
    assert [each for many in RIGHTS.values() for each in many if not any(each in row.split("|")[1] for row in table)] == []
    ours = Topics("tocsin")
    groups = {"tocsin.ingest", "tocsin.respond", "tocsin.dlq-retry", *(f"tocsin.{stage}" for stage in STAGES)}
    named = {name for row in table for name in re.findall(r"`(tocsin\.[\w.-]+)`", row)}
    assert named <= {*ours.all(), *groups}


def test_every_command_of_ours_in_the_page_on_kafka_parses() -> None:
    lines = [line for block in code_blocks("docs/kafka.md") if block.language == "sh" for line in block.lines]
    ours = [line.replace("/opt/tocsin/bin/tocsin", "tocsin").removeprefix("sudo ") for line in lines if "tocsin " in line]
    ours = [line for line in ours if line.startswith("tocsin ")]
    assert len(ours) > 5
    wrong = {line: wrong_command(line) for line in ours}
    assert {line: why for line, why in wrong.items() if why} == {}


def test_the_settings_shown_on_the_page_on_kafka_are_good() -> None:
    shown = [block.text for block in code_blocks("docs/kafka.md") if block.language == "toml"]
    assert shown
    for text in shown:
        parse(text)


def unit(path: Path) -> dict[str, list[str]]:
    """A unit's settings; one given several times has several values."""
    found: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_comes_back_after_faults_and_not_after_refusals(path: Path) -> None:
    read = unit(path)
    assert read["Restart"] == ["on-failure"]
    prevented = {int(code) for code in read["RestartPreventExitStatus"][0].split()}
    assert prevented == {MISTAKE, REFUSED} | (set() if "respond" in path.name else {TOPICS})
    assert not prevented & {BROKER, AGAIN}
    assert read["TimeoutStopSec"] == ["15"]


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_is_shut_in_and_gets_its_secrets_as_files(path: Path) -> None:
    read = unit(path)
    for key in ("NoNewPrivileges", "PrivateTmp", "PrivateDevices", "ProtectKernelModules", "RestrictNamespaces"):
        assert read[key] == ["yes"], key
    assert read["ProtectSystem"] == ["strict"]
    assert read["CapabilityBoundingSet"] == [""]
    assert "DynamicUser" in read or read["User"] != ["root"]
    assert not any(re.search("PASSWORD|SECRET|TOKEN", value) for value in read["Environment"])
    assert all(value.partition(":")[2].startswith("/etc/tocsin/secrets/") for value in read["LoadCredential"])


def test_the_responder_has_a_user_of_its_own_under_the_names_of_the_stages() -> None:
    given = [dict(value.split(":") for value in unit(path)["LoadCredential"]) for path in UNITS]
    shown = [parse(block.text).kafka for block in code_blocks("docs/kafka.md") if block.language == "toml" and "[kafka]" in block.text]
    assert [set(each) for each in given] == [{shown[0].username_file, shown[0].password_file}] * 2
    files = [Path(file).name for each in given for file in each.values()]
    assert len(set(files)) == len(files) == 4
    (made,) = (block.text for block in code_blocks("docs/kafka.md") if "/etc/tocsin/secrets " in block.text)
    assert [file for file in files if not re.search(rf"[ ]{file}\b", made)] == []


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_the_command_of_a_unit_parses(path: Path) -> None:
    line = (
        unit(path)["ExecStart"][0].replace("/opt/tocsin/bin/", "").replace("%i", "actor").replace("${TOCSIN_LISTEN}", "127.0.0.1:9464")
    )
    assert wrong_command(line.replace("%H-%p", "host-tocsin")) == ""


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_systemd_finds_nothing_wrong_with_a_unit(path: Path, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not here; the other tests read the units all the same")
    # A unit whose command is not there is found wrong, and here it is somewhere else.
    copy = tmp_path / path.name
    copy.write_text(path.read_text().replace("/opt/tocsin/bin/tocsin", sys.executable))

    def analyzed(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # noqa: S603
            ["systemd-analyze", *words, str(copy)],  # noqa: S607
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    done = analyzed("verify", "--man=no")
    assert (done.returncode, done.stderr.strip()) == (0, "")
    # Its own scale of exposure, 0 to 100: below 20 means hardly any door is open.
    assert analyzed("security", "--offline=true", "--threshold=20").returncode == 0
    copy.write_text(copy.read_text().replace("ProtectSystem=strict", "ProtectSystem=perhaps"))
    assert "protect system" in analyzed("verify", "--man=no").stderr


def test_a_relative_file_of_a_secret_lies_where_systemd_puts_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("username", "password"):
        (tmp_path / f"kafka-{name}").write_text(f"{name} of ours\n")
    settings = Kafka(security="sasl_plaintext", username_file="kafka-username", password_file=str(tmp_path / "kafka-password"))
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(KafkaError, match=r"kafka\.username_file: kafka-username: No such file"):
        client(settings)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    given = client(settings)
    assert (given["sasl_plain_username"], given["sasl_plain_password"]) == ("username of ours", "password of ours")


def test_the_image_has_a_place_for_the_ledger_that_its_user_may_write_to() -> None:
    assert "--owner=65532 --group=65532 --mode=0700 /var/lib/tocsin" in (ROOT / "deploy" / "Dockerfile").read_text()
    assert compose()["services"]["respond"]["volumes"] == ["ledger:/var/lib/tocsin"]
