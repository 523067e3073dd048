"""Synthetic defects with masks, made from normal images alone: for training, and for choosing detectors.

Nothing here knows a particular product. A defect is a shape (a blob, a thin scar, a few corners, a curve, a ragged
field) filled with something: a piece of another normal image, other light, other focus, a tone, a stain. Lengths are
shares of the image's longer side. The idea of cutting defects out of normal images is from Li et al., "CutPaste",
CVPR 2021, and Schlüter et al., "Natural synthetic anomalies", ECCV 2022; the segmenting of them from Zavrtanik et
al., "DRAEM", ICCV 2021.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from oddlens.data.image_io import Pixels
from oddlens.errors import DataError

SIZES = (0.04, 1.2)  # lengths of defects
MAX_TRIES = 6  # shapes and fillings tried for one defect before one that cannot fail
SUPERSAMPLING = 4  # how much finer shapes are drawn than the image is
MIN_OPACITY = 0.3  # opacity from which on a pixel belongs to the defect

Field = npt.NDArray[np.float32]  # (h, w), or (h, w, C) for what has colours
Masks = npt.NDArray[np.bool_]  # (N, H, W)
Rng = np.random.Generator


class _Scene(NamedTuple):
    """Where a defect goes, and what it is made from."""

    host: Field  # (H, W, C) the image that gets the defect
    donor: Field  # (H, W, C) a normal image, maybe the same
    box: tuple[slice, slice]  # the window of the defect, h x w
    full: float  # the value range's end
    spread: float  # standard deviation of the host's values, at least a fiftieth of the range

    @property
    def window(self) -> Field:
        """The host's pixels (h, w, C) in the window."""
        return self.host[self.box]


def add_defects(
    pixels: Pixels, seed: int, value_max: int, sizes: tuple[float, float] = SIZES, most: int = 3
) -> tuple[Pixels, Masks]:
    """Damage every image of (N, H, W, C), values 0..value_max; gives the images and their masks (N, H, W).

    Each image gets 1 to `most` defects, whose lengths are between the `sizes`. A mask is never empty, and marks where
    a defect changes the picture by more than its grain. The same seed gives the same images.

    Raises:
        DataError: there are no images.
    """
    if len(pixels) == 0:
        raise DataError("there are no images to make synthetic defects from; give at least one")
    rng = np.random.default_rng(seed)
    changed, masks = pixels.copy(), np.zeros(pixels.shape[:3], dtype=bool)
    for i in range(len(pixels)):
        for _ in range(min(most, int(rng.geometric(0.6)))):
            donor = pixels[int(rng.integers(len(pixels)))]
            damaged, mask = _damaged(changed[i].astype(np.float32), donor.astype(np.float32), value_max, sizes, rng)
            changed[i], masks[i] = damaged.astype(pixels.dtype), masks[i] | mask
    return changed, masks


def _damaged(
    host: Field, donor: Field, value_max: int, sizes: tuple[float, float], rng: Rng
) -> tuple[Field, npt.NDArray[np.bool_]]:
    """One defect put into a host (H, W, C); gives it, in whole numbers, and the defect's mask (H, W)."""
    spread = max(float(host.std()), value_max / 50)
    for trial in range(MAX_TRIES):
        box, opacity, line = _shape(host.shape[:2], sizes, rng)
        scene = _Scene(host, donor, box, float(value_max), spread)
        # the last one cannot fail: a solid tone on the far side of the range
        certain = trial == MAX_TRIES - 1
        if certain:
            opacity = opacity / opacity.max() if opacity.max() > 0 else opacity + 1
        filling = _far_tone(scene) if certain else FILLINGS[_pick(line, rng)](scene, rng)
        strength = 1.0 if certain else 0.35 + 0.65 * rng.random()
        mixed = scene.window + (strength * opacity)[..., None] * (filling - scene.window)
        mixed = np.clip(np.rint(mixed), 0, value_max)
        solid = opacity > min(MIN_OPACITY, 0.9 * float(opacity.max()))
        change = blurred(np.abs(mixed - scene.window).max(axis=2, keepdims=True), 1)[..., 0]
        seen = solid & (change > max(0.006 * value_max, 0.5 * _grain(scene.window)))
        if certain or seen.sum() > 0.5 * solid.sum() > 0:
            break
    damaged, mask = host.copy(), np.zeros(host.shape[:2], dtype=bool)
    damaged[box], mask[box] = mixed, seen
    return damaged, mask


def _grain(window: Field) -> float:
    """The mean distance of pixels from their neighbourhood's mean: what is no defect yet."""
    return float(np.abs(window - blurred(window, 1)).mean())


# -- shapes -------------------------------------------------------------------------------------------


