"""Fixtures: an empty store in each of both databases, and a detector with images that it judges."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
from PIL import Image
from stored_inspections import DETECTOR_FILE

from oddlens.data.open import open_dataset
from oddlens.detector.detector import Detector
from oddlens.store.open import open_store
from oddlens.store.store import Store


@pytest.fixture
def store(url: str, tiles: Detector) -> Iterator[Store]:
    """An empty store with a detector."""
    with open_store(url) as store:
        store.add_detector(tiles, DETECTOR_FILE)
        yield store


@pytest.fixture(scope="session")
def tiles() -> Detector:
    """A detector of woven tiles; tests do not change it."""
    return Detector.load(DETECTOR_FILE, threads=1)


@pytest.fixture(scope="session")
def contents() -> list[bytes]:
    """The contents of 12 PNG files of woven tiles: six normal ones, then six with defects."""
    test = open_dataset("tiles").test
    indices = [*(test.labels == 0).nonzero()[0][:6], *(test.labels == 1).nonzero()[0][:6]]
    return [png(Image.fromarray(test.image(int(i)).squeeze())) for i in indices]


def png(image: Image.Image) -> bytes:
    """The content of an image's PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
