"""Anomaly maps of a scoring job, drawn and written by the threads that decode its images."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path

from oddlens.batch import verdict_files
from oddlens.data.image_io import Pixels
from oddlens.data.image_set import ImageSet
from oddlens.data.ordered_pool import OrderedPool
from oddlens.inference.backend import Floats
from oddlens.reporting.heatmaps import grey_levels

MAX_WAITING_BYTES = 2**27  # of grey images whose scores are not computed yet


class MapWriter:
    """Writes the map of each image below a folder; `threshold` and `value_max` are those of the detector's maps.

    Images wait in grey for their maps, so that they are decoded once. Those for which there is no room are decoded
    again.
    """

    def __init__(
        self, folder: Path, images: ImageSet, threshold: float, value_max: int, pool: OrderedPool[None]
    ) -> None:
        self.images, self.threshold, self.value_max, self.pool = images, threshold, value_max, pool
        self.paths = verdict_files.MapPaths(folder, images.names)
        self.waiting: dict[int, Pixels] = {}  # (H, W, 1) in 0..255
        self.free_bytes = MAX_WAITING_BYTES
        self._lock = threading.Lock()

    def add_image(self, i: int, image: Pixels) -> None:
        """Let image `i`, (H, W, C), wait for its map, if there is room."""
        size = image.shape[0] * image.shape[1]
        with self._lock:
            if size > self.free_bytes:
                return
            self.free_bytes -= size
        self.waiting[i] = grey_levels(image, self.value_max)

    def write(self, index: Iterable[int], anomaly_maps: Iterable[Floats]) -> None:
        """Write the maps of some images, and wait until all are on disk.

        Raises:
            OddlensError: a map cannot be written.
            ImageError: an image that has to be decoded again cannot be read any more.
        """
        for item in zip(index, anomaly_maps, strict=True):
            self.pool.submit(self._write, item)
        for _ in self.pool.results():
            pass

    def _write(self, item: tuple[int, Floats]) -> None:
        i, anomaly_map = item
        image, value_max = self.waiting.pop(i, None), 255
        if image is None:
            image, value_max = self.images.image(i), self.value_max
        else:
            with self._lock:
                self.free_bytes += image.size
        verdict_files.write_map(self.paths(self.images.names[i]), image, anomaly_map, self.threshold, value_max)
