"""Cross-conformal detectors: all images are used for training, and the guarantee is the proved bound."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import oddlens
from PIL import Image

from oddlens.config.base import DecisionSettings, InputSpec, TrainingSettings
from oddlens.config.detectors import AutoencoderSettings, CrossfitSettings
from oddlens.conformal.decision import Decision
from oddlens.conformal.ranks import min_calibration_size, min_false_alarm_rate, threshold_rank
from oddlens.conformal.schemes import in_folds
from oddlens.data.image_io import Pixels
from oddlens.data.image_set import DataSet
from oddlens.detector.detector import Detector
from oddlens.errors import CalibrationError, DataError, SettingsError, StateError
from oddlens.models.base import ModelOutput
from oddlens.models.cross_conformal import CrossConformal

SPEC = InputSpec(height=8, width=8, channels=1)


@pytest.mark.parametrize("folds", [2, 5, 10])
@pytest.mark.parametrize("n", [60, 397, 761, 995, 2000])
def test_the_guarantee_is_the_proved_bound(n: int, folds: int) -> None:
    best = min_false_alarm_rate(n, scheme=in_folds(folds))
    assert Fraction(2 * folds, n + folds) <= Fraction(best) + Fraction(1, 10**12)
    assert threshold_rank(n, best, None, in_folds(folds)) == n  # none may score as high
    for rate in (0.05, 0.1, 0.2, 0.3):
        requested = Fraction(str(rate))
        if requested < Fraction(2 * folds, n + folds):
            with pytest.raises(CalibrationError, match=f"{n} normal images in {folds} folds can guarantee"):
                threshold_rank(n, rate, None, in_folds(folds))
            continue
        n_above = n - threshold_rank(
            n, rate, None, in_folds(folds)
        )  # images that may score at least as high as a flagged one
        assert Fraction(2 * (folds + n_above), n + folds) <= requested < Fraction(2 * (folds + n_above + 1), n + folds)
        share = Fraction(n_above + 1, n + 1)  # the same bound as it is published, for folds of equal size
        published = 2 * share + 2 * (1 - share) * (1 - Fraction(1, folds)) / (Fraction(n, folds) + 1)
        assert published == Fraction(2 * (folds + n_above), n + folds)
    needed = min_calibration_size(0.01, scheme=in_folds(folds))
    assert threshold_rank(needed, 0.01, None, in_folds(folds)) == needed
    with pytest.raises(CalibrationError):
        threshold_rank(needed - 1, 0.01, None, in_folds(folds))


class LinearMember(torch.nn.Module):
    """Stand-in for a member: scores are proportional to the first pixel."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, batch: torch.Tensor) -> ModelOutput:
        return ModelOutput(batch[:, 0, 0, 0] * self.slope, None, None)


def with_held_out(held_out: list[np.ndarray]) -> CrossConformal:
    model = CrossConformal(CrossfitSettings(model=AutoencoderSettings(widths=(4,)), folds=len(held_out)), SPEC)
    model.set_held_out_scores(held_out, [np.empty(0)] * len(held_out))
    for number in range(len(held_out)):
        model.members[number] = LinearMember(1.0 + number)
    model.__class__.parts = property(lambda self: list(self.members))  # type: ignore[assignment,method-assign]
    return model


def model_scores(model: CrossConformal, values: np.ndarray) -> np.ndarray:
    batch = torch.zeros(len(values), 1, 8, 8)
    batch[:, 0, 0, 0] = torch.from_numpy(values).float()
    anomaly_scores: np.ndarray = model(batch).anomaly_score.double().numpy()
    return anomaly_scores


def test_the_score_never_undercounts_images_that_score_higher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CrossConformal, "parts", CrossConformal.parts)
    rng = np.random.default_rng(0)
    held_out = [np.float32(rng.normal(5, 1, size)).astype(float) * (1 + k) for k, size in enumerate((40, 41, 60))]
    held_out[1][:5] = held_out[1][5]  # ties
    values = np.float32(np.concatenate([rng.normal(5, 2, 300), held_out[0], [8.0, 20.0, 500.0]])).astype(float)
    n_above = np.zeros(len(values), dtype=int)
    for k, fold in enumerate(held_out):
        n_above += (fold.astype(np.float32)[None] >= (values[:, None] * (1 + k)).astype(np.float32)).sum(axis=1)
    scores = model_scores(with_held_out(held_out), values)
    assert (-scores >= n_above).all()
    assert (-scores - n_above).max() < 0.1 * 141  # and hardly more
    assert (np.floor(-scores)[n_above == 141] == 141).all()  # not one too many below all of them
    assert (np.diff(scores[np.argsort(values)]) >= 0).all()
    assert -0.5 < scores[-3] < scores[-2] < scores[-1] < 0  # the order is kept above all of them


def test_the_realized_rate_stays_within_the_bound() -> None:
    rng, folds, n, rate = np.random.default_rng(1), 5, 150, 0.1
    rank, flagged = threshold_rank(n, rate, None, in_folds(folds)), []
    for _ in range(300):
        calibration, new = rng.normal(size=(n, 3)), rng.normal(size=(200, 3))
        part = np.arange(n) % folds
        n_above = np.zeros(200, dtype=int)
        for fold in range(folds):
            centre = calibration[part != fold].mean(axis=0)  # a detector that learns the mean of the other folds
            fold_distances, new_distances = (
                np.square(points - centre).sum(axis=1) for points in (calibration[part == fold], new)
            )
            n_above += (fold_distances[None] >= new_distances[:, None]).sum(axis=1)
        flagged.append(float((n_above <= n - rank).mean()))
    assert np.mean(flagged) <= rate
    without_factor_two = (n - rank + 1) / (n + 1)  # the rate if models hardly differ; the proof allows twice that
    assert without_factor_two / 2 < np.mean(flagged) < 1.3 * without_factor_two
    assert without_factor_two < rate / 2


