"""The ledger as OCSF Remediation Activities: every row fits the official schema, hostile ones too."""

from __future__ import annotations

from functools import cache
from typing import Any

import jsonschema
import msgspec
import pytest
from ocsf_json_schema import OcsfJsonSchemaEmbedded

from detector.history import RESULTS, Entry
from detector.ledger import Ledger
from detector.remediation import remediation
from detector.respond import Responder
from tests.alerts import T0, made_alert
from tests.test_ledger import entry
from tests.test_ocsf import captions, harmless, official
from tests.test_respond import TTL, lab, table


@cache
def validator() -> Any:
    schema = OcsfJsonSchemaEmbedded(official()).get_class_schema("remediation_activity", ["security_control"])
    return jsonschema.Draft202012Validator(schema)


def faults(record: dict[str, Any]) -> list[str]:
    found = [f"{error.json_path}: {error.message[:200]}" for error in validator().iter_errors(record)]
    return found + list(captions("$", record, official()["classes"]["remediation_activity"]["attributes"]))


def record_of(row: Entry) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(remediation(row, 7, "h", "g", "0.1.0")))
    return plain


def test_every_row_of_a_containments_life_fits_the_schema() -> None:
    with Ledger() as ledger:
        responder = Responder(table(), [lab()], ledger)
        responder.handle(made_alert())
        responder.expire(T0 + TTL)
        responder.switched(T0 + TTL, "kill switch on")
        rows = list(ledger.entries())
    assert [faults(record_of(row)) for row in rows] == [[]] * len(rows)
    assert {record_of(row)["activity_name"] for row in rows} >= {"Isolate", "Evict", "Restore", "decided"}


@pytest.mark.parametrize("result", [*RESULTS, ""])
def test_every_result_fits_the_schema_and_nothing_of_a_row_is_lost(result: str) -> None:
    row = entry(1, result=result, step="outcome")
    record = record_of(row)
    assert faults(record) == []
    assert msgspec.convert(record["unmapped"]["tocsin"]["row"], Entry) == row


def test_hostile_text_is_harmless_in_what_people_are_shown() -> None:
    hostile = "a\x1b[2J\u202e" + "x" * 5_000
    record = record_of(entry(1, reason=hostile, target=f"pod:{hostile}", rule=hostile))
    assert faults(record) == []
    shown = [record["message"], record["status_detail"], record["policy"]["name"], record["remediation"]["desc"]]
    assert all(harmless(text) and len(text) <= 600 for text in shown)


def test_the_check_sees_a_record_that_is_wrong() -> None:
    record = record_of(entry(1))
    assert faults({name: value for name, value in record.items() if name != "command_uid"})
    assert faults({**record, "status": "Success", "status_id": 2})
