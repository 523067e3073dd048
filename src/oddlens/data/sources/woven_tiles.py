"""The built-in data set `tiles`: generated images of woven cloth, with five types of defects and exact masks.

Illumination, contrast and the position of the threads vary between images, so that a thumbnail reveals little; the
defects are small and local. None of them is a pasted or blended patch, since detectors are trained to find those.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from oddlens.data.image_io import Pixels

SIDE = 96
N_TRAIN, N_GOOD, N_PER_DEFECT = 500, 200, 40

_PITCH = 6.5  # pixels from thread to thread
_THREADS = 64  # in each direction: more than an image shows; they repeat periodically
_GAP = -0.6  # height of the ground between the threads, whose tops are at 0.45 to 1.55
_TRAIN, _GOOD, _DAMAGED = 0, 1, 2  # an image is generated from (seed, one of these, its index)

Field = npt.NDArray[np.float64]  # (SIDE, SIDE) unless noted otherwise
Mask = npt.NDArray[np.bool_]

_Y, _X = np.mgrid[:SIDE, :SIDE].astype(np.float64)


def load_tiles(seed: int = 0) -> tuple[Pixels, Pixels, tuple[str, ...], Mask]:
    """Generate the data set: training images of good cloth, and a labelled test set.

    Returns training pixels (500, 96, 96, 1) uint8, test pixels (400, 96, 96, 1) uint8, the classes of the test images
    ("good" or the name of the defect) and their masks (400, 96, 96) bool. A mask marks exactly the pixels that the
    defect changed. The same random seed (0 or more) gives the same bytes on every machine.
    """
    kinds = ("good",) * N_GOOD + tuple(kind for kind in DEFECTS for _ in range(N_PER_DEFECT))
    train = [_draw_image(seed, _TRAIN, i)[0] for i in range(N_TRAIN)]
    test = [_draw_image(seed, _GOOD if kind == "good" else _DAMAGED, i, kind) for i, kind in enumerate(kinds)]
    pixels = np.stack([image for image, _ in test])
    return np.stack(train)[..., None], pixels[..., None], kinds, np.stack([mask for _, mask in test])


def _draw_image(seed: int, part: int, index: int, kind: str = "good") -> tuple[npt.NDArray[np.uint8], Mask]:
    """Generate an image and its mask; the cloth, its illumination and its noise do not depend on the class."""
    sampler = _UniformSampler(seed, part, index, 0)
    cloth = _Cloth(sampler)
    whole = cloth.brightness()
    if kind == "good":
        return _expose(whole, sampler), np.zeros((SIDE, SIDE), dtype=bool)
    defective, mask = DEFECTS[kind](cloth, whole, _UniformSampler(seed, part, index, 1))
    good, damaged = _expose(np.stack([whole, np.where(mask, defective, whole)]), sampler)
    # Where a defect leaves a grey level unchanged, it is changed by one level, so that the mask is exact.
    unchanged = mask & (damaged == good)
    damaged[unchanged] = np.where(good < 255, good + 1, 254)[unchanged]
    return damaged, mask


class _UniformSampler:
    """Uniform random numbers from the raw bits of PCG64, whose stream NumPy guarantees never to change."""

    def __init__(self, *key: int) -> None:
        self._bits = np.random.PCG64(key)

    def array(self, low: float, high: float, *shape: int) -> Field:
        """Numbers in low..high, of the given shape."""
        raw = np.asarray(self._bits.random_raw(int(np.prod(shape)))).reshape(shape)
        return np.asarray(low + (high - low) * ((raw >> np.uint64(11)) * 2.0**-53))

    def scalar(self, low: float, high: float) -> float:
        """One number in low..high."""
        return float(self.array(low, high, 1)[0])


class _Cloth:
    """A plain weave seen from above: threads of varying tone and width, slightly wavy."""

    def __init__(self, sampler: _UniformSampler) -> None:
        self._pitch = _PITCH * sampler.scalar(0.97, 1.03)
        self._angle = sampler.scalar(-0.06, 0.06)
        self._start = sampler.array(0, _THREADS / 2, 2)
        self._sway = sampler.array(0, 2 * np.pi, 2)
        # First of the vertical threads, then of the horizontal ones.
        self._tone = sampler.array(-0.08, 0.08, 2, _THREADS)
        self._width = sampler.array(0.88, 1.08, 2, _THREADS)
        self._fibre = sampler.array(-0.12, 0.12, 2, _THREADS * _THREADS)

    def threads(self, y: Field = _Y, x: Field = _X) -> tuple[Field, Field]:
        """The position of each pixel, in threads from left to right and from top to bottom."""
        cos, sin = np.cos(self._angle), np.sin(self._angle)
        u = (cos * x + sin * y) / self._pitch + self._start[0]
        v = (cos * y - sin * x) / self._pitch + self._start[1]
        return u + 0.22 * np.sin(0.35 * v + self._sway[0]), v + 0.22 * np.sin(0.31 * u + self._sway[1])

    def brightness(self, y: Field = _Y, x: Field = _X, missing: Mask | None = None) -> Field:
        """The cloth lit from the left, from about -1 (a gap) to 1; without its vertical threads where `missing`."""
        u, v = self.threads(y, x)
        vertical, vertical_tone = self._thread(0, u, v)
        horizontal, horizontal_tone = self._thread(1, v, u)
        if missing is not None:  # a horizontal thread without support sinks into the shade
            vertical, horizontal_tone = np.where(missing, _GAP, vertical), horizontal_tone - 0.25 * missing
        height = np.maximum(np.maximum(vertical, horizontal), _GAP)
        return 0.55 * (height - 0.8) + np.where(vertical > horizontal, vertical_tone, horizontal_tone)

    def _thread(self, axis: int, across: Field, along: Field) -> tuple[Field, Field]:
        """Height and tone of the vertical (axis 0) or horizontal (1) threads, at positions across and along them."""
        number = np.floor(across)
        n = number.astype(np.intp) % _THREADS
        side = (across - number - 0.5) / self._width[axis][n]  # about -0.5..0.5 from edge to edge
        wave = np.cos(np.pi * along) * (1 - 2 * ((n + axis) % 2))  # alternately over and under
        twine = 3.0 * along + 1.6 * side  # fibres run obliquely across the thread
        fibre = np.floor(twine)
        k = fibre.astype(np.intp)
        first, second = (self._fibre[axis][n * _THREADS + i % _THREADS] for i in (k, k + 1))
        lit = 0.25 * side if axis else -0.25 * side
        tone = self._tone[axis][n] + first + (second - first) * (twine - fibre) + lit + 0.1 * wave
        return 1 - 4 * side * side + 0.55 * wave, tone


def _expose(surface: Field, sampler: _UniformSampler) -> npt.NDArray[np.uint8]:
    """Render one or more surfaces (..., SIDE, SIDE) with the same uneven illumination and the same noise."""
    tilt = sampler.array(-1, 1, 4)
    x, y = _X * (2 / SIDE) - 1, _Y * (2 / SIDE) - 1
    light = 1 + 0.14 * (tilt[0] * x + tilt[1] * y) + 0.08 * tilt[2] * x * y - 0.04 * (1 + tilt[3]) * (x * x + y * y)
    grey = light * (sampler.scalar(100, 145) + sampler.scalar(42, 60) * surface)
    noise = 2 * sampler.array(-1, 1, 3, SIDE, SIDE).sum(axis=0)  # of three uniform numbers: sigma 2
    return np.asarray(np.clip(np.rint(grey + noise), 0, 255).astype(np.uint8))


def _random_offsets(sampler: _UniformSampler, margin: float) -> tuple[Field, Field]:
    """Vertical and horizontal offsets from a random point at least `margin` pixels from the border."""
    top, left = sampler.array(margin, SIDE - margin, 2)
    return _Y - top, _X - left


def _scratch(cloth: _Cloth, whole: Field, sampler: _UniformSampler) -> tuple[Field, Mask]:
    """A thin, bright, slightly bent line across the threads."""
    y, x = _random_offsets(sampler, 22)
    angle, half = sampler.scalar(0, np.pi), sampler.scalar(13, 21)
    along, across = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    across = across - sampler.scalar(-0.008, 0.008) * along**2
    depth = np.clip(1.3 - np.abs(across), 0, 1) * np.clip((half - np.abs(along)) / 4, 0, 1)
    return whole + sampler.scalar(0.7, 1.0) * depth, depth > 0


def _pit(cloth: _Cloth, whole: Field, sampler: _UniformSampler) -> tuple[Field, Mask]:
    """A small round dent: the weave is flattened, one side in the shade and the other in the light."""
    y, x = _random_offsets(sampler, 10)
    radius = sampler.scalar(4.5, 6.5)
    depth = np.clip(1 - (x * x + y * y) / radius**2, 0, 1)
    shade = (x + 0.5 * y) / radius * np.sqrt(depth)
    return whole * (1 - 0.6 * depth) + sampler.scalar(1.2, 1.6) * shade - 0.2 * depth, depth > 0


def _broken_thread(cloth: _Cloth, whole: Field, sampler: _UniformSampler) -> tuple[Field, Mask]:
    """A piece of a vertical thread is missing, two to four threads long."""
    y, x = _random_offsets(sampler, 20)
    u, v = cloth.threads()
    nearest = np.unravel_index(np.argmin(x * x + y * y), x.shape)
    mask = (np.floor(u) == np.floor(u[nearest])) & (np.abs(v - v[nearest]) < sampler.scalar(1.0, 2.0))
    return cloth.brightness(missing=mask), mask


def _stain(cloth: _Cloth, whole: Field, sampler: _UniformSampler) -> tuple[Field, Mask]:
    """A darker spot with an irregular outline, through which the weave is visible."""
    y, x = _random_offsets(sampler, 16)
    angle, radius = np.arctan2(y, x), sampler.scalar(7, 11)
    phase = sampler.array(0, 2 * np.pi, 2)
    edge = radius * (1 + 0.18 * np.cos(2 * angle + phase[0]) + 0.10 * np.cos(3 * angle + phase[1]))
    soaked = np.clip((edge - np.hypot(x, y)) / 3, 0, 1)
    return whole - sampler.scalar(0.45, 0.6) * soaked, soaked > 0


def _twist(cloth: _Cloth, whole: Field, sampler: _UniformSampler) -> tuple[Field, Mask]:
    """The threads twisted into a whirl, most in the middle."""
    y, x = _random_offsets(sampler, 17)
    inside = np.clip(1 - (x * x + y * y) / sampler.scalar(9, 13) ** 2, 0, 1)
    angle = inside * sampler.scalar(0.6, 1.0) * np.sign(sampler.scalar(-1, 1))
    cos, sin = np.cos(angle), np.sin(angle)
    return cloth.brightness(_Y - y + cos * y + sin * x, _X - x + cos * x - sin * y), inside > 0


DEFECTS: Mapping[str, Callable[[_Cloth, Field, _UniformSampler], tuple[Field, Mask]]] = {
    "scratch": _scratch,
    "pit": _pit,
    "broken_thread": _broken_thread,
    "stain": _stain,
    "twist": _twist,
}
