"""Fixtures for the tests of the service: real images as files, and one service that most tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from running_service import RunningService, png, running
from stored_inspections import DETECTOR_FILE

from oddlens.data.image_set import DataSet
from oddlens.data.open import open_dataset


@pytest.fixture(scope="session")
def images(digits: DataSet) -> list[tuple[str, bytes]]:
    """200 tiles, some with defects, and 100 handwritten digits, which are none, as PNG files."""
    tiles = open_dataset("tiles").test
    pixels = [tiles.image(i) for i in range(len(tiles))][:200]
    pixels += [digits.test.image(i) for i in range(300 - len(pixels))]
    return [(f"{i:03}.png", png(image[..., 0])) for i, image in enumerate(pixels)]


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service of the detector `tiles` with a store; tests leave it running."""
    with running(DETECTOR_FILE, "--store", tmp_path_factory.mktemp("served") / "parts.db", "--max-mb", 2) as service:
        yield service
        assert service.stop() == (0, ""), "the service ends cleanly, and said nothing"
