"""The door: it names the extra that is missing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from oddlens.errors import MissingExtraError
from oddlens.store.open import open_store


def test_a_missing_package_is_an_error_that_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("oddlens.store.", "sqlalchemy"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'oddlens\[serve\]'"):
        open_store(str(tmp_path / "parts.db"))


def test_a_store_is_opened_made_and_closed(tmp_path: Path) -> None:
    with open_store(str(tmp_path / "parts.db")) as store:
        assert store.counts()["n"] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["parts.db", "parts.db.files"]
