"""The built-in set `tiles`: drawn pictures of woven cloth, with five kinds of defect and exact masks.

Light, contrast and the place of the threads differ from picture to picture, so that a thumbnail tells little; the
defects are small and local. None of them is a pasted or blended patch: finding those is what detectors are trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from oddlens.data.image_io import Pixels

SIDE = 96
N_TRAIN, N_GOOD, N_EACH = 500, 200, 40

_PITCH = 6.5  # pixels from thread to thread
_THREADS = 64  # each way: more than a picture shows; beyond the last one the first one comes again
_GAP = -0.6  # height of the ground between the threads, whose backs are at 0.45 to 1.55
_TRAIN, _GOOD, _DAMAGED = 0, 1, 2  # a picture is drawn from (seed, one of these, its index)

Field = npt.NDArray[np.float64]  # (SIDE, SIDE) unless said otherwise
Mask = npt.NDArray[np.bool_]

_Y, _X = np.mgrid[:SIDE, :SIDE].astype(np.float64)


def load_tiles(seed: int = 0) -> tuple[Pixels, Pixels, tuple[str, ...], Mask]:
    """Draw the whole set: pictures of good cloth to learn from, and a labelled test set.

    Returns training pixels (500, 96, 96, 1) uint8, test pixels (400, 96, 96, 1) uint8, the test pictures' kinds
    ("good" or the defect's name) and their masks (400, 96, 96) bool. A mask marks exactly the pixels that the defect
    changed. One seed (0 or more) gives the same bytes on every machine.
    """
    kinds = ("good",) * N_GOOD + tuple(kind for kind in DEFECTS for _ in range(N_EACH))
    train = [_draw_image(seed, _TRAIN, i)[0] for i in range(N_TRAIN)]
    test = [_draw_image(seed, _GOOD if kind == "good" else _DAMAGED, i, kind) for i, kind in enumerate(kinds)]
    pixels = np.stack([image for image, _ in test])
    return np.stack(train)[..., None], pixels[..., None], kinds, np.stack([mask for _, mask in test])


def _draw_image(seed: int, part: int, index: int, kind: str = "good") -> tuple[npt.NDArray[np.uint8], Mask]:
    """One picture and its mask; the cloth, its light and its grain do not depend on the kind."""
    draw = _Draw(seed, part, index, 0)
    cloth = _Cloth(draw)
    whole = cloth.brightness()
    if kind == "good":
        return _expose(whole, draw), np.zeros((SIDE, SIDE), dtype=bool)
    flawed, mask = DEFECTS[kind](cloth, whole, _Draw(seed, part, index, 1))
    good, damaged = _expose(np.stack([whole, np.where(mask, flawed, whole)]), draw)
    # Here and there a defect leaves a grey level as it was: one level more there, and the mask is exact.
    same = mask & (damaged == good)
    damaged[same] = np.where(good < 255, good + 1, 254)[same]
    return damaged, mask


class _Draw:
    """Uniform numbers from the raw bits of PCG64, which NumPy promises never to change."""

    def __init__(self, *key: int) -> None:
        self._bits = np.random.PCG64(key)

    def array(self, low: float, high: float, *shape: int) -> Field:
        """Numbers in low..high, of that shape."""
        raw = np.asarray(self._bits.random_raw(int(np.prod(shape)))).reshape(shape)
        return np.asarray(low + (high - low) * ((raw >> np.uint64(11)) * 2.0**-53))

    def one(self, low: float, high: float) -> float:
        """One number in low..high."""
        return float(self.array(low, high, 1)[0])


class _Cloth:
    """A plain weave seen from above: threads of uneven tone and width, swaying a little."""

    def __init__(self, draw: _Draw) -> None:
        self._pitch = _PITCH * draw.one(0.97, 1.03)
        self._angle = draw.one(-0.06, 0.06)
        self._start = draw.array(0, _THREADS / 2, 2)
        self._sway = draw.array(0, 2 * np.pi, 2)
        # Of the upright threads, then of the level ones.
        self._tone = draw.array(-0.08, 0.08, 2, _THREADS)
        self._width = draw.array(0.88, 1.08, 2, _THREADS)
        self._fibre = draw.array(-0.12, 0.12, 2, _THREADS * _THREADS)

    def threads(self, y: Field = _Y, x: Field = _X) -> tuple[Field, Field]:
        """Where a pixel lies, counted in threads from left to right and from top to bottom."""
        cos, sin = np.cos(self._angle), np.sin(self._angle)
        u = (cos * x + sin * y) / self._pitch + self._start[0]
        v = (cos * y - sin * x) / self._pitch + self._start[1]
        return u + 0.22 * np.sin(0.35 * v + self._sway[0]), v + 0.22 * np.sin(0.31 * u + self._sway[1])

    def brightness(self, y: Field = _Y, x: Field = _X, missing: Mask | None = None) -> Field:
        """The cloth lit from the left, from about -1 (a gap) to 1; where `missing`, without its upright threads."""
        u, v = self.threads(y, x)
        upright, upright_tone = self._thread(0, u, v)
        level, level_tone = self._thread(1, v, u)
        if missing is not None:  # a thread that nothing holds up sinks into the shade
            upright, level_tone = np.where(missing, _GAP, upright), level_tone - 0.25 * missing
        height = np.maximum(np.maximum(upright, level), _GAP)
        return 0.55 * (height - 0.8) + np.where(upright > level, upright_tone, level_tone)

    def _thread(self, way: int, across: Field, along: Field) -> tuple[Field, Field]:
        """Height and tone of the threads that run one way, at places across and along them."""
        number = np.floor(across)
        n = number.astype(np.intp) % _THREADS
        side = (across - number - 0.5) / self._width[way][n]  # about -0.5..0.5 from edge to edge
        wave = np.cos(np.pi * along) * (1 - 2 * ((n + way) % 2))  # over one thread, under the next
        twine = 3.0 * along + 1.6 * side  # fibres slant across the thread
        fibre = np.floor(twine)
        k = fibre.astype(np.intp)
        first, second = (self._fibre[way][n * _THREADS + i % _THREADS] for i in (k, k + 1))
        lit = 0.25 * side if way else -0.25 * side
        tone = self._tone[way][n] + first + (second - first) * (twine - fibre) + lit + 0.1 * wave
        return 1 - 4 * side * side + 0.55 * wave, tone


def _expose(surface: Field, draw: _Draw) -> npt.NDArray[np.uint8]:
    """Photograph one or more surfaces (..., SIDE, SIDE) in the same uneven light, with the same noise."""
    tilt = draw.array(-1, 1, 4)
    x, y = _X * (2 / SIDE) - 1, _Y * (2 / SIDE) - 1
    light = 1 + 0.14 * (tilt[0] * x + tilt[1] * y) + 0.08 * tilt[2] * x * y - 0.04 * (1 + tilt[3]) * (x * x + y * y)
    grey = light * (draw.one(100, 145) + draw.one(42, 60) * surface)
    noise = 2 * draw.array(-1, 1, 3, SIDE, SIDE).sum(axis=0)  # of three uniform numbers: sigma 2
    return np.asarray(np.clip(np.rint(grey + noise), 0, 255).astype(np.uint8))


def _place(draw: _Draw, margin: float) -> tuple[Field, Field]:
    """Distances down and right of a point drawn at least `margin` pixels from the border."""
    top, left = draw.array(margin, SIDE - margin, 2)
    return _Y - top, _X - left


def _scratch(cloth: _Cloth, whole: Field, draw: _Draw) -> tuple[Field, Mask]:
    """A thin bright line, slightly bent, across the threads."""
    y, x = _place(draw, 22)
    angle, half = draw.one(0, np.pi), draw.one(13, 21)
    along, aside = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    aside = aside - draw.one(-0.008, 0.008) * along**2
    depth = np.clip(1.3 - np.abs(aside), 0, 1) * np.clip((half - np.abs(along)) / 4, 0, 1)
    return whole + draw.one(0.7, 1.0) * depth, depth > 0


def _pit(cloth: _Cloth, whole: Field, draw: _Draw) -> tuple[Field, Mask]:
    """A small round dent: the weave flattened, one flank in the shade and the other in the light."""
    y, x = _place(draw, 10)
    radius = draw.one(4.5, 6.5)
    depth = np.clip(1 - (x * x + y * y) / radius**2, 0, 1)
    shade = (x + 0.5 * y) / radius * np.sqrt(depth)
    return whole * (1 - 0.6 * depth) + draw.one(1.2, 1.6) * shade - 0.2 * depth, depth > 0


def _broken_thread(cloth: _Cloth, whole: Field, draw: _Draw) -> tuple[Field, Mask]:
    """A piece of one upright thread is gone, two to four threads long."""
    y, x = _place(draw, 20)
    u, v = cloth.threads()
    at = np.unravel_index(np.argmin(x * x + y * y), x.shape)
    mask = (np.floor(u) == np.floor(u[at])) & (np.abs(v - v[at]) < draw.one(1.0, 2.0))
    return cloth.brightness(missing=mask), mask


def _stain(cloth: _Cloth, whole: Field, draw: _Draw) -> tuple[Field, Mask]:
    """A darker spot of uneven outline, the weave showing through."""
    y, x = _place(draw, 16)
    turn, radius = np.arctan2(y, x), draw.one(7, 11)
    phase = draw.array(0, 2 * np.pi, 2)
    edge = radius * (1 + 0.18 * np.cos(2 * turn + phase[0]) + 0.10 * np.cos(3 * turn + phase[1]))
    soaked = np.clip((edge - np.hypot(x, y)) / 3, 0, 1)
    return whole - draw.one(0.45, 0.6) * soaked, soaked > 0


def _twist(cloth: _Cloth, whole: Field, draw: _Draw) -> tuple[Field, Mask]:
    """The threads drawn into a whirl, most in its middle."""
    y, x = _place(draw, 17)
    inside = np.clip(1 - (x * x + y * y) / draw.one(9, 13) ** 2, 0, 1)
    angle = inside * draw.one(0.6, 1.0) * np.sign(draw.one(-1, 1))
    cos, sin = np.cos(angle), np.sin(angle)
    return cloth.brightness(_Y - y + cos * y + sin * x, _X - x + cos * x - sin * y), inside > 0


DEFECTS: Mapping[str, Callable[[_Cloth, Field, _Draw], tuple[Field, Mask]]] = {
    "scratch": _scratch,
    "pit": _pit,
    "broken_thread": _broken_thread,
    "stain": _stain,
    "twist": _twist,
}
