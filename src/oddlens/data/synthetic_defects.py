"""Synthetic defects with masks, generated from normal images alone, for training and for selecting detectors.

Nothing here is specific to a product. A defect is a shape (a blob, a thin scar, a polygon, a curve, a ragged field)
with a filling: a patch of another normal image, a change of brightness or focus, a uniform tone, a stain. Lengths are
fractions of the image's longer side. Pasting patches of normal images is from Li et al., "CutPaste", CVPR 2021, and
Schlüter et al., "Natural synthetic anomalies", ECCV 2022; segmenting synthetic defects is from Zavrtanik et al.,
"DRAEM", ICCV 2021.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from oddlens.data.image_io import Pixels
from oddlens.errors import DataError

DEFECT_SIZES = (0.04, 1.2)  # range of the lengths of defects
MAX_TRIES = 6  # attempts for one defect; the last one cannot fail
SUPERSAMPLING = 4  # shapes are drawn at this many times the resolution of the image
MIN_OPACITY = 0.3  # opacity above which a pixel belongs to the defect

Field = npt.NDArray[np.float32]  # (h, w), or (h, w, C) with channels
Masks = npt.NDArray[np.bool_]  # (N, H, W)
Rng = np.random.Generator


class _Scene(NamedTuple):
    """The position of a defect and the images it is generated from."""

    host: Field  # (H, W, C) the image that the defect is added to
    donor: Field  # (H, W, C) a normal image, possibly the same one
    box: tuple[slice, slice]  # the window of the defect, h x w
    full: float  # end of the value range
    spread: float  # standard deviation of the host's values, at least a fiftieth of the range

    @property
    def window(self) -> Field:
        """The pixels (h, w, C) of the host in the window."""
        return self.host[self.box]


def add_defects(
    pixels: Pixels, seed: int, value_max: int, sizes: tuple[float, float] = DEFECT_SIZES, max_defects: int = 3
) -> tuple[Pixels, Masks]:
    """Add defects to all images (N, H, W, C), values in 0..value_max; returns the images and the masks (N, H, W).

    Each image gets 1 to `max_defects` defects with lengths in the range `sizes`. A mask is never empty, and marks the
    pixels that a defect changes by more than the image's grain. The same seed gives the same images.

    Raises:
        DataError: there are no images.
    """
    if len(pixels) == 0:
        raise DataError("there are no images to add synthetic defects to; pass at least one")
    rng = np.random.default_rng(seed)
    images, masks = pixels.copy(), np.zeros(pixels.shape[:3], dtype=bool)
    for i in range(len(pixels)):
        for _ in range(min(max_defects, int(rng.geometric(0.6)))):
            donor = pixels[int(rng.integers(len(pixels)))]
            damaged, mask = _add_defect(images[i].astype(np.float32), donor.astype(np.float32), value_max, sizes, rng)
            images[i], masks[i] = damaged.astype(pixels.dtype), masks[i] | mask
    return images, masks


def _add_defect(
    host: Field, donor: Field, value_max: int, sizes: tuple[float, float], rng: Rng
) -> tuple[Field, npt.NDArray[np.bool_]]:
    """Add one defect to a host (H, W, C); returns the image, in whole numbers, and the mask (H, W)."""
    spread = max(float(host.std()), value_max / 50)
    for trial in range(MAX_TRIES):
        box, opacity, line = _shape(host.shape[:2], sizes, rng)
        scene = _Scene(host, donor, box, float(value_max), spread)
        # the last attempt cannot fail: an opaque tone at the far end of the value range
        is_last = trial == MAX_TRIES - 1
        if is_last:
            opacity = opacity / opacity.max() if opacity.max() > 0 else opacity + 1
        filling = _opposite_tone(scene) if is_last else FILLINGS[_draw_filling(line, rng)](scene, rng)
        strength = 1.0 if is_last else 0.35 + 0.65 * rng.random()
        mixed = scene.window + (strength * opacity)[..., None] * (filling - scene.window)
        mixed = np.clip(np.rint(mixed), 0, value_max)
        solid = opacity > min(MIN_OPACITY, 0.9 * float(opacity.max()))
        change = box_blur(np.abs(mixed - scene.window).max(axis=2, keepdims=True), 1)[..., 0]
        visible = solid & (change > max(0.006 * value_max, 0.5 * _grain(scene.window)))
        if is_last or visible.sum() > 0.5 * solid.sum() > 0:
            break
    damaged, mask = host.copy(), np.zeros(host.shape[:2], dtype=bool)
    damaged[box], mask[box] = mixed, visible
    return damaged, mask


def _grain(window: Field) -> float:
    """The mean absolute difference between pixels and the mean of their neighbourhoods."""
    return float(np.abs(window - box_blur(window, 1)).mean())


# -- shapes -------------------------------------------------------------------------------------------


def _shape(size: tuple[int, ...], sizes: tuple[float, float], rng: Rng) -> tuple[tuple[slice, slice], Field, bool]:
    """Draw a shape: its window in an image (H, W), its opacity (h, w) in 0..1, and whether it is a line.

    A shape may extend beyond the image.
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
    if rng.random() < 0.2:  # centred on an edge of the image, where parts break
        axis = int(rng.integers(2))
        centre[axis] = size[axis] * int(rng.integers(2))
    margin = 2 + 2 * soft + (thick if line else 0)
    low = np.floor(np.clip(centre + points.min(axis=0) - margin, 0, np.array(size) - 2)).astype(int)
    high = np.ceil(np.clip(centre + points.max(axis=0) + margin, low + 2, size)).astype(int)
    opacity = _render(points + centre - low, high - low, thick if line else None, soft)
    if not line and rng.random() < 0.2:  # ragged: only where a smooth random field is high
        noise = _noise((int(high[0] - low[0]), int(high[1] - low[1])), int(rng.integers(3, 9)), rng)
        opacity = opacity * np.clip(0.5 + 4 * noise, 0, 1)
    return (slice(low[0], high[0]), slice(low[1], high[1])), opacity, line


