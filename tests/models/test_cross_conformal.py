"""Cross-conformal: no image is kept from training, and the promise is the one that is proved."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from oddlens.config.base import DecisionSettings, InputSpec, TrainingSettings
from oddlens.config.detectors import AutoencoderSettings, CrossfitSettings
from oddlens.conformal.decision import Decision
from oddlens.conformal.ranks import min_calibration_size, min_false_alarm_rate, threshold_rank
from oddlens.data.image_io import Pixels
from oddlens.data.image_set import DataSet
from oddlens.detector.detector import Detector
from oddlens.errors import CalibrationError, DataError, SettingsError, StateError
from oddlens.models.base import ModelOutput
from oddlens.models.cross_conformal import CrossConformal

SPEC = InputSpec(height=8, width=8, channels=1)


def oddlens(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "oddlens", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ, timeout=300)


@pytest.mark.parametrize("folds", [2, 5, 10])
@pytest.mark.parametrize("n", [60, 397, 761, 995, 2000])
def test_the_promise_is_the_proved_bound(n: int, folds: int) -> None:
    best = min_false_alarm_rate(n, folds=folds)
    assert Fraction(2 * folds, n + folds) <= Fraction(best) + Fraction(1, 10**12)
    assert threshold_rank(n, best, None, folds) == n  # none may be as odd
    for rate in (0.05, 0.1, 0.2, 0.3):
        asked = Fraction(str(rate))
        if asked < Fraction(2 * folds, n + folds):
            with pytest.raises(CalibrationError, match=f"{n} normal images in {folds} folds can promise"):
                threshold_rank(n, rate, None, folds)
            continue
        as_odd = n - threshold_rank(n, rate, None, folds)  # images that may be at least as odd as one that is flagged
        assert Fraction(2 * (folds + as_odd), n + folds) <= asked < Fraction(2 * (folds + as_odd + 1), n + folds)
        share = Fraction(as_odd + 1, n + 1)  # the same bound as it is published, for folds of equal size
        published = 2 * share + 2 * (1 - share) * (1 - Fraction(1, folds)) / (Fraction(n, folds) + 1)
        assert published == Fraction(2 * (folds + as_odd), n + folds)
    needed = min_calibration_size(0.01, folds=folds)
    assert threshold_rank(needed, 0.01, None, folds) == needed
    with pytest.raises(CalibrationError):
        threshold_rank(needed - 1, 0.01, None, folds)


class Given(torch.nn.Module):
    """Stands for a member: scores are what the pictures' first pixels say."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, batch: torch.Tensor) -> ModelOutput:
        return ModelOutput(batch[:, 0, 0, 0] * self.slope, None, None)


def ranked(held_out: list[np.ndarray]) -> CrossConformal:
    model = CrossConformal(CrossfitSettings(model=AutoencoderSettings(widths=(4,)), folds=len(held_out)), SPEC)
    model.rank_among(held_out, [np.empty(0)] * len(held_out))
    for number in range(len(held_out)):
        model.members[number] = Given(1.0 + number)
    model.__class__.parts = property(lambda self: list(self.members))  # type: ignore[assignment,method-assign]
    return model


def scored(model: CrossConformal, values: np.ndarray) -> np.ndarray:
    batch = torch.zeros(len(values), 1, 8, 8)
    batch[:, 0, 0, 0] = torch.from_numpy(values).float()
    found: np.ndarray = model(batch).anomaly_score.double().numpy()
    return found


def test_the_score_never_tells_fewer_images_than_are_as_odd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CrossConformal, "parts", CrossConformal.parts)
    rng = np.random.default_rng(0)
    held_out = [np.float32(rng.normal(5, 1, size)).astype(float) * (1 + k) for k, size in enumerate((40, 41, 60))]
    held_out[1][:5] = held_out[1][5]  # ties
    values = np.float32(np.concatenate([rng.normal(5, 2, 300), held_out[0], [8.0, 20.0, 500.0]])).astype(float)
    as_odd = np.zeros(len(values), dtype=int)
    for k, fold in enumerate(held_out):
        as_odd += (fold.astype(np.float32)[None] >= (values[:, None] * (1 + k)).astype(np.float32)).sum(axis=1)
    scores = scored(ranked(held_out), values)
    assert (-scores >= as_odd).all()
    assert (-scores - as_odd).max() < 0.1 * 141  # and hardly more
    assert (np.floor(-scores)[as_odd == 141] == 141).all()  # not one too many before all of them
    assert (np.diff(scores[np.argsort(values)]) >= 0).all()
    assert -0.5 < scores[-3] < scores[-2] < scores[-1] < 0  # beyond all of them the order is kept


def test_the_realised_rate_keeps_the_bound() -> None:
    rng, folds, n, rate = np.random.default_rng(1), 5, 150, 0.1
    rank, flagged = threshold_rank(n, rate, None, folds), []
    for _ in range(300):
        known, new = rng.normal(size=(n, 3)), rng.normal(size=(200, 3))
        part = np.arange(n) % folds
        as_odd = np.zeros(200, dtype=int)
        for fold in range(folds):
            centre = known[part != fold].mean(axis=0)  # a detector that learns where the others lie
            own, theirs = (np.square(points - centre).sum(axis=1) for points in (known[part == fold], new))
            as_odd += (own[None] >= theirs[:, None]).sum(axis=1)
        flagged.append(float((as_odd <= n - rank).mean()))
    assert np.mean(flagged) <= rate
    usual = (n - rank + 1) / (n + 1)  # what such ranks give where models hardly differ; the proof allows twice that
    assert usual / 2 < np.mean(flagged) < 1.3 * usual
    assert usual < rate / 2


