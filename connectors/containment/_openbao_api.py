"""OpenBao's API as the adapter uses it: one token, and what stands in the data of an answer."""

from __future__ import annotations

from typing import Any, TypeVar
from urllib.parse import quote

import msgspec

from connectors.containment._doing import error_body, shaped
from connectors.containment._http import Http, Reply, Secret

#: How OpenBao begins where nothing is mounted at the path.
_NO_MOUNT = ("no handler for route", "route entry not found", "unsupported path")

T = TypeVar("T")


class Api:
    """One server, spoken to with one token. Every method raises CallFailed."""

    def __init__(self, http: Http, token: Secret, namespace: str) -> None:
        self._http = http
        self._token = token
        self._namespace = {"X-Vault-Namespace": namespace} if namespace else {}

    def call(self, method: str, path: str, *, json: Any = msgspec.UNSET, expect: tuple[int, ...] = ()) -> Reply:
        """One call below ``/v1/``. A bad token, a missing one and a missing right are all 403."""
        headers = {"X-Vault-Token": self._token.read(), **self._namespace}
        return self._http.call(method, f"/v1/{path}", headers=headers, json=json, expect=expect, gone=_is_gone)

    def read(self, path: str, form: type[T]) -> T | None:
        """What is at a path, None where nothing is."""
        reply = self.call("GET", path, expect=(404,))
        return None if reply.status == 404 else data(reply, form)


def _is_gone(reply: Reply) -> bool:
    """Whether a 404 is OpenBao's word on the thing asked for: not on a mount that is not there (it may have been moved)."""
    errors = error_body(reply).get("errors")
    return isinstance(errors, list) and all(isinstance(one, str) and not one.startswith(_NO_MOUNT) for one in errors)


def data(reply: Reply, form: type[T]) -> T:
    """The ``data`` of an answer. Raises CallFailed where it is not what it should be."""
    found = reply.json()
    return shaped(found.get("data") if isinstance(found, dict) else None, form)


def place_of(path: str) -> str:
    """A path with its parts quoted, without a slash at either end, which OpenBao refuses."""
    return quote(path.strip("/"), safe="/")
