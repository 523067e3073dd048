from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from running_service import png
from stored_inspections import inspection

from oddlens.errors import DataNotFoundError
from oddlens.pages.station import thumbnails
from oddlens.pages.station.thumbnails import SIDE, Thumbnails
from oddlens.service.inspections import stored_pixels
from oddlens.service.refusals import RefusalError
from oddlens.store.inspection import StoredInspection
from oddlens.store.store import Store


def size(content: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(content)) as image:
        return image.size


def test_thumbnails_are_small_and_keep_their_shape(store: Store) -> None:
    wide, tiny = (np.zeros(shape, dtype=np.uint8) for shape in ((400, 800), (8, 8)))
    numbers = [store.add(inspection(), png(pixels)) for pixels in (wide, tiny)]
    small = Thumbnails()
    assert [size(small.png(store, number)) for number in numbers] == [(SIDE, SIDE // 2), (8, 8)]


def test_an_image_is_decoded_once_and_the_oldest_make_way(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thumbnails, "MAX_THUMBNAILS", 2)
    calls = list[int]()

    def counted(store: Store, item: StoredInspection) -> npt.NDArray[np.uint8]:
        calls.append(item.id)
        return stored_pixels(store, item)

    monkeypatch.setattr(thumbnails, "stored_pixels", counted)
    numbers = [store.add(inspection(), png(np.full((8, 8), level, dtype=np.uint8))) for level in (1, 2, 3)]
    small = Thumbnails()
    for number in (numbers[0], numbers[0], numbers[1], numbers[0], numbers[2], numbers[1], numbers[0]):
        small.png(store, number)
    assert calls == [numbers[0], numbers[1], numbers[2], numbers[0]]


def test_what_is_not_there_is_refused(store: Store) -> None:
    number = store.add(inspection(), png(np.zeros((8, 8), dtype=np.uint8)))
    store.prune(keep_gb=0)
    with pytest.raises(RefusalError, match="expired"):
        Thumbnails().png(store, number)
    with pytest.raises(DataNotFoundError):
        Thumbnails().png(store, number + 1)
