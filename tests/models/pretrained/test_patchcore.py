"""The memory bank: rows spread over each image, exact distances, and images that are left out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from disc_images import part_images
from pretrained_extra import needs_pretrained

from oddlens.config.base import InputSpec
from oddlens.config.detectors import PatchcoreSettings
from oddlens.detector.detector import Detector
from oddlens.models.base import leave_groups_out
from oddlens.models.pretrained import patchcore
from oddlens.models.pretrained.patchcore import Patchcore, nearest_distance, spread_rows

SHALLOW = PatchcoreSettings(depths=(2,), side=64, bank_megabytes=0.2)


def test_rows_of_an_image_are_far_from_each_other() -> None:
    points = torch.tensor([[[0.0], [0.1], [5.0], [5.1], [10.0]]])
    assert sorted(spread_rows(points, 3)[0].tolist()) in ([0, 2, 4], [0, 3, 4])


@pytest.mark.parametrize("at_once", [1, 7, 1000])
def test_the_distance_is_that_to_the_nearest_row_in_however_many_parts(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patchcore, "ROWS_AT_ONCE", at_once)
    descriptors, rows = torch.randn(3, 4, 6), torch.randn(20, 6)
    torch.testing.assert_close(nearest_distance(descriptors, rows, None), torch.cdist(descriptors, rows).amin(dim=2))
    ignored = torch.arange(20)[None] % 3 == torch.arange(3)[:, None]
    expected = torch.cdist(descriptors, rows).masked_fill(ignored[:, None], torch.inf).amin(dim=2)
    torch.testing.assert_close(nearest_distance(descriptors, rows, ignored), expected)


@needs_pretrained
def test_a_left_out_image_is_scored_as_by_a_bank_without_its_rows() -> None:
    pixels = torch.from_numpy(part_images(12, 0))
    spec = InputSpec(height=64, width=64, channels=1)
    model, others = Patchcore(SHALLOW, spec), Patchcore(SHALLOW, spec)
    with torch.inference_mode():
        model.fit_closed_form(pixels, 0)
        others.fit_closed_form(pixels, 0)
        assert model.row_images is not None
        others.rows = model.rows[model.row_images != 5]
        assert model.light_images is not None
        others.light_rows = model.light_rows[model.light_images != 5]
        others.row_images = others.light_images = None
        with leave_groups_out(model, torch.arange(12), torch.tensor([5])):
            left_out = model(model.scale(pixels[5:6]))
        expected = others(others.scale(pixels[5:6]))
        torch.testing.assert_close(left_out.anomaly_score, expected.anomaly_score)
        assert float(left_out.anomaly_score) > float(model(model.scale(pixels[5:6])).anomaly_score)


@needs_pretrained
def test_all_training_images_calibrate() -> None:
    detector = Detector(SHALLOW).fit(part_images(120, 0))
    assert detector.manifest.data.calibration == "leave_one_out"
    assert detector.manifest.data.n_training == detector.manifest.data.n_calibration == 120
    assert detector.predict(part_images(100, 1)).label.mean() <= 0.05
    spotted = part_images(20, 2)
    spotted[:, 28:34, 28:34] = 20
    assert detector.predict(spotted).label.mean() >= 0.9


@needs_pretrained
def test_the_bank_has_equally_many_rows_of_each_image_within_its_size() -> None:
    detector = Detector(SHALLOW).fit(part_images(120, 0))
    rows = detector.tensors["model.rows"]
    assert len(rows) % 120 == 0
    assert rows.nbytes <= 0.2 * 2**20
    assert np.isfinite(rows).all()


def test_without_any_row_that_counts_everything_is_far() -> None:
    descriptors = torch.randn(2, 4, 6)
    distances = nearest_distance(descriptors, descriptors[0], torch.tensor([[True] * 4, [False] * 4]))
    assert (distances[0] == patchcore.FAR).all()
    assert (distances[1] < 100).all()