@pytest.fixture(scope="module")
def crossed(digit_pixels: Pixels) -> Detector:
    settings = CrossfitSettings(model=AutoencoderSettings(widths=(8,), latent_dim=8, loss="bce"), folds=4)
    return Detector(settings, training=TrainingSettings(epochs=2)).fit(digit_pixels[:600])


def test_all_images_are_learned_and_all_are_ranked_among(crossed: Detector, digits: DataSet, tmp_path: Path) -> None:
    data = crossed.manifest.data
    assert (data.n_training, data.n_calibration, data.folds) == (600, 600, 4)
    decision = crossed.decision_
    assert decision.false_alarm_rate == pytest.approx(8 / 604)
    assert decision.threshold == -1.0
    assert "600 normal images in 4 folds (a bound that is seldom reached: cross-conformal)" in decision.promise()
    assert decision.guarantee()["realised_range"] is None
    assert decision.percentile_threshold is None
    fresh = crossed.predict(digits.test)
    as_odd = np.floor(-fresh.anomaly_score)  # at most so many of the 600 are at least as odd
    np.testing.assert_allclose(fresh.p_value, np.minimum(1, 2 * (4 + as_odd) / 604))
    assert np.array_equal(fresh.label, as_odd == 0)
    assert fresh.label.mean() < 0.05
    odd = crossed.predict(255 - digits.test.load(crossed.spec))
    assert odd.label.mean() > 0.95
    assert len(np.unique(odd.anomaly_score)) > 0.9 * len(odd)
    again = Detector.load(crossed.save(tmp_path / "part.safetensors"))
    assert again.decision_.folds == 4
    assert np.array_equal(again.predict(digits.test).p_value, fresh.p_value)


def test_what_folds_cannot_do_is_said(crossed: Detector, digits: DataSet, tmp_path: Path) -> None:
    path = crossed.save(tmp_path / "part.safetensors")
    scores = crossed.score(digits.test)
    with pytest.raises(SettingsError, match="calibrated in folds"):
        crossed.predict_from_scores(digits.test.names, scores, fdr=0.05)
    with pytest.raises(StateError, match="calibration in folds takes no further images"):
        Detector.load(path).calibrate(digits.test, add=True)
    anew = Detector.load(path).calibrate(digits.test)
    assert anew.manifest.data.folds == anew.decision_.folds == 1
    assert np.array_equal(anew.score(digits.test), scores)
    assert np.array_equal(np.sort(scores), anew.decision_.calibration_scores)
    image = tmp_path / "one.png"
    Image.new("L", (8, 8)).save(image)
    drift = oddlens("score", path, image, "--watch-drift", tmp_path / "state.json")
    assert drift.returncode == 1
    assert "calibrated in folds" in drift.stderr
    percentile = DecisionSettings(method="train_percentile")
    for decision in (DecisionSettings(confidence=0.9), DecisionSettings(false_alarm_rate=0.01), percentile):
        with pytest.raises((SettingsError, CalibrationError), match="folds"):
            Detector(crossed.model, decision=decision).fit(digits.train.subset(np.arange(200)))
    for decision in (DecisionSettings(confidence=0.9, false_alarm_rate=0.05), percentile):
        with pytest.raises(SettingsError, match="folds"):
            Detector.load(path).set_decision(decision)
    with pytest.raises(DataError, match="4 images in 4 folds can promise nothing"):
        Detector(crossed.model).fit(digits.train.subset(np.arange(4)))


def test_folds_go_through_the_command_line(digit_pixels: Pixels, tmp_path: Path) -> None:
    for i, pixels in enumerate(digit_pixels[:210]):
        Image.fromarray(pixels[..., 0]).save(tmp_path / f"{i}.png")
    fit = ("fit", tmp_path, "-o", tmp_path / "part.safetensors", "--detector", "dictionary", "--folds", 5)
    done = oddlens(*fit, "--false-alarm-rate", 0.05, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["family"], result["n_training"], result["n_calibration"]) == ("crossfit", 210, 210)
    assert result["guarantee"]["false_alarm_rate"] == 0.05
    refused = oddlens(*fit, "--false-alarm-rate", 0.01)
    assert refused.returncode == 1
    assert "210 normal images in 5 folds can promise 4.7% at best, and 1% needs 995" in refused.stderr
    alone = oddlens("fit", tmp_path, "-o", tmp_path / "a.safetensors", "--folds", 5)
    assert alone.returncode == 1
    assert "--folds needs a single detector" in alone.stderr


def test_decisions_in_folds_round_no_rate() -> None:
    scores = -np.arange(760, 0, -1, dtype=float) - 1
    made = Decision(DecisionSettings(false_alarm_rate=0.03), scores, np.empty(0), folds=5)
    assert made.threshold == scores[-7]  # c = 6: 2 * 11 / 765 <= 3% < 2 * 12 / 765
