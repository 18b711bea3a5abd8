"""The adapters that a configuration sets up: one for each table ``[respond.adapters.<name>]``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from connectors.containment import Adapter, Verb, available, offered
from detector.mistakes import sentence


def settings(name: str, table: Mapping[str, Any]) -> msgspec.Struct:
    """The settings of one adapter. Raises ValueError: one sentence, naming the key."""
    known = available()
    if name not in known:
        raise ValueError(f"respond.adapters.{name}: expected one of {', '.join(known)}")
    try:
        return msgspec.convert(dict(table), known[name].Settings)
    except (msgspec.ValidationError, ValueError) as error:
        raise ValueError(sentence(str(error), f"respond.adapters.{name}")) from None


def mistakes(tables: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What is wrong with the tables, one sentence each."""
    found = []
    for name, table in tables.items():
        try:
            settings(name, table)
        except ValueError as error:
            found.append(str(error))
    return found


def build(tables: Mapping[str, Mapping[str, Any]]) -> list[Adapter]:
    """The adapters, in the order of the configuration. Raises ValueError. Nothing is connected to before the first call."""
    known = available()
    return [known[name](settings(name, table)) for name, table in tables.items()]


def verbs(made: list[Adapter]) -> dict[str, Verb]:
    """Every verb that a rule may name: as the adapters that are set up have it, else as any other does."""
    return {**offered(), **{verb.name: verb for adapter in made for verb in adapter.verbs}}
