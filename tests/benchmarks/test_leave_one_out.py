"""Tests of the benchmark of leave-one-out calibration."""

from __future__ import annotations

from pathlib import Path

import leave_one_out
import numpy as np
import pytest
from pretrained_extra import needs_pretrained


@needs_pretrained
def test_a_repeat_guarantees_one_percent_from_99_images() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (110, 16, 16, 1), dtype=np.uint8)
    flagged, rate = leave_one_out.repeat(pixels, 0)
    assert rate == pytest.approx(0.01)
    assert 0 <= flagged <= 1


def test_an_interrupted_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    numbers: list[int] = []

    def repeat(pixels: object, number: int) -> tuple[float, float]:
        if number == 15 and len(numbers) == 15:
            raise KeyboardInterrupt
        numbers.append(number)
        return 0.01 * (number % 2), 0.01

    monkeypatch.setattr(leave_one_out, "repeat", repeat)
    monkeypatch.setattr(leave_one_out, "normal_images", lambda source, data: source)
    words = ["--set", "pill", "--repeats", "20", "--cache", str(tmp_path)]
    with pytest.raises(KeyboardInterrupt):
        leave_one_out.main(words)
    assert leave_one_out.main(words) == 0
    assert numbers == [*range(15), *range(10, 20)]
    assert "| pill | 1.0% | 0.50%" in capsys.readouterr().out