@pytest.fixture(scope="module")
def crossfit(digit_pixels: Pixels) -> Detector:
    settings = CrossfitSettings(model=AutoencoderSettings(widths=(8,), latent_dim=8, loss="bce"), folds=4)
    return Detector(settings, training=TrainingSettings(epochs=2)).fit(digit_pixels[:600])


def test_all_images_are_used_for_training_and_calibration(crossfit: Detector, digits: DataSet, tmp_path: Path) -> None:
    data = crossfit.manifest.data
    assert (data.n_training, data.n_calibration, data.folds) == (600, 600, 4)
    decision = crossfit.decision_
    assert decision.false_alarm_rate == pytest.approx(8 / 604)
    assert decision.threshold == -1.0
    assert "600 normal images in 4 folds (a conservative cross-conformal bound, seldom reached)" in decision.promise()
    assert decision.guarantee()["realised_range"] is None
    assert decision.percentile_threshold is None
    fresh = crossfit.predict(digits.test)
    n_above = np.floor(-fresh.anomaly_score)  # at most this number of the 600 score at least as high
    np.testing.assert_allclose(fresh.p_value, np.minimum(1, 2 * (4 + n_above) / 604))
    assert np.array_equal(fresh.label, n_above == 0)
    assert fresh.label.mean() < 0.05
    inverted = crossfit.predict(255 - digits.test.load(crossfit.spec))
    assert inverted.label.mean() > 0.95
    assert len(np.unique(inverted.anomaly_score)) > 0.9 * len(inverted)
    again = Detector.load(crossfit.save(tmp_path / "part.safetensors"))
    assert again.decision_.scheme == in_folds(4)
    assert np.array_equal(again.predict(digits.test).p_value, fresh.p_value)


def test_unsupported_uses_of_folds_are_refused(crossfit: Detector, digits: DataSet, tmp_path: Path) -> None:
    path = crossfit.save(tmp_path / "part.safetensors")
    scores = crossfit.score(digits.test)
    with pytest.raises(SettingsError, match="calibrated in folds"):
        crossfit.predict_from_scores(digits.test.names, scores, fdr=0.05)
    with pytest.raises(StateError, match="calibration in folds takes no further images"):
        Detector.load(path).calibrate(digits.test, add=True)
    recalibrated = Detector.load(path).calibrate(digits.test)
    assert recalibrated.manifest.data.folds == 1
    assert recalibrated.decision_.scheme.is_held_out
    assert np.array_equal(recalibrated.score(digits.test), scores)
    assert np.array_equal(np.sort(scores), recalibrated.decision_.calibration_scores)
    image = tmp_path / "one.png"
    Image.new("L", (8, 8)).save(image)
    drift = oddlens("score", path, image, "--watch-drift", tmp_path / "state.json")
    assert drift.returncode == 1
    assert "calibrated in folds" in drift.stderr
    percentile = DecisionSettings(method="train_percentile")
    for decision in (DecisionSettings(confidence=0.9), DecisionSettings(false_alarm_rate=0.01), percentile):
        with pytest.raises((SettingsError, CalibrationError), match="folds"):
            Detector(crossfit.model, decision=decision).fit(digits.train.subset(np.arange(200)))
    for decision in (DecisionSettings(confidence=0.9, false_alarm_rate=0.05), percentile):
        with pytest.raises(SettingsError, match="folds"):
            Detector.load(path).set_decision(decision)
    with pytest.raises(DataError, match="4 images in 4 folds can guarantee nothing"):
        Detector(crossfit.model).fit(digits.train.subset(np.arange(4)))


def test_folds_are_available_on_the_command_line(digit_pixels: Pixels, tmp_path: Path) -> None:
    for i, pixels in enumerate(digit_pixels[:210]):
        Image.fromarray(pixels[..., 0]).save(tmp_path / f"{i}.png")
    fit = ("fit", tmp_path, "-o", tmp_path / "part.safetensors", "--detector", "dictionary", "--folds", 5)
    completed = oddlens(*fit, "--false-alarm-rate", 0.05, "--json")
    assert completed.returncode == 0, completed.stderr
    result = json.loads(completed.stdout)
    assert (result["family"], result["n_training"], result["n_calibration"]) == ("crossfit", 210, 210)
    assert result["guarantee"]["false_alarm_rate"] == 0.05
    refused = oddlens(*fit, "--false-alarm-rate", 0.01)
    assert refused.returncode == 1
    assert (
        "210 normal images in 5 folds can guarantee a false-alarm rate of 4.7% at best; 1% needs 995" in refused.stderr
    )
    without_detector = oddlens("fit", tmp_path, "-o", tmp_path / "a.safetensors", "--folds", 5)
    assert without_detector.returncode == 1
    assert "--folds needs a single detector" in without_detector.stderr


def test_decisions_in_folds_do_not_round_the_rate() -> None:
    scores = -np.arange(760, 0, -1, dtype=float) - 1
    decision = Decision(DecisionSettings(false_alarm_rate=0.03), scores, np.empty(0), in_folds(5))
    assert decision.threshold == scores[-7]  # c = 6: 2 * 11 / 765 <= 3% < 2 * 12 / 765
