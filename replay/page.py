"""A report as one HTML file: everything inlined, every text escaped, and a policy under which the page can load nothing."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from typing import Any

import jinja2
import msgspec
from markupsafe import Markup
from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]

from replay.plots import Figure

#: What ends a script for an HTML parser, wherever it stands.
_END = "</script"


def render(values: dict[str, Any], figures: list[Figure]) -> str:
    """The page. ``values``: what the template names, all plain text, lists and figures."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    library, script = _script(get_plotlyjs()), _script(_file("report.js"))
    template = environment.from_string(_file("report.html"))
    return template.render(
        **values,
        policy=_policy(library, script),
        style=Markup(_file("report.css")),  # noqa: S704  our own file
        plots=_data({figure.id: figure.plot for figure in figures}),
        library=library,
        script=script,
    )


def _file(name: str) -> str:
    return resources.files("replay").joinpath("templates", name).read_text(encoding="utf-8")


def _script(text: str) -> Markup:
    """A script as it may stand in a page. Raises ValueError where it holds what would end it."""
    # A browser reads line ends this way, and the policy's hash is of what it reads.
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if _END in text.lower():
        raise ValueError(f"a script that holds {_END!r} cannot be inlined")
    return Markup(text)  # noqa: S704  our own file, or the plotting library's


def _data(value: Any) -> Markup:
    """Plain data as JSON in which no character means anything to HTML."""
    text = msgspec.json.encode(value).decode()
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # noqa: S704  escaped right above


def _policy(*scripts: str) -> str:
    """Nothing is loaded from anywhere; only these scripts run. The plotting library sets styles of its own and makes images of
    plots."""
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(each.encode()).digest()).decode()}'" for each in scripts)
    rest = ("style-src 'unsafe-inline'", "img-src data: blob:", "base-uri 'none'", "form-action 'none'")
    return "; ".join(("default-src 'none'", f"script-src {hashes}", *rest))
