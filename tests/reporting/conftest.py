"""A Chromium for the tests of pages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from report_pages import chromium


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One browser for the tests of a module: while it runs, no other test of this process can use asyncio."""
    with chromium() as running:
        yield running
