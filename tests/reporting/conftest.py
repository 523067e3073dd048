"""A Chromium for the tests of pages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from report_pages import chromium


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """One browser for all tests; each page is in a context of its own."""
    with chromium() as running:
        yield running
