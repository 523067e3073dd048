"""What the dictionary family promises beyond the laws that every family obeys."""

from __future__ import annotations

import os
from pathlib import Path

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
from oddlens.models.memory_bank import MemoryBank, patch_variance, spherical_kmeans
from oddlens.models.patch_dictionary import Dictionary, bounds


def fitted(pixels: Pixels, settings: DictionarySettings, seed: int = 0) -> Dictionary:
    height, width, channels = pixels.shape[1:]
    spec = InputSpec(height=height, width=width, channels=channels)
    model = registry.build(settings, spec, seed).eval()
    assert isinstance(model, Dictionary)
    with torch.no_grad():
        model.fit_closed_form(torch.from_numpy(pixels), seed)
    return model


def scores(model: Dictionary, pixels: Pixels) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    with torch.no_grad():
        found: Tensor = model(model.scale(torch.from_numpy(pixels))).anomaly_score
    return found.numpy()


def rings(count: int, seed: int, side: int = 24) -> Pixels:
    """Bright rings of many sizes, anywhere: thin and small ones are nearly empty pictures."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side]
    middle = rng.uniform(0.4, 0.6, (count, 2, 1, 1)) * side
    distance = np.hypot(rows - middle[:, 0], columns - middle[:, 1])
    radius, width = rng.uniform(3, 8, (count, 1, 1)), rng.uniform(0.8, 1.6, (count, 1, 1))
    pixels: Pixels = (np.exp(-(((distance - radius) / width) ** 2)) * 250)[..., None].astype(np.uint8)
    return pixels


def stripes(count: int, seed: int, side: int = 64) -> Pixels:
    """A texture without a place of its own: slanted stripes of any phase, with grain."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side]
    phase = rng.uniform(0, 6.3, (count, 1, 1))
    waves = 120 + 50 * np.sin(rows * 0.5 + columns * 0.9 + phase) + rng.normal(0, 5, (count, side, side))
    pixels: Pixels = waves.clip(0, 255)[..., None].astype(np.uint8)
    return pixels


SMALL = DictionarySettings(atoms=40)


@pytest.fixture(scope="module")
def of_rings() -> Dictionary:
    return fitted(rings(300, seed=0), SMALL)


@pytest.mark.parametrize("change", ["blank", "half brightness", "hole", "blur", "crossed"])
def test_simple_changes_are_seen_that_contrast_normalisation_hides(of_rings: Dictionary, change: str) -> None:
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
    found = np.concatenate([scores(of_rings, normal), scores(of_rings, changed)])
    assert auroc(np.repeat([0, 1], [len(normal), len(changed)]), found) > 0.95


def test_a_texture_shows_where_it_is_broken() -> None:
    model = fitted(stripes(30, seed=0), DictionarySettings(score="local", atoms=30, place=0))
    normal, broken = stripes(20, seed=1), stripes(20, seed=2)
    broken[:, 20:36, 30:46] = broken[:, 20:36, 30:46].transpose(0, 2, 1, 3)[:, ::-1]
    assert scores(model, broken).min() > scores(model, normal).max()
    with torch.no_grad():
        maps = model(model.scale(torch.from_numpy(broken))).anomaly_map
    for at in maps.flatten(1).argmax(dim=1):
        assert 16 <= int(at) // 64 < 40
        assert 26 <= int(at) % 64 < 50


def test_a_mirrored_picture_is_usual_to_a_detector_that_mirrors() -> None:
    ramp = np.linspace(0, 1, 16)[None, None, :] ** np.random.default_rng(0).uniform(1, 3, (60, 16, 1))
    pixels: Pixels = (250 * ramp)[..., None].astype(np.uint8)
    turned = pixels[:, :, ::-1].copy()
    plain, mirrors = fitted(pixels, SMALL), fitted(pixels, DictionarySettings(atoms=40, mirror=True))
    assert np.median(scores(plain, turned)) > 3 * np.median(scores(plain, pixels))
    assert np.median(scores(mirrors, turned)) < np.median(scores(plain, turned)) / 3


@pytest.mark.parametrize(("height", "width", "channels"), [(4, 4, 1), (5, 9, 3), (40, 12, 1), (96, 150, 1)])
@pytest.mark.parametrize("score", ["pooled", "local"])
def test_any_size_fits_from_two_blank_pictures(height: int, width: int, channels: int, score: str) -> None:
    spec = {"score": score, "atoms": 4, "patch_sizes": (6, 8)}
    model = fitted(np.zeros((2, height, width, channels), dtype=np.uint8), DictionarySettings.model_validate(spec))
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())
    new = np.random.default_rng(0).integers(0, 256, (3, height, width, channels), dtype=np.uint8)
    with torch.no_grad():
        scored = model(model.scale(torch.from_numpy(new)))
    assert scored.anomaly_score.isfinite().all()
    assert scored.anomaly_map.shape == (3, height, width)


