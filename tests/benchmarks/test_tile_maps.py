"""Tests of the figure of anomaly maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tile_maps
from PIL import Image

from oddlens.config.base import TrainingSettings
from oddlens.config.detectors import AutoencoderSettings
from oddlens.data.open import open_dataset
from oddlens.detector.detector import Detector
from oddlens.reporting.figures import save_figure


@pytest.fixture(scope="module")
def woven(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder of built-in tiles in MVTec's layout, and a detector file for them."""
    folder, tiles = tmp_path_factory.mktemp("woven"), open_dataset("tiles")
    for part, images in (
        ("train", tiles.train.subset(np.arange(30))),
        ("test", tiles.test.subset(np.arange(0, len(tiles.test), 8))),
    ):
        for i, kind in enumerate(images.kinds):
            for what, pixels in ((part, images.image(i)[..., 0]), ("ground_truth", images.mask(i))):
                if pixels is not None:
                    path = folder / what / kind / f"{i:03}{'_mask' * (what == 'ground_truth')}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(pixels).save(path)
    small = AutoencoderSettings(architecture="pooling", widths=(4,))
    detector = Detector(small, training=TrainingSettings(epochs=1), size=24).fit(tiles.train.subset(np.arange(30)))
    return folder, detector.save(folder / "detector.safetensors")


def test_images_are_selected_by_position_only(woven: tuple[Path, Path]) -> None:
    test = open_dataset(woven[0]).test
    selected = test.subset(tile_maps.select_images(test))
    defective = [kind for kind, label in zip(selected.kinds, selected.labels, strict=True) if label]
    assert defective == [kind for kind in dict.fromkeys(test.kinds) if kind != "good" for _ in range(2)]
    first = [name for name in test.names if "/scratch/" in name][:2]
    assert [name for name in selected.names if "/scratch/" in name] == first
    good = [name for name in test.names if "/good/" in name]
    assert (selected.names[-10], selected.names[-1]) == (good[0], good[-1])
    assert len(set(selected.names)) == len(selected) == 20


def test_maps_have_the_size_of_the_images_and_the_calibrated_level(woven: tuple[Path, Path]) -> None:
    folder, file = woven
    detector, test = Detector.load(file), open_dataset(folder).test
    selected = test.subset(tile_maps.select_images(test))
    result = tile_maps.score_images("autoencoder", detector, selected)
    assert result.level == detector.map_threshold
    assert result.maps[0].shape == test.image(0).shape[:2]
    assert result.flagged.tolist() == detector.predict(selected).label.astype(bool).tolist()


def test_figure_shows_every_image_and_every_map(woven: tuple[Path, Path], tmp_path: Path) -> None:
    folder, file = woven
    figure = tile_maps.draw({"one": file, "two": file}, folder)
    image_axes = [axes for axes in figure.axes if axes.images]
    assert len(image_axes) == 20 * (1 + 2) + 1  # and the color scale
    outlined = [axes for axes in image_axes if axes.collections]
    assert len(outlined) == 10
    save_figure(figure, tmp_path / "maps.png")
    with Image.open(tmp_path / "maps.png") as saved:
        assert saved.width > 1500