def _shape(size: tuple[int, ...], sizes: tuple[float, float], rng: Rng) -> tuple[tuple[slice, slice], Field, bool]:
    """A window of an image (H, W), the opacity (h, w) of a shape in it, 0..1, and whether that is a line.

    A shape may stick out of the image.
    """
    height, width = size
    side = max(height, width)
    half = 0.5 * side * float(np.exp(rng.uniform(*np.log(sizes))))  # from the centre to the farthest point
    half = max(half, 1.0)
    line = rng.random() < 0.25
    points = _curve(rng) if line else _outline(rng)
    points = half * points / np.abs(points).max()
    thick = float(np.exp(rng.uniform(np.log(0.8), np.log(3.5)))) * max(1.0, side / 160)
    soft = 0.35 * thick if line else float(np.exp(rng.uniform(np.log(0.3), np.log(max(0.31, 0.25 * half)))))
    centre = rng.uniform(0, 1, 2) * (height, width)
    if rng.random() < 0.2:  # at an edge, where parts break
        axis = int(rng.integers(2))
        centre[axis] = size[axis] * int(rng.integers(2))
    margin = 2 + 2 * soft + (thick if line else 0)
    low = np.floor(np.clip(centre + points.min(axis=0) - margin, 0, np.array(size) - 2)).astype(int)
    high = np.ceil(np.clip(centre + points.max(axis=0) + margin, low + 2, size)).astype(int)
    opacity = _drawn(points + centre - low, high - low, thick if line else None, soft)
    if not line and rng.random() < 0.2:  # ragged: only where a smooth field is high
        ragged = _noise((int(high[0] - low[0]), int(high[1] - low[1])), int(rng.integers(3, 9)), rng)
        opacity = opacity * np.clip(0.5 + 4 * ragged, 0, 1)
    return (slice(low[0], high[0]), slice(low[1], high[1])), opacity, line


def _outline(rng: Rng) -> Field:
    """A closed line about the origin, (P, 2): a smooth blob or a few corners, drawn out one way."""
    if rng.random() < 0.3:
        turn = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 8))))
        radius = rng.uniform(0.6, 1, len(turn))
    else:
        turn = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        waves = np.arange(2, 7)
        size, phase = rng.normal(0, 0.35, 5) / waves, rng.uniform(0, 2 * np.pi, 5)
        radius = np.exp((size * np.cos(turn[:, None] * waves + phase)).sum(axis=1))
    points = np.stack([np.sin(turn), np.cos(turn)], axis=1) * radius[:, None]
    points[:, 0] *= np.exp(rng.uniform(-2, 0))
    angle = rng.uniform(0, np.pi) if rng.random() < 0.6 else np.pi / 2 * rng.integers(2)
    return np.asarray(points @ _rotation(float(angle)), dtype=np.float32)


def _curve(rng: Rng) -> Field:
    """An open line about the origin, (P, 2), that wanders off its direction."""
    bend = float(np.exp(rng.uniform(np.log(0.02), np.log(0.5))))
    heading = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, bend, 20))
    points = np.cumsum(np.stack([np.sin(heading), np.cos(heading)], axis=1), axis=0)
    return np.asarray(points - (points.max(axis=0) + points.min(axis=0)) / 2, dtype=np.float32)


def _drawn(points: Field, size: npt.NDArray[np.int_], thick: float | None, soft: float) -> Field:
    """Draw a closed outline, or a line so thick, into a window of that size: opacity (h, w) in 0..1."""
    height, width = int(size[0]), int(size[1])
    canvas = Image.new("L", (SUPERSAMPLING * width, SUPERSAMPLING * height))
    corners = [(SUPERSAMPLING * float(x), SUPERSAMPLING * float(y)) for y, x in points]
    draw = ImageDraw.Draw(canvas)
    if thick is None:
        draw.polygon(corners, fill=255)
    else:
        draw.line(corners, fill=255, width=max(1, round(SUPERSAMPLING * thick)), joint="curve")
    small = canvas.reduce(SUPERSAMPLING).filter(ImageFilter.GaussianBlur(soft))
    return np.asarray(small, dtype=np.float32) / np.float32(255)


def _rotation(angle: float) -> npt.NDArray[np.float64]:
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


# -- fillings: (h, w, C) for a scene's window ----------------------------------------------------------


def _patch(scene: _Scene, rng: Rng) -> Field:
    """A piece of a normal image from elsewhere, maybe turned and resized; often fitted to the light around it."""
    rows, columns = scene.box
    height, width = scene.host.shape[:2]
    y, x = np.mgrid[rows, columns].astype(np.float32)
    y, x = y - (rows.start + rows.stop) / 2, x - (columns.start + columns.stop) / 2
    if rng.random() < 0.5:
        scale = float(np.exp(rng.uniform(-0.7, 0.7)))
        turn = scale * _rotation(float(rng.uniform(0, 2 * np.pi)))
        y, x = turn[0, 0] * y + turn[0, 1] * x, turn[1, 0] * y + turn[1, 1] * x
    shift = rng.integers(0, (height, width))
    piece = _sampled(scene.donor, y + np.float32(shift[0]), x + np.float32(shift[1]))
    fit = rng.random()
    if fit < 0.4:  # its own light
        return piece
    if fit < 0.7:  # the window's mean light
        return np.asarray(piece + (scene.window.mean(axis=(0, 1)) - piece.mean(axis=(0, 1))))
    reach = max(1, round(0.15 * max(piece.shape[:2])))  # the light of each place: only its texture is foreign
    return np.asarray(blurred(scene.window, reach) + piece - blurred(piece, reach))


