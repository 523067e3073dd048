"""The picture of anomaly maps: which images, which colours, what is drawn."""

from __future__ import annotations

from pathlib import Path

import industrial
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
    """A folder with some of the built-in tiles, in MVTec's layout, and a detector of them."""
    folder, tiles = tmp_path_factory.mktemp("woven"), open_dataset("tiles")
    for part, images in (
        ("train", tiles.train.subset(np.arange(30))),
        ("test", tiles.test.subset(np.arange(0, len(tiles.test), 8))),
    ):
        for i, kind in enumerate(images.kinds):
            for what, picture in ((part, images.image(i)[..., 0]), ("ground_truth", images.mask(i))):
                if picture is not None:
                    path = folder / what / kind / f"{i:03}{'_mask' * (what == 'ground_truth')}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(picture).save(path)
    small = AutoencoderSettings(architecture="pooling", widths=(4,))
    detector = Detector(small, training=TrainingSettings(epochs=1), size=24).fit(tiles.train.subset(np.arange(30)))
    return folder, detector.save(folder / "detector.safetensors")


def test_maps_are_drawn_of_images_chosen_by_their_place_alone(woven: tuple[Path, Path]) -> None:
    test = open_dataset(woven[0]).test
    chosen = test.subset(tile_maps.choose(test))
    odd = [kind for kind, label in zip(chosen.kinds, chosen.labels, strict=True) if label]
    assert odd == [kind for kind in dict.fromkeys(test.kinds) if kind != "good" for _ in range(2)]
    first = [name for name in test.names if "/scratch/" in name][:2]
    assert [name for name in chosen.names if "/scratch/" in name] == first
    good = [name for name in test.names if "/good/" in name]
    assert (chosen.names[-10], chosen.names[-1]) == (good[0], good[-1])
    assert len(set(chosen.names)) == len(chosen) == 20


def test_maps_come_at_the_images_own_size_with_the_calibrated_level(woven: tuple[Path, Path]) -> None:
    folder, file = woven
    detector, test = Detector.load(file), open_dataset(folder).test
    judged = tile_maps.judge("autoencoder", detector, test.subset(tile_maps.choose(test)))
    assert judged.level == detector.map_threshold
    assert judged.maps[0].shape == test.image(0).shape[:2]
    assert judged.flagged.tolist() == detector.predict(test.subset(tile_maps.choose(test))).label.astype(bool).tolist()


def test_the_picture_of_maps_shows_every_image_and_every_map(woven: tuple[Path, Path], tmp_path: Path) -> None:
    folder, file = woven
    figure = tile_maps.draw({"one": file, "two": file}, folder)
    pictures = [axes for axes in figure.axes if axes.images]
    assert len(pictures) == 20 * (1 + 2) + 1  # and the scale
    outlined = [axes for axes in pictures if axes.collections]
    assert len(outlined) == 10
    save_figure(figure, tmp_path / "maps.png")
    with Image.open(tmp_path / "maps.png") as saved:
        assert saved.width > 1500


def test_maps_of_several_sets_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "maps.png"
    with pytest.raises(SystemExit) as exit_:
        industrial.main(["--set", "tiles", "magnetic-tile", "--maps", str(target), "--cache", str(tmp_path / "cache")])
    assert exit_.value.code == 2
    assert "--maps draws one set, and --set names 2; give one" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
