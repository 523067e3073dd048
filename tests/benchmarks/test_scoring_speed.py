"""Tests of the scoring benchmark."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import scoring_speed

from oddlens.data.image_set import ImageSet
from oddlens.errors import OddlensError


def test_a_fifth_of_the_images_is_held_out_for_calibration() -> None:
    images = ImageSet.from_array(np.zeros((11, 8, 8, 1), dtype=np.uint8))
    assert scoring_speed.calibration_images("tile", images).names == tuple(images.names[i] for i in (0, 5, 10))


def test_spread_shows_median_and_range() -> None:
    assert scoring_speed.spread([2.0, 1.0, 4.0]) == "**2.00** (1.00 to 4.00)"


def test_json_of_a_command_comes_with_its_seconds(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import json, os; print(json.dumps({'threads': os.environ['OMP_NUM_THREADS']}))")
    result = scoring_speed.run_json([sys.executable, script], threads=3)
    assert result["threads"] == "3"
    assert result["wall"] > 0


def test_a_failed_command_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "script.py"
    script.write_text("import sys; sys.exit('no such file')")
    with pytest.raises(OddlensError, match=r"script\.py failed with exit code 1"):
        scoring_speed.run_json([sys.executable, script], threads=1)
    assert "no such file" in capsys.readouterr().err