def _light(scene: _Scene, rng: Rng) -> Field:
    """Brighter or darker, with more or less contrast."""
    mean = scene.window.mean(axis=(0, 1))
    contrast = float(np.exp(rng.uniform(-0.7, 0.7)))
    return np.asarray(mean + contrast * (scene.window - mean) + scene.spread * _signed(rng, 0.4, 4), dtype=np.float32)


def _focus(scene: _Scene, rng: Rng) -> Field:
    """Blurred or sharpened."""
    smooth = blurred(scene.window, int(rng.integers(1, 4)))
    amount = 0.3 * rng.random() if rng.random() < 0.5 else rng.uniform(2, 4)
    return np.asarray(smooth + np.float32(amount) * (scene.window - smooth))


def _tone(scene: _Scene, rng: Rng) -> Field:
    """One tone, through which little of what was there shows."""
    mean = scene.window.mean(axis=(0, 1))
    level = np.clip(mean + scene.spread * _signed(rng, 1, 8), 0, scene.full)
    return np.asarray(level + rng.uniform(0, 0.4) * (scene.window - mean), dtype=np.float32)


def _stain(scene: _Scene, rng: Rng) -> Field:
    """Uneven light: what was there times a smooth random field."""
    height, width = scene.window.shape[:2]
    field = _noise((height, width), int(rng.integers(2, 7)), rng)[..., None]
    return np.asarray(scene.window * np.exp(_signed(rng, 0.1, 0.5) + 0.5 * field), dtype=np.float32)


def _far_tone(scene: _Scene) -> Field:
    """Black for bright values, white for dark ones: what changes every picture."""
    return np.where(scene.window > scene.full / 2, np.float32(0), np.float32(scene.full))


FILLINGS: Mapping[str, Callable[[_Scene, Rng], Field]] = {
    "patch": _patch,
    "light": _light,
    "focus": _focus,
    "tone": _tone,
    "stain": _stain,
}
SHARES = {"patch": 0.4, "light": 0.15, "focus": 0.1, "tone": 0.25, "stain": 0.1}
LINE_SHARES = {"tone": 0.7, "light": 0.3}  # the others do not show in a line so thin


def _pick(line: bool, rng: Rng) -> str:
    shares = LINE_SHARES if line else SHARES
    return str(rng.choice(list(shares), p=list(shares.values())))


# -- small tools --------------------------------------------------------------------------------------


def blurred(image: Field, reach: int) -> Field:
    """The mean of the square of 2 reach + 1 pixels around each pixel of (h, w, C); edges are repeated."""
    window = 2 * reach + 1
    for _ in range(2):  # downwards, then to the right
        side = len(image)
        places = np.clip(np.arange(-reach - 1, side + reach), 0, side - 1)
        running = image[places].cumsum(axis=0, dtype=np.float64)
        image = ((running[window:] - running[:side]) / window).astype(np.float32).swapaxes(0, 1)
    return image


def _signed(rng: Rng, low: float, high: float) -> float:
    """A size between two, small ones as often as large ones, of either sign."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))) * (1 if rng.random() < 0.5 else -1))


def _noise(size: tuple[int, int], cells: int, rng: Rng) -> Field:
    """A smooth random field (h, w), about -0.5..0.5, with so many hills a side."""
    coarse = Image.fromarray(rng.uniform(-0.5, 0.5, (cells, cells)).astype(np.float32))
    return np.asarray(coarse.resize((size[1], size[0]), Image.Resampling.BICUBIC))


def _sampled(image: Field, y: Field, x: Field) -> Field:
    """The image (H, W, C) at places (h, w), bilinear; beyond its edges it goes on mirrored."""
    corners, shares = [], []
    for place, side in ((y, image.shape[0]), (x, image.shape[1])):
        turn = 2 * (side - 1)
        inside = (side - 1) - np.abs(place % turn - (side - 1))
        first = np.minimum(inside.astype(np.intp), side - 2)
        corners.append(first)
        shares.append((inside - first)[..., None])
    (i, j), (down, right) = corners, shares
    upper = image[i, j] * (1 - right) + image[i, j + 1] * right
    lower = image[i + 1, j] * (1 - right) + image[i + 1, j + 1] * right
    return np.asarray(upper * (1 - down) + lower * down, dtype=np.float32)
