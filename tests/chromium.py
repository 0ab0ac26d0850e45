"""Chromium, driven by Playwright: Debian's, which `make browser` installs, or what there is."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NOT_THERE = "Chromium is not installed; `make browser` brings it, as root"


@contextmanager
def browsing() -> Iterator[Browser]:
    """Start it. Where it is not, the test is skipped, and fails in CI: a laptop may do without."""
    if CHROMIUM is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(NOT_THERE)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])  # root has none
        yield browser
        browser.close()
