"""Corrupted images and unseen patterns for testing detectors; their definitions never change.

For evaluation only: a detector trained on them, or selected with them, would be tested on what it was fitted to.
Lengths refer to 28 x 28 images and scale with each side. Every image draws equally many random numbers, one image after
the other, so the first images of a longer set equal those of a shorter one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise, permutations
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from oddlens.config.base import InputSpec
from oddlens.data import preprocessing
from oddlens.data.image_io import Pixels
from oddlens.errors import SettingsError

PATTERNS = ("glyphs", "uniform_noise")

Image: TypeAlias = npt.NDArray[Any]  # (H, W, C), whole numbers of any type
Field: TypeAlias = npt.NDArray[np.float64]

# Strokes between the nine points 012/345/678 of a square: letters and signs, none of them a digit or a rotated digit.
_GLYPHS = (
    "618 35",  # A
    "2068 34",  # E
    "206 34",  # F
    "06 28 35",  # H
    "06 238",  # K
    "60428",  # M
    "06482",  # W
    "08 26",  # X
    "04 24 47",  # Y
    "17 35",  # plus
    "08 26 17 35",  # star
    "1681",  # triangle
    "17 315",  # arrow
    "02860 08 26",  # crossed box
)
# The permutations of four quadrants that leave none in its place.
_DERANGEMENTS = tuple(order for order in permutations(range(4)) if all(order[i] != i for i in range(4)))


class Distortion(NamedTuple):
    """A distortion: its description, and a function of (image, value_max, random bits)."""

    description: str
    apply: Callable[[Image, int, np.random.PCG64], Image]


def distort(kind: str, pixels: Pixels, value_max: int, seed: int) -> Pixels:
    """Distort every image of (N, H, W, C) `pixels`, sides of at least 4, values 0..value_max; same shape and type.

    Raises:
        SettingsError: `kind` is not one of `DISTORTIONS`.
    """
    apply = DISTORTIONS[_require_kind(kind, DISTORTIONS, "a distortion")].apply
    bits, distorted = np.random.PCG64(seed), np.empty_like(pixels)
    for i, image in enumerate(pixels):
        distorted[i] = apply(image, value_max, bits)
    return distorted


def draw_pattern(kind: str, count: int, spec: InputSpec, seed: int) -> Pixels:
    """Draw images of an unseen pattern, (count, H, W, C) of the spec's type.

    "glyphs" are bold letters and signs, bright on black; "uniform_noise" draws every value with equal probability.

    Raises:
        SettingsError: `kind` is not one of `PATTERNS`.
    """
    _require_kind(kind, PATTERNS, "a pattern")
    bits, drawn = np.random.PCG64(seed), np.empty((count, spec.height, spec.width, spec.channels), spec.dtype)
    for i in range(count):
        if kind == "glyphs":
            drawn[i] = np.rint(_glyph(spec.height, spec.width, bits) * spec.value_max)[..., None]
        else:
            drawn[i] = np.floor(_uniform(bits, *drawn.shape[1:]) * (spec.value_max + 1))
    return drawn


def fit_foreign(pixels: Pixels, spec: InputSpec) -> Pixels:
    """Convert images of another data set, (N, h, w, C) of any size and bit depth, to the spec: (N, H, W, C).

    Their full scale (255, or 4095 or 65535 depending on their largest value) becomes the spec's value_max; size and
    channels are converted like those of a detector's own images.
    """
    full_scale = preprocessing.value_max(int(pixels.max(initial=0)), 8 * pixels.dtype.itemsize)
    converted = np.empty((len(pixels), spec.height, spec.width, spec.channels), spec.dtype)
    for i, image in enumerate(pixels):
        if full_scale != spec.value_max:
            image = np.rint(image * (spec.value_max / full_scale)).astype(spec.dtype)
        converted[i] = preprocessing.fit_to(image, spec, f"foreign {i}")
    return converted


def describe(kind: str) -> str:
    """Describe a distortion, a pattern or "foreign" in one sentence.

    Raises:
        SettingsError: `kind` is none of them.

    >>> describe("dimmed")
    'All values are halved, rounding down.'
    """
    return _DESCRIPTIONS[_require_kind(kind, _DESCRIPTIONS, "an evaluation corruption")]


def _require_kind(kind: str, kinds: Mapping[str, object] | tuple[str, ...], what: str) -> str:
    if kind not in kinds:
        raise SettingsError(f"'{kind}' is not {what}; choose one of {', '.join(kinds)}")
    return kind


def _uniform(bits: np.random.PCG64, *shape: int) -> Field:
    """Draw numbers in [0, 1). NumPy may change its distributions, but never the bits of PCG64."""
    raw = np.asarray(bits.random_raw(int(np.prod(shape)))).reshape(shape)
    return np.asarray((raw >> np.uint64(11)) * 2.0**-53)


def _choose(bits: np.random.PCG64, count: int) -> int:
    """Draw an index below `count`."""
    return int(_uniform(bits, 1)[0] * count)


def _noise(image: Image, value_max: int, bits: np.random.PCG64) -> Image:
    radius, angle = _uniform(bits, 2, *image.shape)
    gaussian = np.sqrt(-2 * np.log(1 - radius)) * np.cos(2 * np.pi * angle)  # Box and Muller, 1958
    return np.asarray(np.clip(np.rint(image + 0.2 * value_max * gaussian), 0, value_max))


def _blur(image: Image, value_max: int, bits: np.random.PCG64) -> Image:
    sums, area = image.astype(np.int64), 1
    for _ in range(2):  # along columns, then along rows
        side = len(sums)
        reach = max(1, round(2 * side / 28))
        window = 2 * reach + 1
        index = np.clip(np.arange(-reach - 1, side + reach), 0, side - 1)  # repeats the edge
        running = sums[index].cumsum(axis=0)
        sums, area = (running[window:] - running[:side]).swapaxes(0, 1), area * window
    return np.asarray(np.rint(sums / area))


def _hole(image: Image, value_max: int, bits: np.random.PCG64) -> Image:
    """Fill a block with background where that changes at least 5% of the pixels, or else as many as possible.

    Background is the border's median: a dark image gets a dark hole and a bright one a bright hole.
    """
    height, width = (round(8 * side / 28) for side in image.shape[:2])
    border = np.concatenate([image[0], image[-1], image[1:-1, 0], image[1:-1, -1]])
    background = np.sort(border, axis=0)[len(border) // 2]
    sums = np.pad((image != background).any(-1).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    changes = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
    corners = np.argwhere(changes >= min(0.05 * image[..., 0].size, changes.max()))
    top, left = corners[_choose(bits, len(corners))]
    holed = image.copy()
    holed[top : top + height, left : left + width] = background
    return holed


def _rotate_quarter(image: Image, value_max: int, bits: np.random.PCG64) -> Image:
    """Rotate by 90 degrees counterclockwise; an image that is not square is stretched to its original shape."""
    rotated = np.rot90(image)
    if rotated.shape == image.shape:
        return rotated
    height, width, channels = image.shape
    depth = 255 if image.dtype == np.uint8 else 65535
    spec = {"height": height, "width": width, "channels": channels, "value_max": depth}
    return preprocessing.fit_to(rotated, InputSpec.model_validate(spec), "quarter turn")


def _shuffled_quadrants(image: Image, value_max: int, bits: np.random.PCG64) -> Image:
    """Permute the quadrants; the middle line of a side of uneven length stays."""
    height, width = image.shape[0] // 2, image.shape[1] // 2
    upper, lower, left, right = slice(height), slice(-height, None), slice(width), slice(-width, None)
    quadrants = ((upper, left), (upper, right), (lower, left), (lower, right))
    shuffled = image.copy()
    for target, source in zip(quadrants, _DERANGEMENTS[_choose(bits, len(_DERANGEMENTS))], strict=True):
        shuffled[target] = image[quadrants[source]]
    return shuffled


def _glyph(height: int, width: int, bits: np.random.PCG64) -> Field:
    """Draw a bold letter or sign, (height, width) in 0..1, from each pixel's distance to the nearest stroke."""
    strokes = _GLYPHS[_choose(bits, len(_GLYPHS))].split()
    grid = np.stack(np.divmod(np.arange(9), 3), axis=-1) - 1.0  # (9, 2): down, right
    grid += 0.3 * _uniform(bits, 9, 2) - 0.15
    angle, thickness, tall, wide = _uniform(bits, 4)
    cos, sin = np.cos(0.5 * angle - 0.25), np.sin(0.5 * angle - 0.25)
    down, right = cos * grid[:, 0] - sin * grid[:, 1], sin * grid[:, 0] + cos * grid[:, 1]
    points = np.stack([(0.5 + (0.22 + 0.05 * tall) * down) * height, (0.5 + (0.22 + 0.05 * wide) * right) * width])
    starts, ends = np.array([(int(a), int(b)) for stroke in strokes for a, b in pairwise(stroke)]).T
    distance = _distances(height, width, points[:, starts], points[:, ends]).min(axis=0)
    return np.asarray(np.clip((0.05 + 0.03 * thickness) * min(height, width) - distance + 0.5, 0, 1))


