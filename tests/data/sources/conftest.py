"""A mirror from which the tests of data sets download."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from file_server import serve


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the URL at which it is served."""
    folder = tmp_path / "served"
    folder.mkdir()
    with serve(folder) as url:
        yield folder, url
