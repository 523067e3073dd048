"""Inspect images: the one scoring path, for uploads and for files of a watched folder."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from oddlens.config.base import InputSpec
from oddlens.data.image_io import Pixels
from oddlens.data.open import as_image_set
from oddlens.data.preprocessing import fit_to
from oddlens.detector.detector import Detector
from oddlens.errors import ImageError, SettingsError
from oddlens.inference.backend import Floats
from oddlens.inference.scoring import score_batches
from oddlens.io.own_files import PNG_METADATA
from oddlens.reporting import heatmaps
from oddlens.store.inspection import make_inspections
from oddlens.store.store import NewInspection


class Upload(NamedTuple):
    """An image as it was sent."""

    name: str
    content: bytes


@dataclass(frozen=True)
class Tags:
    """What the sender says about all images of a request."""

    part: str | None = None
    lot: str | None = None
    station: str | None = None
    group: str | None = None


def inspect(
    name: str, detector: Detector, uploads: Sequence[Upload], tags: Tags, with_map: bool
) -> list[NewInspection]:
    """Inspect images with the detector of that name, or none of them.

    Each is scored by itself: so its score does not depend on what else is being scored, and an audit repeats its bits.

    Raises:
        ImageError: one cannot be read, or does not fit the detector.
        StateError, SettingsError: the detector decides by groups, and the group is missing or has no calibration.
        ArtifactError: the detector gives a score that is not finite.
    """
    if tags.group is not None and not detector.decisions_.grouped:
        raise SettingsError("this detector has one threshold for all images: leave the group out")
    return [inspect_one(name, detector, upload, tags, with_map) for upload in uploads]


def inspect_one(name: str, detector: Detector, upload: Upload, tags: Tags, with_map: bool) -> NewInspection:
    """One of the images of `inspect`."""
    image = decode_upload(upload, None if with_map else detector.spec)
    pixels = fit_to(image, detector.spec, upload.name)
    (predictions,) = score_batches(detector.backend, [pixels[None]])
    groups = () if tags.group is None else (tags.group,)
    verdicts = detector.predict_from_scores([upload.name], predictions.anomaly_score, groups=groups)
    (inspection,) = make_inspections(
        detector, verdicts, name=name, batch_size=1, groups=groups, part=tags.part, lot=tags.lot, station=tags.station
    )
    map_png = None
    if with_map and predictions.anomaly_map is not None:
        map_png = draw_map(detector, image, predictions.anomaly_map[0])
    return inspection, upload.content, map_png


def decode_upload(upload: Upload, spec: InputSpec | None = None) -> Pixels:
    """The pixels (H, W, C) of an uploaded image; with `spec`, they may already have that size.

    Raises:
        ImageError: it cannot be decoded; the error has its name.
    """
    try:
        return as_image_set([upload.content]).image(0, spec)
    except ImageError as error:
        raise ImageError(upload.name, error.reason) from error


def draw_map(detector: Detector, image: Pixels, anomaly_map: Floats) -> bytes | None:
    """The anomaly map (h, w) over its image (H, W, C), as `oddlens score --maps` draws it; None if not calibrated."""
    threshold = detector.map_threshold
    if threshold is None:
        return None
    return as_png(heatmaps.overlay(image, anomaly_map, threshold, detector.spec.value_max))


def as_png(pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    """Pixels (H, W, 1) or (H, W, 3) as the content of a PNG file."""
    info, file = PngInfo(), io.BytesIO()
    for name, text in PNG_METADATA.items():
        info.add_text(name, text)
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(
        file, format="PNG", compress_level=1, pnginfo=info
    )
    return file.getvalue()
