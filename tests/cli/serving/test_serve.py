from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from command_line import invoke
from running_service import noise, running
from stored_inspections import DETECTOR_FILE

from oddlens.errors import OddlensError


def test_the_store_is_beside_the_detector_unless_another_is_named(tmp_path: Path) -> None:
    part = shutil.copy(DETECTOR_FILE, tmp_path / "part.onnx")
    with running(part, "--threads", 1, "--keep-days", 30) as service:
        assert service.store == str(tmp_path / "inspections.db")
        assert service.post("a.png", noise()).json()["inspections"][0]["detector"] == "part"


def test_what_cannot_be_served_is_refused_before_anything_starts(tmp_path: Path) -> None:
    for arguments, reason in (
        ((tmp_path / "missing.onnx",), "missing.onnx"),
        ((DETECTOR_FILE, "--store", tmp_path / "a.db", "--no-store"), "contradict"),
        ((DETECTOR_FILE, "--no-store", "--host", "0.0.0.0"), "--token-file"),
        ((DETECTOR_FILE, "--no-store", "--token-file", tmp_path / "missing"), "token"),
        ((DETECTOR_FILE, "--no-store", "--keep-days", 1), "--no-store"),
        ((DETECTOR_FILE, "--no-store", "--max-mb", "nan"), "--max-mb"),
    ):
        with pytest.raises(OddlensError, match=reason):
            invoke("serve", *arguments)
