"""The images of a report's gallery: which are shown, and how small they must be for the file to stay small."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from oddlens.data.image_io import Pixels
from oddlens.data.image_set import ImageSet
from oddlens.detector.detector import Detector
from oddlens.errors import UnreadableImageError
from oddlens.inference.backend import Floats
from oddlens.inference.scoring import batch_size, score_batches
from oddlens.io.text import as_text
from oddlens.reporting.embedded_images import heatmap_url, image_url, outline_url
from oddlens.reporting.score_data import ScoredImages

MAX_SHOWN_IMAGES = 600
MAX_BYTES = 15_000_000  # of all images of a page, in base64
SIDES = (320, 256, 192, 128, 96, 64)  # pixels of an image's longer side, the first that the bytes allow
SAMPLE = 12  # images from which the size of all is estimated

Shown = dict[str, Any]  # what the page's script needs to show one image


def embed_images(detector: Detector, images: ImageSet, scored: ScoredImages) -> list[Shown]:
    """The images to show, with their reconstructions, heatmaps and masks, as data URLs.

    They are scored again for their maps. One that cannot be read any more is left out.

    Raises:
        ImageError: an image does not fit the detector any more.
    """
    places = scored.select(MAX_SHOWN_IMAGES)
    sample = places[:: -(-len(places) // SAMPLE) or 1]
    outputs = list(score_images(detector, images, scored, sample))
    side = choose_side(detector, images, outputs, len(places))
    shown, n_bytes = [], 0
    for output in score_images(detector, images, scored, places) if len(sample) < len(places) else outputs:
        shown.append(embed_image(detector, images, output, side))
        n_bytes += count_bytes(shown[-1])
        if n_bytes > MAX_BYTES:
            break
    names = scored.names
    return [entry | {"name": as_text(names[entry["i"]])} for entry in shown]


class ScoredImage(NamedTuple):
    """An image and what a detector made of it."""

    place: int  # among the scored images
    position: int  # in the set
    pixels: Pixels  # (H, W, C)
    anomaly_map: Floats | None  # (H, W)
    reconstruction: Floats | None  # (H, W, C) in 0..1


def score_images(
    detector: Detector, images: ImageSet, scored: ScoredImages, places: npt.NDArray[np.intp]
) -> Iterator[ScoredImage]:
    """Score the images at some places again, and yield one after the other."""
    size = batch_size(detector.spec)
    for start in range(0, len(places), size):
        part = places[start : start + size]
        index, problems = scored.index[part], dict[int, UnreadableImageError]()
        (pixels,) = images.subset(index).batches(detector.spec, size, problems=problems)
        (outputs,) = score_batches(detector.backend, [pixels])
        readable = [i for i in range(len(part)) if i not in problems]
        for row, i in enumerate(readable):
            maps, reconstructions = outputs.anomaly_map, outputs.reconstruction
            own_map = None if maps is None else maps[row]
            reconstruction = None if reconstructions is None else reconstructions[row]
            yield ScoredImage(int(part[i]), int(index[i]), pixels[row], own_map, reconstruction)


def choose_side(detector: Detector, images: ImageSet, sample: list[ScoredImage], count: int) -> int:
    """The largest of `SIDES` in which `count` images like those of the sample stay within `MAX_BYTES`."""
    for side in SIDES[:-1]:
        n_bytes = sum(count_bytes(embed_image(detector, images, output, side)) for output in sample)
        if n_bytes * count <= MAX_BYTES * max(1, len(sample)):
            return side
    return SIDES[-1]


def embed_image(detector: Detector, images: ImageSet, output: ScoredImage, side: int) -> Shown:
    """One image with what there is of it: heatmap, reconstruction, outline of what its mask marks."""
    height, width, _ = output.pixels.shape
    shown: Shown = {"i": output.place, "width": width, "height": height}
    shown["image"] = image_url(output.pixels, detector.spec.value_max, side)
    if output.anomaly_map is not None and detector.map_threshold is not None:
        shown["heatmap"] = heatmap_url(output.anomaly_map, detector.map_threshold, side)
    if output.reconstruction is not None:
        levels = np.rint(output.reconstruction.clip(0, 1) * 255).astype(np.uint8)
        shown["reconstruction"] = image_url(levels, 255, side)
    mask = images.mask(output.position) if images.labels[output.position] else None
    if mask is not None and mask.any():
        shown["mask"] = outline_url(mask, side)
    return shown


def count_bytes(shown: Shown) -> int:
    """Characters of the data URLs of an image."""
    return sum(len(value) for value in shown.values() if isinstance(value, str))