def _outline(rng: Rng) -> Field:
    """A closed curve around the origin, (P, 2): a smooth blob or a polygon, stretched along one axis."""
    if rng.random() < 0.3:
        angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 8))))
        radius = rng.uniform(0.6, 1, len(angles))
    else:
        angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        waves = np.arange(2, 7)
        size, phase = rng.normal(0, 0.35, 5) / waves, rng.uniform(0, 2 * np.pi, 5)
        radius = np.exp((size * np.cos(angles[:, None] * waves + phase)).sum(axis=1))
    points = np.stack([np.sin(angles), np.cos(angles)], axis=1) * radius[:, None]
    points[:, 0] *= np.exp(rng.uniform(-2, 0))
    angle = rng.uniform(0, np.pi) if rng.random() < 0.6 else np.pi / 2 * rng.integers(2)
    return np.asarray(points @ _rotation(float(angle)), dtype=np.float32)


def _curve(rng: Rng) -> Field:
    """An open curve around the origin, (P, 2): a random walk of the direction."""
    bend = float(np.exp(rng.uniform(np.log(0.02), np.log(0.5))))
    heading = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, bend, 20))
    points = np.cumsum(np.stack([np.sin(heading), np.cos(heading)], axis=1), axis=0)
    return np.asarray(points - (points.max(axis=0) + points.min(axis=0)) / 2, dtype=np.float32)


def _render(points: Field, size: npt.NDArray[np.int_], thick: float | None, soft: float) -> Field:
    """Render a closed outline, or a line of the given thickness, to an opacity (h, w) in 0..1 for a window."""
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


# -- fillings: (h, w, C) for the window of a scene ------------------------------------------------------


def _patch(scene: _Scene, rng: Rng) -> Field:
    """A patch from another position, sometimes rotated and scaled, and often matched to the local brightness."""
    rows, columns = scene.box
    height, width = scene.host.shape[:2]
    y, x = np.mgrid[rows, columns].astype(np.float32)
    y, x = y - (rows.start + rows.stop) / 2, x - (columns.start + columns.stop) / 2
    if rng.random() < 0.5:
        scale = float(np.exp(rng.uniform(-0.7, 0.7)))
        matrix = scale * _rotation(float(rng.uniform(0, 2 * np.pi)))
        y, x = matrix[0, 0] * y + matrix[0, 1] * x, matrix[1, 0] * y + matrix[1, 1] * x
    shift = rng.integers(0, (height, width))
    patch = _sample_bilinear(scene.donor, y + np.float32(shift[0]), x + np.float32(shift[1]))
    choice = rng.random()
    if choice < 0.4:  # the patch's own brightness
        return patch
    if choice < 0.7:  # the mean brightness of the window
        return np.asarray(patch + (scene.window.mean(axis=(0, 1)) - patch.mean(axis=(0, 1))))
    radius = max(1, round(0.15 * max(patch.shape[:2])))  # the local brightness of the window: only the texture differs
    return np.asarray(box_blur(scene.window, radius) + patch - box_blur(patch, radius))


def _light(scene: _Scene, rng: Rng) -> Field:
    """Brighter, darker or of another colour, with more or less contrast."""
    mean = scene.window.mean(axis=(0, 1))
    contrast = float(np.exp(rng.uniform(-0.7, 0.7)))
    return np.asarray(
        mean + contrast * (scene.window - mean) + scene.spread * _cast(scene, rng, 0.4, 4), dtype=np.float32
    )


