"""One picture of the anomaly maps that several detectors give for the same defective and good images.

Images are chosen by their place in the set, never by a result: the first two of each kind of defect, and good ones at
even distances. All maps are on the calibrated scale (`oddlens.reporting.heatmaps`): what is outlined lies above the
level that held-out good images keep to.
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
from oddlens.reporting.figures import outline

if TYPE_CHECKING:
    from matplotlib.figure import Figure


PER_KIND, GOOD = 2, 10
SIDE, LABEL, LINE = 1.0, 1.15, 0.17  # inches: an image's longer side, the names at the left, a line of text
SCALE = 1.6  # inches
Map = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Judged:
    """What one detector makes of the images: an (H, W) map of each at its own size, and whether it is flagged."""

    name: str
    maps: list[Map]
    flagged: npt.NDArray[np.bool_]
    level: float


def draw(files: Mapping[str, Path], source: str | Path) -> Figure:
    """Score the chosen test images of a set with each fitted detector, and draw them.

    Raises:
        DataError: the set has no test images, or a detector gives no maps.
    """
    test = open_dataset(source).test
    chosen = test.subset(choose(test))
    judged = [judge(name, Detector.load(file, device="cpu"), chosen) for name, file in files.items()]
    return sheet(chosen, judged)


def choose(test: ImageSet) -> npt.NDArray[np.intp]:
    """Indices of the first two images of each kind of defect, then of good ones at even distances."""
    kinds, good = np.array(test.kinds), np.flatnonzero(test.labels == 0)
    if not len(good) or len(good) == len(test):
        raise DataError(f"maps are drawn of good and defective test images, found {len(good)} good of {len(test)}")
    odd = [np.flatnonzero((kinds == kind) & (test.labels == 1))[:PER_KIND] for kind in dict.fromkeys(test.kinds)]
    places = np.linspace(0, len(good) - 1, min(GOOD, len(good))).round().astype(np.intp)
    return np.concatenate([*odd, good[places]])


def judge(name: str, detector: Detector, images: ImageSet) -> Judged:
    """Score images with a detector, and bring its maps to the images' own sizes."""
    if detector.map_threshold is None:
        raise DataError(f"{name}: this detector has no maps; name one that has")
    scores, maps = [], []
    for outputs in detector.iter_predictions(images):
        if outputs.anomaly_map is None:
            raise DataError(f"{name}: this detector gives no maps; name one that does")
        scores.append(outputs.anomaly_score)
        maps += list(outputs.anomaly_map)
    sizes = [(info.height, info.width) for info in images.infos()]
    maps = [resize_map(values, *size) for values, size in zip(maps, sizes, strict=True)]
    flagged = detector.decision_.labels(np.concatenate(scores)).astype(bool)
    return Judged(name, maps, flagged, detector.map_threshold)


def sheet(images: ImageSet, judged: Sequence[Judged]) -> Figure:
    """A block of defective and one of good images; in each, the images and below them each detector's maps."""
    blocks = [np.flatnonzero(images.labels == label) for label in (1, 0)]
    cells = [cell_size((info.height, info.width), SIDE) for info in images.infos()]
    step = max(max(cell[0] for cell in cells), 0.85) + GAP
    heights = [max(cells[i][1] for i in block) for block in blocks]
    tall = [0.3 + LINE + height + 2 * GAP + len(judged) * (height + LINE + GAP) for height in heights]
    width = LABEL + max(len(block) for block in blocks) * step + 2 * MARGIN
    page = Canvas(width, 2 * MARGIN + sum(tall) + 0.6)
    top = MARGIN
    for title, block, height, used in zip(("defective", "good"), blocks, heights, tall, strict=True):
        page.text(MARGIN, top, f"{title} test images (✗ wrongly judged)", size=HEADING, weight="bold")
        rows(page, images, judged, block, cells, (top + 0.3, height, step))
        top += used
    page.text(MARGIN, top + 0.06, "scale", size=SMALL, color=MUTED)
    page.picture(MARGIN + LABEL, top + 0.08, (SCALE, 0.09), heatmaps.colour_scale(300, 18) / 255)
    for share, text in ((0.0, "0"), (0.5, "level"), (1.0, "2×")):
        page.text(MARGIN + LABEL + share * SCALE, top + 0.2, text, size=SMALL, ha="center", color=INK)
    note = "The level: what a map's largest value stays at or below on all but 1% of good images. Outlined: above it."
    page.text(MARGIN + LABEL + SCALE + 3 * GAP, top + 0.06, note, size=SMALL, color=MUTED)
    return page.figure


def rows(
    page: Canvas,
    images: ImageSet,
    judged: Sequence[Judged],
    block: npt.NDArray[np.intp],
    cells: Sequence[tuple[float, float]],
    place: tuple[float, float, float],
) -> None:
    """One block: a column an image; its kind and picture with the mask's outline, then a map and verdict a detector."""
    top, height, step = place
    for column, i in enumerate(block):
        left, cell = MARGIN + LABEL + column * step, cells[i]
        image, mask = images.image(i), images.mask(i)
        page.text(left, top, images.kinds[i], step - GAP, SMALL)
        peak = 255 if image.dtype == np.uint8 else 65535
        drawn = page.picture(left, top + LINE, cell, image / peak)
        if mask is not None:
            outline(drawn.axes, mask, image.shape)
        below = top + LINE + height + 2 * GAP
        for each in judged:
            page.picture(left, below, cell, heatmaps.overlay(image, each.maps[i], each.level, peak) / 255)
            verdict(page, left, below + cell[1] + 0.03, bool(each.flagged[i]), bool(images.labels[i]))
            below += height + LINE + GAP
    page.text(MARGIN, top + LINE + height / 2, "image", va="center", color=MUTED)
    for row, each in enumerate(judged):
        middle = top + LINE + height + 2 * GAP + row * (height + LINE + GAP) + height / 2
        page.text(MARGIN, middle, each.name, LABEL - GAP, va="center", color=MUTED)


def verdict(page: Canvas, left: float, top: float, flagged: bool, defective: bool) -> None:
    """The verdict in a sign and a word, and whether it is wrong."""
    word, colour = ("▲ anomaly", ANOMALY) if flagged else ("● normal", NORMAL)
    page.text(left, top, word + " ✗" * (flagged != defective), size=SMALL, color=colour, weight="bold")
