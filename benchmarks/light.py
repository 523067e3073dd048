"""What light, small shifts, turns and blur do to a detector: AUROC, and false alarms on images that it did not learn.

    python benchmarks/light.py --set bottle pill --data DIR
    python benchmarks/light.py --set bottle --light fixed --data DIR

The good images are divided into ten parts. Ten detectors are fitted, each on all parts but one, which it scores as it
is and changed; false alarms are pooled. AUROC is against all defects, changed alike. The results of each fit are
cached. Images are changed at the size of the detector's input.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from functools import partial

import numpy as np
from cells import cached_json, code_digest
from lot_test import brightened, folder_parser
from PIL import Image, ImageFilter
from tables import parse, percent, print_table

from oddlens import metrics
from oddlens.config.detectors import AutoSettings
from oddlens.data.image_io import Pixels
from oddlens.data.image_set import concatenate
from oddlens.data.open import open_dataset
from oddlens.detector.detector import Detector

PARTS = 10
SHIFT, TURN, BLUR = 4, 2.0, 1.0  # pixels to the right, degrees, pixels of the Gaussian's radius


def each(change: Callable[[Image.Image], Image.Image]) -> Callable[[Pixels], Pixels]:
    """A change of 8-bit images (N, H, W, C), each channel by itself."""

    def changed(pixels: Pixels) -> Pixels:
        planes = np.moveaxis(pixels, -1, 1).reshape(-1, *pixels.shape[1:3])
        done = np.stack([np.asarray(change(Image.fromarray(plane))) for plane in planes])
        back = np.moveaxis(done.reshape(len(pixels), -1, *pixels.shape[1:3]), 1, -1)
        return np.ascontiguousarray(back, dtype=np.uint8)

    return changed


def shifted(pixels: Pixels) -> Pixels:
    """Images moved to the right; the left edge is repeated."""
    moved: Pixels = np.concatenate([np.repeat(pixels[:, :, :1], SHIFT, axis=2), pixels[:, :, :-SHIFT]], axis=2)
    return moved


def turned(image: Image.Image) -> Image.Image:
    """A plane turned about its centre; its edges are repeated outwards, so that no corner is black."""
    margin = math.ceil(math.radians(TURN) * max(image.size))
    wider = Image.fromarray(np.pad(np.asarray(image), margin, mode="edge"))
    whole = wider.rotate(TURN, Image.Resampling.BILINEAR)
    return whole.crop((margin, margin, margin + image.width, margin + image.height))


CHANGES: dict[str, Callable[[Pixels], Pixels]] = {
    "as they are": lambda pixels: pixels,
    **{f"brightness x{f:g}": partial(brightened, factor=f, value_max=255) for f in (0.85, 0.93, 1.07, 1.15)},
    f"shifted by {SHIFT} px": shifted,
    f"turned by {TURN:g} degrees": each(turned),
    f"blurred, radius {BLUR:g} px": each(lambda image: image.filter(ImageFilter.GaussianBlur(BLUR))),
}


def results_of_fit(source: str, settings: AutoSettings, part: int) -> dict[str, list[float]]:
    """AUROC, false alarms, tested images and guaranteed rate of each change, for a fit without one part."""
    data = open_dataset(source)
    good = concatenate([data.train, data.test.subset(data.test.labels == 0)])
    order = np.random.default_rng(0).permutation(len(good))
    tested, learned = np.sort(order[part::PARTS]), np.sort(np.delete(order, np.s_[part::PARTS]))
    detector = Detector(settings).fit(good.subset(learned))
    normal, defects = (
        images.load(detector.spec) for images in (good.subset(tested), data.test.subset(data.test.labels == 1))
    )
    labels, results = np.repeat([0, 1], [len(normal), len(defects)]), {}
    for name, change in CHANGES.items():
        scores = np.concatenate([detector.score(change(pixels)) for pixels in (normal, defects)])
        alarms = float((scores[: len(normal)] > detector.decision_.threshold).sum())
        rate = detector.decisions_.false_alarm_rate
        results[name] = [metrics.auroc(labels, scores), alarms, float(len(normal)), rate]
    return results


def table(name: str, options: argparse.Namespace) -> list[list[str]]:
    """A row for each change; fits are computed first where they are missing."""
    settings, fits = AutoSettings(light=options.light), []
    for part in range(PARTS):
        path = options.cache / f"light-{name}-{options.light}-{part}-{code_digest()}.json"
        fits.append(cached_json(path, partial(results_of_fit, str(options.data / name), settings, part)))
    rows = []
    for change in CHANGES:
        auroc, alarms, tested, rate = np.array([fit[change] for fit in fits]).T
        rows.append(
            [f"{name}, {change}", f"{auroc.mean():.3f}", percent(alarms.sum() / tested.sum()), percent(rate.mean())]
        )
    return rows


def main(words: list[str]) -> int:
    """Print the table."""
    parser = folder_parser(__doc__)
    parser.add_argument("--light", choices=("varies", "fixed"), default="varies", help="of the detector (varies)")
    options = parse(parser, words, needs_data=True)
    rows = (line for name in options.set for line in table(name, options))
    return print_table(("images", "image AUROC", "false alarms", "guaranteed"), rows, [__file__, *words])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