def _focus(scene: _Scene, rng: Rng) -> Field:
    """Blurred or sharpened."""
    smooth = box_blur(scene.window, int(rng.integers(1, 4)))
    amount = 0.3 * rng.random() if rng.random() < 0.5 else rng.uniform(2, 4)
    return np.asarray(smooth + np.float32(amount) * (scene.window - smooth))


def _tone(scene: _Scene, rng: Rng) -> Field:
    """A uniform tone, through which at most 40% of the original contrast shows."""
    mean = scene.window.mean(axis=(0, 1))
    level = np.clip(mean + scene.spread * _cast(scene, rng, 1, 8), 0, scene.full)
    return np.asarray(level + rng.uniform(0, 0.4) * (scene.window - mean), dtype=np.float32)


def _stain(scene: _Scene, rng: Rng) -> Field:
    """A stain: the original pixels times a smooth random field."""
    height, width = scene.window.shape[:2]
    field = _noise((height, width), int(rng.integers(2, 7)), rng)[..., None]
    return np.asarray(scene.window * np.exp(_cast(scene, rng, 0.1, 0.5) + 0.5 * field), dtype=np.float32)


def _opposite_tone(scene: _Scene) -> Field:
    """Black for bright values and white for dark ones, which changes any image."""
    return np.where(scene.window > scene.full / 2, np.float32(0), np.float32(scene.full))


FILLINGS: Mapping[str, Callable[[_Scene, Rng], Field]] = {
    "patch": _patch,
    "light": _light,
    "focus": _focus,
    "tone": _tone,
    "stain": _stain,
}
FILLING_PROBABILITIES = {"patch": 0.4, "light": 0.15, "focus": 0.1, "tone": 0.25, "stain": 0.1}
LINE_FILLING_PROBABILITIES = {"tone": 0.7, "light": 0.3}  # other fillings are invisible in a thin line


def _draw_filling(line: bool, rng: Rng) -> str:
    probabilities = LINE_FILLING_PROBABILITIES if line else FILLING_PROBABILITIES
    return str(rng.choice(list(probabilities), p=list(probabilities.values())))


# -- image operations ---------------------------------------------------------------------------------


def box_blur(image: Field, radius: int) -> Field:
    """Average (h, w, C) over the square of 2 radius + 1 pixels around each pixel; edge pixels are repeated."""
    window = 2 * radius + 1
    for _ in range(2):  # along the height, then along the width
        side = len(image)
        rows = np.clip(np.arange(-radius - 1, side + radius), 0, side - 1)
        sums = image[rows].cumsum(axis=0, dtype=np.float64)
        image = ((sums[window:] - sums[:side]) / window).astype(np.float32).swapaxes(0, 1)
    return image


def _signed(rng: Rng, low: float, high: float) -> float:
    """A log-uniform magnitude between `low` and `high` with a random sign."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))) * (1 if rng.random() < 0.5 else -1))


def _cast(scene: _Scene, rng: Rng, low: float, high: float) -> Field | float:
    """A signed magnitude between `low` and `high`; in half of the colour images (C,), another one for each channel."""
    magnitude, channels = _signed(rng, low, high), scene.host.shape[2]
    if channels == 1 or rng.random() < 0.5:
        return magnitude
    direction = rng.normal(size=channels)
    return np.asarray(magnitude * direction / np.abs(direction).max(), dtype=np.float32)


def _noise(size: tuple[int, int], cells: int, rng: Rng) -> Field:
    """A smooth random field (h, w), about -0.5..0.5, interpolated from a grid of `cells` x `cells` values."""
    coarse = Image.fromarray(rng.uniform(-0.5, 0.5, (cells, cells)).astype(np.float32))
    return np.asarray(coarse.resize((size[1], size[0]), Image.Resampling.BICUBIC))


def _sample_bilinear(image: Field, y: Field, x: Field) -> Field:
    """Sample an image (H, W, C) at coordinates (h, w) bilinearly; it is mirrored at its edges."""
    corners, weights = [], []
    for coordinate, side in ((y, image.shape[0]), (x, image.shape[1])):
        period = 2 * (side - 1)
        inside = (side - 1) - np.abs(coordinate % period - (side - 1))
        first = np.minimum(inside.astype(np.intp), side - 2)
        corners.append(first)
        weights.append((inside - first)[..., None])
    (i, j), (down, right) = corners, weights
    upper = image[i, j] * (1 - right) + image[i, j + 1] * right
    lower = image[i + 1, j] * (1 - right) + image[i + 1, j + 1] * right
    return np.asarray(upper * (1 - down) + lower * down, dtype=np.float32)
