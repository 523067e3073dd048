"""`oddlens compare`: a leaderboard, printed and drawn."""

from __future__ import annotations

from pathlib import Path

from command_line import error_of, run_json
from PIL import Image


def read_image(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.copy()


def test_a_leaderboard_is_printed_and_drawn(parts: Path, tmp_path: Path) -> None:
    board = tmp_path / "board.png"
    report = tmp_path / "board.html"
    options = ("--budget", "60s", "-o", board, "--report", report, "--threads", 1)
    result = run_json("compare", parts, "--detectors", "autoencoder", *options)
    assert {row["detector"] for row in result["leaderboard"]} == {
        "autoencoder", "thumbnails-8", "thumbnails-32", "thumbnails-8-normalised", "thumbnails-32-normalised",
    }  # fmt: skip
    assert result["budget"] == 60
    assert all(row["aupro"] is None for row in result["leaderboard"] if row["baseline"])
    assert result["files"] == {"figure": str(board), "report": str(report)}
    assert "thumbnails-8 (baseline)" in report.read_text()
    assert read_image(board).size[0] == 1800


def test_wrong_detectors_and_files_are_refused_before_training(parts: Path, tmp_path: Path) -> None:
    assert "'nothing' is not a detector" in error_of("compare", parts, "--detectors", "autoencoder,nothing")
    assert "end in .png" in error_of("compare", parts, "--detectors", "autoencoder", "-o", tmp_path / "board.jpg")
    assert list(tmp_path.iterdir()) == []
