"""Chromium for tests that look at a page: found on the machine, never downloaded."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

#: What it is called, by distribution.
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def chromium() -> str:
    """Where Chromium is. Skips the test where there is none; in CI that is a failure."""
    found = os.environ.get("TOCSIN_TEST_CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        say = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        say("Chromium is not installed (apt-get install -y --no-install-recommends chromium)")
    return str(found)


@contextmanager
def launched() -> Iterator[Browser]:
    """A headless Chromium. As root it has no sandbox of its own."""
    path = chromium()
    with sync_playwright() as play:
        root = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = play.chromium.launch(executable_path=path, headless=True, args=root)
        try:
            yield browser
        finally:
            browser.close()


class Seen:
    """What a page asked for, what of it was loaded, and what it complained of."""

    def __init__(self, page: Page) -> None:
        self.requests: list[str] = []
        self.loaded: list[str] = []
        self.complaints: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("requestfinished", lambda request: self.loaded.append(request.url))
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))


def address(path: Path) -> str:
    """A file as a browser opens it."""
    return path.resolve().as_uri()
