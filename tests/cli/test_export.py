"""`oddlens export`: one file with the same verdicts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from command_line import error_of, run_json


def test_an_exported_file_gives_the_same_verdicts(part: Path, parts: Path, tmp_path: Path) -> None:
    exported = tmp_path / "part.onnx"
    assert run_json("export", part, "-o", exported)["largest_relative_difference"] <= 1e-4
    ours, theirs = (run_json("score", file, parts / "test")["verdicts"] for file in (part, exported))
    assert [row["verdict"] for row in ours] == [row["verdict"] for row in theirs]
    np.testing.assert_allclose(
        [row["anomaly_score"] for row in ours], [row["anomaly_score"] for row in theirs], rtol=1e-4
    )
    assert run_json("show", exported)["promise"] == run_json("show", part)["promise"]


def test_another_suffix_than_onnx_is_refused(part: Path, tmp_path: Path) -> None:
    assert "exported files end in .onnx" in error_of("export", part, "-o", tmp_path / "part.pt")
    assert list(tmp_path.iterdir()) == []
