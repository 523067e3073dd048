"""Tests of the benchmark of the lot test."""

from __future__ import annotations

import argparse
from pathlib import Path

import lot_test
import numpy as np
import pytest
from lot_test import Result

from oddlens.data.image_set import DataSet
from oddlens.detector.detector import Detector


def test_brightness_is_a_factor_within_the_value_range() -> None:
    pixels = np.array([0, 100, 250], dtype=np.uint8).reshape(1, 1, 3, 1)
    assert lot_test.brightened(pixels, 1.15, 255).ravel().tolist() == [0, 115, 255]
    assert np.array_equal(lot_test.brightened(pixels, 1.0, 255), pixels)


def test_lots_of_changed_images_are_reported(digits_detector: Detector, digits: DataSet) -> None:
    pixels = digits.test.load(digits_detector.spec)[: lot_test.TESTED]
    for images, shifted in ((pixels, False), (255 - pixels, True)):
        results = lot_test.lots(digits_detector, images, 1.0, 0)
        assert len(results) == lot_test.LOTS
        assert {result.shifted for result in results} == {shifted}
        assert {result.rate for result in results} == {0.01}
        assert all((result.alarms > 0.9) == shifted for result in results)


def test_only_lots_beyond_the_excess_count_as_having_lost_their_guarantee() -> None:
    results = [
        Result(1.0, 0.0, 0.01, False),
        Result(1.0, 0.05, 0.01, True),
        Result(1.0, 0.06, 0.01, False),
        Result(0.93, 0.5, 0.01, True),
    ]
    assert lot_test.beyond(results) == results[2:]
    rows = lot_test.table("set", results)
    assert rows[0] == ["set, x1", "3", "1.0%", "3.7%", "33.3%", "0 of 1"]
    assert rows[1][1] == "0"
    assert rows[-1] == ["**set, changed and beyond 5 x the promise**", "1", "1.0%", "50.0%", "100.0%", "1 of 1"]


def test_results_are_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def results_of_fit(source: str, detector: Detector, seed: int) -> list[Result]:
        calls.append((source, detector.model, detector.budget, seed))
        return [Result(1.0, 0.0, 0.01, False)]

    monkeypatch.setattr(lot_test, "results_of_fit", results_of_fit)
    options = argparse.Namespace(fits=2, detector="auto", budget="1m", data=Path("data"), cache=tmp_path)
    first = lot_test.cached_results("bottle", options)
    assert first == lot_test.cached_results("bottle", options) == [Result(1.0, 0.0, 0.01, False)] * 2
    assert calls == [("data/bottle", "auto", 60.0, seed) for seed in range(2)]
