"""Properties of the dictionary family, beyond the laws of all families."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from oddlens.config.base import InputSpec
from oddlens.config.detectors import DictionarySettings
from oddlens.data.image_io import Pixels
from oddlens.data.open import open_dataset
from oddlens.detector.detector import Detector
from oddlens.metrics import auroc
from oddlens.models import registry
from oddlens.models.patch_dictionary import Dictionary, part_bounds

BOTTLES = Path(os.environ.get("ODDLENS_DATA", "/nowhere")) / "bottle"


def fit_dictionary(pixels: Pixels, settings: DictionarySettings, seed: int = 0) -> Dictionary:
    height, width, channels = pixels.shape[1:]
    spec = InputSpec(height=height, width=width, channels=channels)
    model = registry.build(settings, spec, seed).eval()
    assert isinstance(model, Dictionary)
    with torch.no_grad():
        model.fit_closed_form(torch.from_numpy(pixels), seed)
    return model


def scores(model: Dictionary, pixels: Pixels) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    with torch.no_grad():
        anomaly_scores: Tensor = model(model.scale(torch.from_numpy(pixels))).anomaly_score
    return anomaly_scores.numpy()


def rings(count: int, seed: int, side: int = 24) -> Pixels:
    """Bright rings of random size and position; images of thin and small ones are nearly empty."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side]
    middle = rng.uniform(0.4, 0.6, (count, 2, 1, 1)) * side
    distance = np.hypot(rows - middle[:, 0], columns - middle[:, 1])
    radius, width = rng.uniform(3, 8, (count, 1, 1)), rng.uniform(0.8, 1.6, (count, 1, 1))
    pixels: Pixels = (np.exp(-(((distance - radius) / width) ** 2)) * 250)[..., None].astype(np.uint8)
    return pixels


