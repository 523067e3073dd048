"""Figure of the anomaly maps of several detectors for the same defective and good images.

Images are selected by their position in the set, never by a result: the first two of each kind of defect, and good ones
at even distances. All maps are on the calibrated scale (`oddlens.reporting.heatmaps`): outlined regions are above the
level that held-out good images stay below.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from oddlens.data.image_set import ImageSet
from oddlens.data.open import open_dataset
from oddlens.data.preprocessing import resize_map
from oddlens.detector.detector import Detector
from oddlens.errors import DataError
from oddlens.reporting import heatmaps
from oddlens.reporting.canvas import ANOMALY, GAP, HEADING, INK, MARGIN, MUTED, NORMAL, SMALL, Canvas, cell_size
from oddlens.reporting.image_grids import draw_outline

if TYPE_CHECKING:
    from matplotlib.figure import Figure


PER_KIND, GOOD = 2, 10
SIDE, LABEL, LINE = 1.0, 1.15, 0.17  # inches: longer side of an image, width of the names, a line of text
SCALE = 1.6  # inches: width of the color scale
Map = npt.NDArray[np.float32]


@dataclass(frozen=True)
class DetectorMaps:
    """Results of one detector: an (H, W) map per image at its size, whether it is flagged, and the map level."""

    name: str
    maps: list[Map]
    flagged: npt.NDArray[np.bool_]
    level: float


def draw(files: Mapping[str, Path], source: str | Path) -> Figure:
    """Score the selected test images of a data set with each detector file, and draw the maps.

    Raises:
        DataError: good or defective test images are missing, or a detector has no maps.
    """
    test = open_dataset(source).test
    images = test.subset(select_images(test))
    results = [score_images(name, Detector.load(file, device="cpu"), images) for name, file in files.items()]
    return draw_blocks(images, results)


def select_images(test: ImageSet) -> npt.NDArray[np.intp]:
    """Return the indices of the first two images of each kind of defect, then of good ones at even distances."""
    kinds, good = np.array(test.kinds), np.flatnonzero(test.labels == 0)
    if not len(good) or len(good) == len(test):
        raise DataError(f"maps need good and defective test images; {len(good)} of {len(test)} are good")
    defective = [np.flatnonzero((kinds == kind) & (test.labels == 1))[:PER_KIND] for kind in dict.fromkeys(test.kinds)]
    places = np.linspace(0, len(good) - 1, min(GOOD, len(good))).round().astype(np.intp)
    return np.concatenate([*defective, good[places]])


def score_images(name: str, detector: Detector, images: ImageSet) -> DetectorMaps:
    """Score images with a detector and resize its maps to the images' sizes."""
    if detector.map_threshold is None:
        raise DataError(f"{name}: the detector has no map threshold; choose one with maps")
    scores, maps = [], []
    for outputs in detector.iter_predictions(images):
        if outputs.anomaly_map is None:
            raise DataError(f"{name}: the detector has no maps; choose one with maps")
        scores.append(outputs.anomaly_score)
        maps += list(outputs.anomaly_map)
    sizes = [(info.height, info.width) for info in images.infos()]
    maps = [resize_map(values, *size) for values, size in zip(maps, sizes, strict=True)]
    flagged = detector.decision_.labels(np.concatenate(scores)).astype(bool)
    return DetectorMaps(name, maps, flagged, detector.map_threshold)


def draw_blocks(images: ImageSet, results: Sequence[DetectorMaps]) -> Figure:
    """Draw a block of defective and one of good images, each with the detectors' maps below the images."""
    blocks = [np.flatnonzero(images.labels == label) for label in (1, 0)]
    cells = [cell_size((info.height, info.width), SIDE) for info in images.infos()]
    step = max(max(cell[0] for cell in cells), 0.85) + GAP
    heights = [max(cells[i][1] for i in block) for block in blocks]
    tall = [0.3 + LINE + height + 2 * GAP + len(results) * (height + LINE + GAP) for height in heights]
    width = LABEL + max(len(block) for block in blocks) * step + 2 * MARGIN
    canvas = Canvas(width, 2 * MARGIN + sum(tall) + 0.6)
    top = MARGIN
    for title, block, height, used in zip(("defective", "good"), blocks, heights, tall, strict=True):
        canvas.text(MARGIN, top, f"{title} test images (✗ wrong verdict)", size=HEADING, weight="bold")
        rows(canvas, images, results, block, cells, (top + 0.3, height, step))
        top += used
    canvas.text(MARGIN, top + 0.06, "scale", size=SMALL, color=MUTED)
    canvas.image(MARGIN + LABEL, top + 0.08, (SCALE, 0.09), heatmaps.color_scale(300, 18) / 255)
    for share, text in ((0.0, "0"), (0.5, "level"), (1.0, "2×")):
        canvas.text(MARGIN + LABEL + share * SCALE, top + 0.2, text, size=SMALL, ha="center", color=INK)
    note = "Level: the maximum of a map is at or below it for all but 1% of good images. Outlined: above it."
    canvas.text(MARGIN + LABEL + SCALE + 3 * GAP, top + 0.06, note, size=SMALL, color=MUTED)
    return canvas.figure


def rows(
    canvas: Canvas,
    images: ImageSet,
    results: Sequence[DetectorMaps],
    block: npt.NDArray[np.intp],
    cells: Sequence[tuple[float, float]],
    place: tuple[float, float, float],
) -> None:
    """Draw a block, a column per image: its kind, the image with its mask's outline, a map and verdict per detector."""
    top, height, step = place
    for column, i in enumerate(block):
        left, cell = MARGIN + LABEL + column * step, cells[i]
        image, mask = images.image(i), images.mask(i)
        canvas.text(left, top, images.kinds[i], step - GAP, SMALL)
        peak = 255 if image.dtype == np.uint8 else 65535
        drawn = canvas.image(left, top + LINE, cell, image / peak)
        if mask is not None:
            draw_outline(drawn.axes, mask, image.shape)
        below = top + LINE + height + 2 * GAP
        for result in results:
            canvas.image(left, below, cell, heatmaps.overlay(image, result.maps[i], result.level, peak) / 255)
            verdict(canvas, left, below + cell[1] + 0.03, bool(result.flagged[i]), bool(images.labels[i]))
            below += height + LINE + GAP
    canvas.text(MARGIN, top + LINE + height / 2, "image", va="center", color=MUTED)
    for row, result in enumerate(results):
        middle = top + LINE + height + 2 * GAP + row * (height + LINE + GAP) + height / 2
        canvas.text(MARGIN, middle, result.name, LABEL - GAP, va="center", color=MUTED)


def verdict(canvas: Canvas, left: float, top: float, flagged: bool, defective: bool) -> None:
    """Draw a verdict, with a cross if it is wrong."""
    word, color = ("▲ anomaly", ANOMALY) if flagged else ("● normal", NORMAL)
    canvas.text(left, top, word + " ✗" * (flagged != defective), size=SMALL, color=color, weight="bold")