def _distances(height: int, width: int, start: Field, end: Field) -> Field:
    """(S, height, width) distances of pixel centres to S straight strokes, whose ends are (2, S)."""
    (top, left), (tall, wide) = start[..., None, None], (end - start)[..., None, None]
    y, x = np.arange(height)[:, None] + 0.5 - top, np.arange(width) + 0.5 - left
    nearest = np.clip((y * tall + x * wide) / (tall * tall + wide * wide), 0, 1)  # as a fraction of the stroke
    return np.asarray(np.hypot(y - nearest * tall, x - nearest * wide))


DISTORTIONS: Mapping[str, Distortion] = {
    "noise": Distortion("Gaussian noise is added, with a standard deviation of a fifth of the value range.", _noise),
    "blur": Distortion("Each value becomes the mean of the 5 x 5 pixels around it (in a 28 x 28 image).", _blur),
    "hole": Distortion("A block of 8 x 8 pixels (in a 28 x 28 image) becomes background.", _hole),
    "quarter_turn": Distortion("The image is rotated by 90 degrees counterclockwise.", _rotate_quarter),
    "upside_down": Distortion("The image is flipped top to bottom.", lambda image, value_max, bits: image[::-1]),
    "inversion": Distortion(
        "Dark and bright are swapped.", lambda image, value_max, bits: value_max - np.minimum(image, value_max)
    ),
    "shuffled_quadrants": Distortion(
        "The four quadrants are shuffled so that none keeps its place.", _shuffled_quadrants
    ),
    "dimmed": Distortion("All values are halved, rounding down.", lambda image, value_max, bits: image // 2),
    "blank": Distortion("All values become zero.", lambda image, value_max, bits: np.zeros_like(image)),
}
_DESCRIPTIONS = {kind: distortion.description for kind, distortion in DISTORTIONS.items()} | {
    "glyphs": "Bold letters and signs, none of them a digit, bright on black.",
    "uniform_noise": "Every pixel is drawn uniformly from the value range.",
    "foreign": "Images of another data set, converted to the same size and channels.",
}
