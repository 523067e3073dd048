from __future__ import annotations

import importlib.util

import pytest
from running_service import settings
from stored_inspections import DETECTOR_FILE

from oddlens.errors import MissingExtraError
from oddlens.service import open as door


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "find_spec", lambda name: None if name == "uvicorn" else importlib.util.find_spec(name))
    with pytest.raises(MissingExtraError, match=r"oddlens\[serve\]"):
        door.serve(settings(DETECTOR_FILE), lambda url, service: None)
