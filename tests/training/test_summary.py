"""The summary of a fit: the scores of training images, the manifest, and the calibration of folds."""

from __future__ import annotations

import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from arrow_images import arrow_images
from simulated_machine import Machine, grey_images

from oddlens.config.base import DecisionSettings, TrainingSettings
from oddlens.config.detectors import AutoencoderSettings, DictionarySettings, EnsembleSettings, FamilySettings, Member
from oddlens.data.image_set import ImageSet
from oddlens.data.near_duplicates import fingerprints
from oddlens.data.splitting import SplitImages, split_training_images
from oddlens.data.training_images import load_training_images
from oddlens.inference.scoring import anomaly_scores
from oddlens.training import summary
from oddlens.training.resolve import FitPlan
from oddlens.training.strategies import train_model

PLAN = EnsembleSettings(members=(Member(model=DictionarySettings()),))


def fit_plan(settings: FamilySettings) -> FitPlan:
    values: dict[str, Any] = {
        "settings": settings, "training": TrainingSettings(epochs=1), "decision": DecisionSettings(), "size": None,
        "max_sides": None, "roi": None, "device": torch.device("cpu"), "deadline": float("inf"), "holds_out": True,
    }  # fmt: skip
    return FitPlan(**values)


@pytest.fixture(scope="module")
def split() -> SplitImages:
    images = replace(ImageSet.from_array(arrow_images(80)), source="arrows", normal="up")
    loaded = load_training_images(images, None, None, None)
    return split_training_images(loaded, DecisionSettings(), 0, hold_out=True, standardize=False)


@pytest.fixture(scope="module")
def result(split: SplitImages) -> summary.FitResult:
    plan = fit_plan(DictionarySettings(atoms=10))
    return summary.summarize(plan, split, train_model(plan, split, None, False, None), 0.0)


def test_training_images_are_not_compared_with_themselves(result: summary.FitResult, split: SplitImages) -> None:
    scores = result.statistics["training.scores"]
    with_themselves = np.sort(anomaly_scores(result.backend, [split.train]))
    assert scores.shape == with_themselves.shape == (len(split.train),)
    assert (np.diff(scores) >= 0).all()
    assert (scores > with_themselves).all()


def test_the_manifest_describes_the_fit(result: summary.FitResult, split: SplitImages) -> None:
    manifest = result.manifest
    assert manifest.model == DictionarySettings(atoms=10)
    assert manifest.input == split.spec
    data = manifest.data
    assert (data.source, data.normal, data.n_training, data.n_calibration) == ("arrows", "up", len(split.train), 0)
    assert len(manifest.golden) == 4
    assert set(manifest.versions) == {"python", "oddlens", "numpy", "pillow", "torch"}


def test_remarks_on_the_images_come_before_those_of_the_model(split: SplitImages) -> None:
    plan = fit_plan(DictionarySettings(atoms=10))
    result = replace(train_model(plan, split, None, False, None), remarks=("of the model",))
    manifest = summary.summarize(plan, replace(split, remarks=("of the images",)), result, 0.0).manifest
    assert manifest.remarks == ("of the images", "of the model")


def test_fingerprints_are_those_of_the_training_images(result: summary.FitResult, split: SplitImages) -> None:
    np.testing.assert_array_equal(result.statistics["training.fingerprints"], np.sort(fingerprints(split.train)))


def test_the_data_fingerprint_does_not_depend_on_the_order_of_the_images(
    result: summary.FitResult, split: SplitImages
) -> None:
    plan = fit_plan(AutoencoderSettings(widths=(4,), latent_dim=4))
    prints = []
    for pixels in (split.train, split.train[::-1].copy()):
        part = replace(split, train=pixels)
        prints.append(summary.summarize(plan, part, train_model(plan, part, None, False, None), 0.0).manifest.data)
    assert prints[0].fingerprint == prints[1].fingerprint == result.manifest.data.fingerprint


@pytest.mark.parametrize(
    ("settings", "count", "scored"), [(DictionarySettings(), 1200, 1200), (PLAN, 1200, 400), (PLAN, 500, 500)]
)
def test_an_ensemble_scores_some_training_images_and_a_single_detector_all(
    settings: FamilySettings, count: int, scored: int
) -> None:
    rows = fit_plan(settings).scored_images(np.arange(count, dtype=np.uint16).reshape(-1, 1, 1, 1)).ravel()
    assert len(rows) == scored
    assert rows[0] == 0
    assert len(set(np.diff(rows))) == 1  # evenly spaced


@pytest.mark.parametrize(("seconds", "count"), [(-5.0, 100), (1000.0, 100), (9400.0, 250), (30_000.0, 500)])
def test_fewer_training_images_are_scored_where_calibration_leaves_too_little_time(
    seconds: float, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here scoring an image takes 16 s, and 50 images calibrate; at least some training images are always scored."""
    machine = Machine()
    monkeypatch.setattr(time, "perf_counter", lambda: machine.now)
    pixels = grey_images(500)
    plan = replace(fit_plan(DictionarySettings()), deadline=seconds)
    split: Any = SimpleNamespace(train=pixels, calibration=SimpleNamespace(pixels=pixels[:50]))
    scoring: Any = lambda batch: machine.work(16.0 * len(batch))  # noqa: E731
    assert len(summary.affordable_images(scoring, plan, split)) == count
    percentile = replace(plan, decision=DecisionSettings(method="train_percentile"))
    without_limit = replace(plan, deadline=float("inf"))
    assert all(len(summary.affordable_images(scoring, p, split)) == 500 for p in (percentile, without_limit))


def test_out_of_fold_scores_are_ranks() -> None:
    prints = np.array([3, 1, 2], dtype=np.uint64)
    statistics = summary.out_of_fold_statistics(prints, np.array([0.5]))
    assert statistics["calibration.scores"].tolist() == [-3, -2, -1]
    assert statistics["calibration.fingerprints"].tolist() == [1, 2, 3]
    assert statistics["calibration.map_peaks"].tolist() == [0.5]
    assert statistics["training.scores"].size == statistics["calibration.groups"].size == 0


def test_a_history_is_summarized_by_its_first_and_last_loss() -> None:
    rows = [{"epoch": float(i), "loss": 1 / i, "progress": i / 4, "seconds": 0.25} for i in (1, 2, 4)]
    assert summary.summarize_history(rows) == {"epochs": 3, "first_loss": 1, "last_loss": 0.25, "seconds": 0.75}
    assert summary.summarize_history([]) == {}
