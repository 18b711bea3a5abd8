"""Configurations to compare: what each changes, sweeps of one key, and the changed keys as TOML again."""

from __future__ import annotations

import json
import tomllib
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

import msgspec

from detector.config import Config, ConfigError, parse

#: Values of one sweep, and configurations in all: each is a whole pass over the trace.
MOST = 64
_BARE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")


class Variant(msgspec.Struct, kw_only=True):
    """One configuration. ``text``: TOML laid over the default. ``changes``: what it changes against the base, key -> value."""

    name: str
    text: str
    changes: dict[str, Any] = {}


def read_variant(name: str, path: Path | None) -> Variant:
    """A variant from a file, or the default configuration. Raises ConfigError, each mistake prefixed with the file."""
    if path is None:
        return Variant(name=name, text="")
    try:
        text = path.read_text(encoding="utf-8")
        parse(text)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise ConfigError([f"{path}: {reason}"]) from None
    except ConfigError as error:
        raise ConfigError([f"{path}: {mistake}" for mistake in error.mistakes]) from None
    return Variant(name=name, text=text)


def sweep(base: Variant, given: str) -> list[Variant]:
    """``key=v1,v2,…`` as one variant a value, each changing the base in that key alone. Raises ConfigError naming key and value.

    >>> [each.name for each in sweep(Variant(name="a", text=""), "budget.alerts_per_day=2,10")]
    ['budget.alerts_per_day=2', 'budget.alerts_per_day=10']
    """
    key, equals, values = (part.strip() for part in given.partition("="))
    if not equals or not key or not values:
        raise ConfigError([f"--sweep: expected key=v1,v2,…; got {given[:100]!r}"])
    wanted = _values(key, values)
    if len(wanted) > MOST:
        raise ConfigError([f"--sweep {key}: expected at most {MOST} values, got {len(wanted)}"])
    found = []
    for value in wanted:
        variant = changed(base, {key: value}, f"{key}={_plain(value)}")
        parse_named(variant)
        found.append(variant)
    return found


def unlike(variants: list[Variant]) -> list[Variant]:
    """The variants without those that repeat a sweep's value. Raises ConfigError where there are too many."""
    found = list({(each.name, each.text): each for each in variants}.values())
    if len(found) > MOST:
        raise ConfigError([f"expected at most {MOST} configurations in all, with A and B; got {len(found)}"])
    return found


def against(base: Variant, other: Variant) -> Variant:
    """The other, with what it changes against the base."""
    both = differences(parse_named(base), parse_named(other))
    return msgspec.structs.replace(other, changes={key: new for key, (_, new) in both.items()})


def _values(key: str, values: str) -> list[Any]:
    """The values as TOML; a bare word is a string."""
    try:
        return list(tomllib.loads(f"v = [{values}]")["v"])
    except tomllib.TOMLDecodeError:
        words = [word.strip() for word in values.split(",")]
        if not all(word and set(word) <= _BARE for word in words):
            raise ConfigError([f"--sweep {key}: expected values as TOML spells them, got {values[:100]!r}"]) from None
        return list(words)


def parse_named(variant: Variant) -> Config:
    """The configuration of a variant. Raises ConfigError, each mistake prefixed with its name."""
    try:
        return parse(variant.text)
    except ConfigError as error:
        raise ConfigError([f"{variant.name}: {mistake}" for mistake in error.mistakes]) from None


def changed(base: Variant, changes: dict[str, Any], name: str) -> Variant:
    """The base with some keys set. Raises ConfigError where a key leads through something that is no table."""
    tree = tomllib.loads(base.text)
    known = flat(parse(base.text))
    for key, value in changes.items():
        if key not in known:
            near = [each for each in known if each.rpartition(".")[2] == key.rpartition(".")[2]]
            hint = f"; did you mean {' or '.join(sorted(near)[:3])}" if near else ""
            raise ConfigError([f"{key}: no such key{hint}"])
        *path, last = key.split(".")
        table = tree
        for part in path:
            table = table.setdefault(part, {})
            if not isinstance(table, dict):
                raise ConfigError([f"{key}: {part} is no table"])
        table[last] = value
    return Variant(name=name, text=toml(tree), changes=dict(changes))


def flat(config: Config) -> dict[str, Any]:
    """Every key of a configuration in force with its value: ``signals.size.weight`` -> 0.5."""
    found: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                walk(f"{prefix}.{key}" if prefix else key, inner)
        else:
            found[prefix] = value

    walk("", msgspec.to_builtins(config))
    return found


def differences(a: Config, b: Config) -> dict[str, tuple[Any, Any]]:
    """What two configurations in force do not share: key -> (in a, in b), None where it is not set."""
    one, two = flat(a), flat(b)
    return {key: (one.get(key), two.get(key)) for key in sorted(one.keys() | two.keys()) if one.get(key) != two.get(key)}


def toml(tree: dict[str, Any]) -> str:
    """Plain data as TOML.

    >>> print(toml({"budget": {"alerts_per_day": 2}, "signals": {"size": {"weight": 0.3}}}), end="")
    [budget]
    alerts_per_day = 2
    <BLANKLINE>
    [signals.size]
    weight = 0.3
    """
    lines: list[str] = []

    def table(path: list[str], held: dict[str, Any]) -> None:
        plain = {key: value for key, value in held.items() if not isinstance(value, dict)}
        if path and (plain or not held):
            lines.extend(([""] if lines else []) + [f"[{'.'.join(map(_key, path))}]"])
        lines.extend(f"{_key(key)} = {_plain(value)}" for key, value in plain.items())
        for key, value in held.items():
            if isinstance(value, dict):
                table([*path, key], value)

    table([], tree)
    return "".join(f"{line}\n" for line in lines)


def _key(key: str) -> str:
    return key if key and set(key) <= _BARE else _text(key)


def _text(value: str) -> str:
    # JSON escapes all that TOML asks for but DEL.
    return json.dumps(value).replace("\x7f", "\\u007f")


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(key)} = {_plain(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_plain(each) for each in value) + "]"
    return repr(value)