@pytest.mark.parametrize("score", ["pooled", "local"])
@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_pictures_are_enough_to_fit(count: int, score: str) -> None:
    pixels = rings(count, seed=0)
    model = fitted(pixels, DictionarySettings.model_validate({"score": score, "atoms": 10}))
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())
    known, other = scores(model, pixels), scores(model, 255 - rings(3, seed=1))
    assert np.isfinite(other).all()
    assert other.min() > known.max()


@pytest.mark.parametrize("score", ["pooled", "local"])
def test_a_detector_fits_two_pictures_of_which_one_calibrates(score: str, tmp_path: Path) -> None:
    settings = DictionarySettings.model_validate({"score": score, "atoms": 10})
    detector = Detector(settings).fit(rings(2, seed=0))
    assert (detector.manifest.data.n_training, detector.manifest.data.n_calibration) == (1, 1)
    banks = {name: tensor for name, tensor in detector.tensors.items() if name.endswith(".rows")}
    assert len(banks["model.pictures.rows"]) == 1
    loaded = Detector.load(detector.save(tmp_path / "rings.safetensors"))
    np.testing.assert_array_equal(loaded.score(rings(5, seed=1)), detector.score(rings(5, seed=1)))


@pytest.mark.parametrize("skip", [0, 1])
def test_a_bank_of_one_row_measures_the_distance_to_it(skip: int) -> None:
    bank = MemoryBank(4, 4, neighbours=2)
    bank.keep(torch.ones(1, 4))
    new = torch.tensor([[1.0, 1, 1, 1], [4, 5, 1, 1]])
    torch.testing.assert_close(bank(new, skip=skip).exp(), torch.tensor([0.001, 5.001]))


def test_the_bank_keeps_to_its_cap() -> None:
    model = fitted(rings(200, seed=0), DictionarySettings(atoms=10, bank_megabytes=0.05))
    kept = model.pictures.rows.numel() + model.light.rows.numel()
    assert 4 * kept <= 0.05 * 2**20
    assert len(model.pictures.rows) > 50


def test_distances_of_the_bank_are_those_of_a_plain_search() -> None:
    generator = torch.Generator().manual_seed(0)
    bank = MemoryBank(6, 6, neighbours=3)
    rows = torch.randn(50, 6, generator=generator) + 100  # far from the origin, where products lose digits
    bank.keep(rows)
    new = torch.randn(8, 6, generator=generator) + 100
    plain = (new[:, None] - rows).norm(dim=2).sort(dim=1).values[:, :3].mean(dim=1)
    torch.testing.assert_close(bank(new).exp(), plain + 1e-3)
    others = (rows[:, None] - rows).norm(dim=2).sort(dim=1).values[:, 1:4].mean(dim=1)
    torch.testing.assert_close(bank(rows, skip=1).exp(), others + 1e-3)


def test_patch_variance_is_the_variance_of_each_patch() -> None:
    batch = torch.rand(2, 3, 9, 7, generator=torch.Generator().manual_seed(0))
    expected = batch.unfold(2, 4, 2).unfold(3, 4, 2).permute(0, 2, 3, 1, 4, 5).flatten(3).var(dim=3, correction=0)
    torch.testing.assert_close(patch_variance(batch, 4, 2)[:, 0], expected)


def test_kmeans_finds_the_directions_that_points_lie_along() -> None:
    generator = torch.Generator().manual_seed(0)
    directions = torch.eye(5)[:3]
    points = torch.randn(600, 1, generator=generator) * directions.repeat(200, 1)
    points = points + 0.01 * torch.randn(600, 5, generator=generator)
    found = (spherical_kmeans(points, 12, generator) @ directions.T).abs().max(dim=0).values
    assert (found > 0.99).all()


def test_parts_cover_every_row_even_when_they_do_not_divide() -> None:
    for side, parts in ((23, 2), (7, 3), (4, 4)):
        assert {row for first, behind in bounds(side, parts) for row in range(first, behind)} == set(range(side))


def test_real_digits_of_one_kind_are_told_from_others() -> None:
    folder = os.environ.get("ODDLENS_DATA")
    if not folder or not Path(folder, "MNIST", "raw").is_dir():
        pytest.skip("ODDLENS_DATA does not name a folder with MNIST/raw")
    data = open_dataset("mnist", normal="1", data_dir=folder, download=False)
    spec = data.train.choose_spec(None)
    pixels = data.train.load(spec)
    model = fitted(pixels[:600], SMALL)
    others = rings(100, seed=0, side=28)
    found = np.concatenate([scores(model, pixels[600:800]), scores(model, others)])
    assert auroc(np.repeat([0, 1], [200, 100]), found) > 0.99
