"""`oddlens feedback`: a proposal in a new file."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from command_line import oddlens

from oddlens.detector import feedback
from oddlens.detector.detector import Detector


def write_judged(folder: Path, rows: list[tuple[str, str]]) -> Path:
    path = folder / "judged.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("file", "judgement"), *rows])
    return path


def test_a_new_version_is_proposed_and_the_detector_stays_unchanged(
    digits_detector: Detector, digit_files: Path, tmp_path: Path
) -> None:
    path = digits_detector.save(tmp_path / "part.safetensors")
    count = digits_detector.manifest.data.n_calibration
    content = path.read_bytes()
    rows = [(f"{i:03}.png", "false alarm") for i in range(40)] + [(f"{i:03}.png", "missed") for i in range(40, 44)]
    done = oddlens("feedback", path, write_judged(digit_files, rows), "--json")
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    assert path.read_bytes() == content
    assert result["added"] == 40
    assert result["files"]["detector"] == str(tmp_path / "part-v2.safetensors")
    proposal = Detector.load(tmp_path / "part-v2.safetensors")
    assert proposal.manifest.data.n_calibration == count + 40
    assert "judged.csv" in proposal.manifest.data.calibration_source
    changes = {row["what"]: (row["before"], row["after"]) for row in result["changes"]}
    assert changes["calibration images"] == (count, count + 40)
    assert changes["threshold"] == (digits_detector.decision_.threshold, proposal.decision_.threshold)
    assert any("missed takes a false-alarm rate of" in note for note in result["notes"])
    images = feedback.read_judged(digit_files / "judged.csv")
    again = feedback.propose(Detector.load(tmp_path / "part-v2.safetensors"), images, "x")
    assert again.added == 0  # the same images count once
    assert feedback.next_version(path) == tmp_path / "part-v3.safetensors"
    refused = oddlens("feedback", path, digit_files / "judged.csv", "-o", path)
    assert refused.returncode == 1
    assert "never changes a detector" in refused.stderr
