"""A headless Chromium for the tests of pages: `from browser import browser` is a pytest fixture.

It skips where playwright (`pip install playwright`) or Chromium (Debian's package `chromium`) is missing.
"""

import shutil
from collections.abc import Iterator

import pytest

ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--no-first-run"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator:
    """A `playwright.sync_api.Browser`, from the system's Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no chromium on the path")
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield launched
        launched.close()
