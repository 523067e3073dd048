"""Tests of what the peers' scripts share."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmark_cells import BENCHMARKS
from dataset_files import write_idx_files

from oddlens import metrics


@pytest.fixture(scope="module")
def raw() -> dict[str, Any]:
    """The names of the module, which is not importable by itself."""
    return runpy.run_path(str(BENCHMARKS / "peers/raw.py"))


def test_auroc_agrees_with_oddlens_with_ties(raw: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    scores, anomalous = rng.integers(0, 10, 200).astype(float), rng.random(200) < 0.3
    assert raw["auroc"](scores, anomalous) == pytest.approx(metrics.auroc(anomalous.astype(int), scores))


@pytest.mark.parametrize("gzipped", [False, True])
def test_training_digits_are_read_from_idx_files(raw: dict[str, Any], gzipped: bool, tmp_path: Path) -> None:
    expected = write_idx_files(tmp_path / "MNIST/raw", gzipped)[0]
    assert np.array_equal(raw["mnist"](tmp_path), np.squeeze(expected))
