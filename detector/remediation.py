"""Rows of the ledger as OCSF 1.8.0 Remediation Activities (class 7001), one a row, those of decisions not to act included.

=================  ===================================================================================================
command_uid        the action id, the alert's where no action is meant; ``metadata.uid`` adds the number of the row
activity           Restore for what takes back; Isolate or Evict by what the verb does; Other with the step's name else
status             Success where the step did what it should, Failure where not, Partial where that could not be seen
unmapped.tocsin    the whole row, with its hash and the one before: what shows that nothing was left out
=================  ===================================================================================================
"""

from __future__ import annotations

from typing import Any

import msgspec

from connectors.ocsf import PRODUCT, SCHEMA, shown
from detector.history import Entry

CLASS_UID = 7001
#: Version of ``unmapped.tocsin``.
EXPORT_VERSION = 1

_ISOLATE = ("isolate", "suspend", "hold", "requeue", "cordon", "taint", "drain", "limit", "deny", "withhold")
_EVICT = ("revoke", "disable", "evict", "cancel", "rotate")
_SUCCESS = frozenset(
    {"carried-out", "already-so", "verified", "undone", "undo-already", "undo-verified", "approved", "denied", "switched"}
)
_FAILURE = frozenset({"failed", "not-effective", "undo-failed"})
_PARTIAL = frozenset({"unverified", "undo-unverified", "retrying", "looking"})
_STATUSES = {0: "Unknown", 1: "Success", 2: "Failure", 4: "Partial", 99: "Other"}
_DISPOSITIONS = {"approved": (8, "Approved"), "denied": (25, "Rejected"), "undo-verified": (9, "Restored")}
_SEVERITIES = {2: "Low", 3: "Medium", 4: "High", 5: "Critical"}


def remediation(entry: Entry, seq: int, hash_: str, before: str, product_version: str) -> dict[str, Any]:
    """One row: plain data, in a fixed order of keys. ``hash_``, ``before``: of the row and of the one before it."""
    activity, activity_name = _activity(entry)
    status = _status(entry.result)
    severity = entry.facts.severity if entry.facts and entry.facts.severity in _SEVERITIES else 1
    disposition, disposition_name = _DISPOSITIONS.get(entry.result, (17, "Logged"))
    what = " ".join(part for part in (entry.verb, entry.target) if part) or "nothing"
    return {
        "activity_id": activity,
        "activity_name": activity_name,
        "category_uid": 7,
        "category_name": "Remediation",
        "class_uid": CLASS_UID,
        "class_name": "Remediation Activity",
        "type_uid": CLASS_UID * 100 + activity,
        "type_name": f"Remediation Activity: {activity_name if activity != 99 else 'Other'}",
        "time": entry.time // 1000,
        "timezone_offset": 0,
        "severity_id": severity,
        "severity": _SEVERITIES.get(severity, "Informational"),
        "status_id": status,
        "status": entry.result if status == 99 else _STATUSES[status],
        "status_code": entry.result or entry.step,
        "status_detail": shown(entry.reason or entry.step),
        "disposition_id": disposition,
        "disposition": disposition_name,
        "command_uid": shown(entry.action or entry.alert or "kill-switch"),
        "message": shown(f"{entry.step}: {what}{f', {entry.result}' if entry.result else ''}"),
        "policy": {"name": shown(entry.rule or "none"), "uid": shown(entry.rule or "none")},
        "remediation": {"desc": shown(what)},
        "metadata": {
            "version": SCHEMA,
            "uid": f"{entry.action or entry.alert or 'kill-switch'}-{seq}",
            "correlation_uid": entry.alert,
            "sequence": seq,
            "profiles": ["security_control"],
            "product": {"name": PRODUCT, "vendor_name": PRODUCT, "version": product_version},
            "log_name": "ledger",
        },
        "unmapped": {
            "tocsin": {"version": EXPORT_VERSION, "seq": seq, "hash": hash_, "prev_hash": before, "row": msgspec.to_builtins(entry)}
        },
    }


def _activity(entry: Entry) -> tuple[int, str]:
    if entry.step in ("undo-intent", "undo", "undo-verify"):
        return 3, "Restore"
    if entry.step not in ("intent", "outcome", "verify"):
        return 99, entry.step
    if entry.verb.startswith(_ISOLATE):
        return 1, "Isolate"
    return (2, "Evict") if entry.verb.startswith(_EVICT) else (99, entry.step)


def _status(result: str) -> int:
    if not result:
        return 0
    known = [number for number, words in ((1, _SUCCESS), (2, _FAILURE), (4, _PARTIAL)) if result in words]
    return known[0] if known else 99