def stripes(count: int, seed: int, side: int = 64) -> Pixels:
    """A stationary texture: slanted stripes of random phase, with noise."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side]
    phase = rng.uniform(0, 6.3, (count, 1, 1))
    waves = 120 + 50 * np.sin(rows * 0.5 + columns * 0.9 + phase) + rng.normal(0, 5, (count, side, side))
    pixels: Pixels = waves.clip(0, 255)[..., None].astype(np.uint8)
    return pixels


SMALL = DictionarySettings(atoms=40)


@pytest.fixture(scope="module")
def rings_model() -> Dictionary:
    return fit_dictionary(rings(300, seed=0), SMALL)


@pytest.mark.parametrize("change", ["blank", "half brightness", "hole", "blur", "crossed"])
def test_changes_that_contrast_normalization_hides_are_detected(rings_model: Dictionary, change: str) -> None:
    normal, changed = rings(100, seed=1), rings(100, seed=2)
    if change == "blank":
        changed = np.zeros_like(changed)[:1]
    elif change == "half brightness":
        changed = changed // 2
    elif change == "hole":
        changed[:, 10:, 10:] = 0
    elif change == "blur":
        smooth = F.avg_pool2d(torch.from_numpy(changed).permute(0, 3, 1, 2).float(), 5, 1, 2)
        changed = smooth.permute(0, 2, 3, 1).to(torch.uint8).numpy()
    else:
        changed[:, 11:13] = 250
    anomaly_scores = np.concatenate([scores(rings_model, normal), scores(rings_model, changed)])
    assert auroc(np.repeat([0, 1], [len(normal), len(changed)]), anomaly_scores) > 0.95


def test_the_map_locates_defects_of_a_texture() -> None:
    model = fit_dictionary(stripes(30, seed=0), DictionarySettings(score="local", atoms=30, place=0))
    normal, broken = stripes(20, seed=1), stripes(20, seed=2)
    broken[:, 20:36, 30:46] = broken[:, 20:36, 30:46].transpose(0, 2, 1, 3)[:, ::-1]
    assert scores(model, broken).min() > scores(model, normal).max()
    with torch.no_grad():
        maps = model(model.scale(torch.from_numpy(broken))).anomaly_map
    for at in maps.flatten(1).argmax(dim=1):
        assert 16 <= int(at) // 64 < 40
        assert 26 <= int(at) % 64 < 50


def test_mirrored_images_are_normal_with_the_mirror_setting() -> None:
    ramp = np.linspace(0, 1, 16)[None, None, :] ** np.random.default_rng(0).uniform(1, 3, (60, 16, 1))
    pixels: Pixels = (250 * ramp)[..., None].astype(np.uint8)
    mirrored = pixels[:, :, ::-1].copy()
    plain, mirrors = fit_dictionary(pixels, SMALL), fit_dictionary(pixels, DictionarySettings(atoms=40, mirror=True))
    assert np.median(scores(plain, mirrored)) > 3 * np.median(scores(plain, pixels))
    assert np.median(scores(mirrors, mirrored)) < np.median(scores(plain, mirrored)) / 3


@pytest.mark.parametrize(("height", "width", "channels"), [(4, 4, 1), (5, 9, 3), (40, 12, 1), (96, 150, 1)])
@pytest.mark.parametrize("score", ["pooled", "local"])
def test_any_size_can_be_fitted_on_two_blank_images(height: int, width: int, channels: int, score: str) -> None:
    spec = {"score": score, "atoms": 4, "patch_sizes": (6, 8)}
    model = fit_dictionary(
        np.zeros((2, height, width, channels), dtype=np.uint8), DictionarySettings.model_validate(spec)
    )
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())
    new = np.random.default_rng(0).integers(0, 256, (3, height, width, channels), dtype=np.uint8)
    with torch.no_grad():
        scored = model(model.scale(torch.from_numpy(new)))
    assert scored.anomaly_score.isfinite().all()
    assert scored.anomaly_map.shape == (3, height, width)


@pytest.mark.parametrize("score", ["pooled", "local"])
@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_images_are_enough_to_fit(count: int, score: str) -> None:
    pixels = rings(count, seed=0)
    model = fit_dictionary(pixels, DictionarySettings.model_validate({"score": score, "atoms": 10}))
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())
    training_scores, other_scores = scores(model, pixels), scores(model, 255 - rings(3, seed=1))
    assert np.isfinite(other_scores).all()
    assert other_scores.min() > training_scores.max()


@pytest.mark.parametrize("score", ["pooled", "local"])
def test_a_detector_can_be_fitted_on_two_images(score: str, tmp_path: Path) -> None:
    settings = DictionarySettings.model_validate({"score": score, "atoms": 10})
    detector = Detector(settings).fit(rings(2, seed=0))
    assert (detector.manifest.data.n_training, detector.manifest.data.n_calibration) == (1, 1)
    banks = {name: tensor for name, tensor in detector.tensors.items() if name.endswith(".rows")}
    assert len(banks["model.pictures.rows"]) == 1
    loaded = Detector.load(detector.save(tmp_path / "rings.safetensors"))
    np.testing.assert_array_equal(loaded.score(rings(5, seed=1)), detector.score(rings(5, seed=1)))


def test_the_bank_stays_below_its_size_limit() -> None:
    model = fit_dictionary(rings(200, seed=0), DictionarySettings(atoms=10, bank_megabytes=0.05))
    n_values = model.pictures.rows.numel() + model.light.rows.numel()
    assert 4 * n_values <= 0.05 * 2**20
    assert len(model.pictures.rows) > 50


def test_parts_cover_all_rows_even_if_sizes_do_not_divide() -> None:
    for side, parts in ((23, 2), (7, 3), (4, 4)):
        assert {row for first, behind in part_bounds(side, parts) for row in range(first, behind)} == set(range(side))


def test_real_digits_are_separated_from_other_images() -> None:
    folder = os.environ.get("ODDLENS_DATA")
    if not folder or not Path(folder, "MNIST", "raw").is_dir():
        pytest.skip("ODDLENS_DATA does not name a folder with MNIST/raw")
    data = open_dataset("mnist", normal="1", data_dir=folder, download=False)
    spec = data.train.choose_spec(None)
    pixels = data.train.load(spec)
    model = fit_dictionary(pixels[:600], SMALL)
    others = rings(100, seed=0, side=28)
    anomaly_scores = np.concatenate([scores(model, pixels[600:800]), scores(model, others)])
    assert auroc(np.repeat([0, 1], [200, 100]), anomaly_scores) > 0.99


@pytest.mark.parametrize("score", ["pooled", "local"])
def test_where_light_varies_brightness_changes_patches_hardly(score: Literal["pooled", "local"]) -> None:
    train, new = (100 + stripes(count, seed) // 8 for count, seed in ((60, 0), (20, 1)))  # of little contrast
    models = {
        light: fit_dictionary(train, DictionarySettings(atoms=30, score=score, light=light))
        for light in ("varies", "fixed")
    }
    batches = [models["varies"].scale(torch.from_numpy(new)) * gain for gain in (1.0, 0.75)]
    change = {}
    for light, model in models.items():
        with torch.no_grad():
            usual, darker = (model.place_distances(model.window_means(model.first_responses(b))) for b in batches)
        change[light] = float((darker - usual).abs().mean())
    assert change["varies"] < 0.01 < 0.05 < change["fixed"]


def test_images_far_from_the_usual_brightness_stay_anomalous_where_light_varies() -> None:
    model = fit_dictionary(stripes(60, 0), DictionarySettings(atoms=30, score="local", light="varies"))
    new = stripes(20, 1)
    usual = scores(model, new)
    for far in (np.zeros_like(new), np.full_like(new, 255), new // 8):
        assert scores(model, far).min() > usual.max()


def test_the_usual_brightness_is_a_tensor_only_where_light_varies() -> None:
    train = stripes(30, 0)
    varies = fit_dictionary(train, DictionarySettings(atoms=10, light="varies"))
    assert float(varies.usual_brightness) == pytest.approx(train.mean() / 255, rel=1e-5)
    assert "usual_brightness" not in fit_dictionary(train, DictionarySettings(atoms=10)).state_dict()


def test_a_gain_is_like_brighter_pixels() -> None:
    model = fit_dictionary(stripes(30, 0), DictionarySettings(atoms=10, light="varies"))
    batch, gain = model.scale(torch.from_numpy(100 + stripes(8, 1) // 8)), torch.linspace(0.7, 1.4, 8)
    (atoms,) = model.dictionaries()
    with torch.no_grad():
        by_gain, by_pixels = atoms(batch, gain), atoms(batch * gain[:, None, None, None])
    torch.testing.assert_close(by_gain, by_pixels, rtol=0, atol=1e-3)
    assert (by_gain - atoms(batch)).abs().max() > 0.01


@pytest.mark.skipif(not BOTTLES.is_dir(), reason="ODDLENS_DATA does not name a folder with bottle")
def test_exported_scores_agree_on_photographs_with_a_white_background(tmp_path: Path) -> None:
    """Where all places look the same, distances are rounding errors, which runtimes do not share."""
    data = open_dataset(str(BOTTLES))
    settings = DictionarySettings(atoms=150, score="local", light="varies", place_floor=0.3)
    detector = Detector(settings, size=256).fit(data.train.subset(range(0, 209, 6)))
    detector.export(tmp_path / "part.onnx")
    images = data.test.subset(range(0, len(data.test), 6))
    expected = detector.score(images)
    np.testing.assert_allclose(Detector.load(tmp_path / "part.onnx").score(images), expected, rtol=1e-4)
