"""Small images of parts, which several pages show at the same time."""

from __future__ import annotations

import numpy as np
from PIL import Image

from oddlens.service.inspecting import as_png
from oddlens.service.inspections import stored_pixels
from oddlens.store.store import Store

SIDE = 160  # pixels
MAX_THUMBNAILS = 256


class Thumbnails:
    """The thumbnails of the images that were asked for last; for several threads."""

    def __init__(self) -> None:
        self._contents: dict[str, bytes] = {}  # by the digest of the image

    def png(self, store: Store, number: int) -> bytes:
        """The image of an inspection, at most `SIDE` pixels wide and high, as PNG.

        Raises:
            DataNotFoundError: there is no such inspection.
            RefusalError: its image has expired.
            OddlensError: it cannot be read.
        """
        inspection = store.inspection(number)
        digest = inspection.image_sha256
        content = self._contents.get(digest)
        if content is None:
            pixels = stored_pixels(store, inspection)
            image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
            image.thumbnail((SIDE, SIDE), reducing_gap=2.0)
            small = np.asarray(image)
            content = as_png(small if small.ndim == 3 else small[..., None])
            self._contents[digest] = content
            while len(self._contents) > MAX_THUMBNAILS:
                self._contents.pop(next(iter(self._contents)), None)
        return content
