"""How the masks of a data set are to be read, chosen from the levels of all of them.

A mask marks what differs from its ground, the colour that fills the larger part of most masks: black, unless masks are
inverted. At most 16 exact levels are labels, and every level but the ground is marked. With more levels, masks have
soft edges or come from JPEG: marked is what is nearer to the main level of the defects than to the ground. The distance
of two colours is the largest difference of a channel, so that red, yellow and white are equally far from black.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from oddlens.data.image_io import DECODERS, Pixels, decode_mask
from oddlens.data.ordered_pool import ordered_map
from oddlens.errors import ImageError

MAX_LABELS = 16
SAMPLE_SIZE = 2**20  # pixels from which the main colour of a mask with many levels is determined
BLOCK_ROWS = 256

Colour = tuple[int, int, int]  # red, green, blue at 16 bits: 257 times the levels of 8 bits
Histogram = npt.NDArray[np.intp]

BLACK: Colour = (0, 0, 0)

FIX = "mark pixels in white on black"
ONE_LEVEL = f"every mask has one level only, which may mark all pixels or none; {FIX}"
NO_GROUND = f"no level fills the larger part of most masks, and none is black; {FIX}"
THREE_LEVELS = f"the larger part of most masks is {{}}, but other parts are black and of a third level; {FIX}"
MANY_LEVELS = f"there are over {MAX_LABELS} levels, but not two main ones to split midway; {FIX}"
NO_BLACK = "there are several levels but no black; paint black what does not count"


@dataclass(frozen=True)
class MaskReading:
    """How masks are read: a pixel is marked where its distance from `ground` is over `threshold`."""

    ground: Colour = BLACK
    threshold: float = 0.0
    note: str = ""  # what a user should know
    problems: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # why masks cannot be read: their names


@dataclass(frozen=True)
class MaskLevels:
    """The levels of one mask."""

    name: str
    colours: frozenset[Colour]  # one more than `MAX_LABELS` where there are more
    main: Colour  # fills most of the mask
    has_black: bool
    peak: int  # the largest value of a channel
    is_exact: bool  # the file's format keeps levels as they were


@dataclass(frozen=True)
class MaskProfile:
    """Histograms (256,) of the pixels of one mask by their distance from the ground, up to the peak of all masks."""

    name: str
    pixels: Histogram
    areas: Histogram  # pixels equal to their neighbours, which those of edges are not
    dark_areas: Histogram  # those of them that are nearly black


def choose_reading(files: Sequence[Path], ground: Colour | None = None) -> MaskReading:
    """Choose how to read the masks of a data set; `ground` is what is not marked, where that is settled.

    Each file is decoded once, or twice where masks have many levels. Files that cannot be read are left out here, as
    reading them is an error of its own.
    """
    masks = [levels for levels in ordered_map(read_levels, files, DECODERS, 2 * DECODERS) if levels is not None]
    colours = frozenset[Colour]().union(*(mask.colours for mask in masks))
    is_labelled = len(colours) <= MAX_LABELS and all(mask.is_exact or len(mask.colours) == 1 for mask in masks)
    if colours <= {BLACK} or (ground is not None and len(colours) == 1):
        return MaskReading()
    reading = MaskReading(ground) if ground is not None else choose_ground(masks, is_labelled)
    if reading.problems:
        return reading
    if not is_labelled:
        peak = max(mask.peak for mask in masks)
        work = partial(read_profile, ground=reading.ground, peak=peak)
        profiles = [profile for profile in ordered_map(work, files, DECODERS, 2 * DECODERS) if profile is not None]
        return split_levels(profiles, reading, peak)
    names = tuple(mask.name for mask in masks)
    if reading.ground not in colours:
        return MaskReading(problems={NO_BLACK: names})
    if reading.ground != BLACK and BLACK in colours and len(colours) > 2:
        return MaskReading(problems={THREE_LEVELS.format(describe(reading.ground)): names})
    return reading


def choose_ground(masks: Sequence[MaskLevels], is_labelled: bool) -> MaskReading:
    """The reading whose ground is the colour that fills the larger part of most masks, else black.

    A mask of a single level other than black does not count, as it may be marked as a whole.
    """
    votes = Counter(mask.main for mask in masks if len(mask.colours) > 1 or mask.main == BLACK)
    names = tuple(mask.name for mask in masks)
    if not votes:
        return MaskReading(problems={ONE_LEVEL: names})
    winner = max(votes, key=lambda colour: (votes[colour], colour == BLACK))
    tolerance = 0 if is_labelled else max(mask.peak for mask in masks) // 8
    n_votes = sum(n for colour, n in votes.items() if colour_distance(colour, winner) <= tolerance)
    if winner == BLACK or 2 * n_votes <= votes.total():
        has_black = any(mask.has_black for mask in masks)
        return MaskReading() if has_black else MaskReading(problems={NO_GROUND: names})
    level = describe(winner)
    note = f"{level} is the larger part of {n_votes} of {votes.total()} masks, so what differs from {level} is a defect"
    return MaskReading(winner, note=note)


def split_levels(profiles: Sequence[MaskProfile], reading: MaskReading, peak: int) -> MaskReading:
    """The reading with a threshold midway between its ground and the main level of what is marked."""
    pixels, areas, dark_areas = (
        np.sum(histograms, axis=0)
        for histograms in zip(*((mask.pixels, mask.areas, mask.dark_areas) for mask in profiles), strict=True)
    )
    steps = np.arange(256)
    farthest = int(np.flatnonzero(pixels)[-1])
    is_far = steps > farthest // 4
    has_areas = 10 * areas[is_far].sum() >= pixels[is_far].sum()
    main = int((areas * is_far).argmax()) if has_areas else farthest  # thin lines have no areas
    names = tuple(mask.name for mask in profiles)
    if not pixels[: main // 8 + 1].any():
        return MaskReading(problems={NO_BLACK: names})
    unclear = tuple(mask.name for mask in profiles if main == 0 or not has_two_levels(mask, main))
    if unclear:
        return MaskReading(problems={MANY_LEVELS: unclear})
    threshold = main * peak / 255 / 2
    if colour_distance(reading.ground, BLACK) <= threshold:
        return MaskReading(reading.ground, threshold)
    dark = dark_areas[is_far].sum() / max(areas[is_far].sum(), 1)
    if 0.01 < dark < 0.99:
        return MaskReading(problems={THREE_LEVELS.format(describe(reading.ground)): names})
    return MaskReading(reading.ground, threshold, reading.note)


def has_two_levels(mask: MaskProfile, main: int) -> bool:
    """Whether a mask has few pixels, and hardly any areas, that are neither near the ground nor near the main level."""
    steps = np.arange(256)
    off_ground = steps > main / 8
    between = off_ground & (abs(steps - main) > main / 4)
    few_pixels = 4 * mask.pixels[between].sum() <= mask.pixels.sum()
    few_areas = 10 * mask.areas[between].sum() <= mask.pixels[off_ground].sum()
    return bool(few_pixels and few_areas)


def read_levels(path: Path) -> MaskLevels | None:
    """The levels of one mask; None where it cannot be read."""
    try:
        pixels, is_exact = decode_mask(path)
    except ImageError:
        return None
    values = packed(pixels).ravel()
    counts: dict[int, int] = {}
    rest = values
    while rest.size and len(counts) <= MAX_LABELS:
        same = rest == rest[0]
        counts[int(rest[0])] = int(same.sum())
        rest = rest[~same]
    if rest.size:
        levels, numbers = np.unique(values[:: -(-values.size // SAMPLE_SIZE)], return_counts=True)
        main = int(levels[numbers.argmax()])
    else:
        main = max(counts, key=counts.__getitem__)
    colours = frozenset(unpacked(value, pixels) for value in counts)
    has_black, peak = not values.all(), int(pixels.max()) * (257 if pixels.dtype == np.uint8 else 1)
    return MaskLevels(str(path), colours, unpacked(main, pixels), has_black, peak, is_exact)


def read_profile(path: Path, ground: Colour, peak: int) -> MaskProfile | None:
    """The histograms of one mask, block by block of its rows; None where it cannot be read."""
    try:
        pixels, _ = decode_mask(path)
    except ImageError:
        return None
    histograms = np.zeros((3, 256), np.intp)
    for top in range(0, len(pixels), BLOCK_ROWS):
        block = pixels[top : top + BLOCK_ROWS]
        distance, darkness = distances(block, ground), distances(block, BLACK)
        step = (distance.astype(np.uint32) * 255 // peak).astype(np.uint8)
        inside = distance[:-1, :-1]
        is_area = (inside == distance[1:, :-1]) & (inside == distance[:-1, 1:])
        is_dark = darkness[:-1, :-1] <= peak // 4
        parts = (step, step[:-1, :-1][is_area], step[:-1, :-1][is_area & is_dark])
        histograms += [np.bincount(part.ravel(), minlength=256) for part in parts]
    return MaskProfile(str(path), *histograms)


def distances(pixels: Pixels, colour: Colour) -> npt.NDArray[np.uint16]:
    """(H, W) distance of each pixel from a colour: the largest difference of a channel, at 16 bits."""
    result = np.zeros(pixels.shape[:2], np.uint16)
    for channel in range(3 if len(set(colour)) > 1 else pixels.shape[2]):
        plane, level = pixels[..., min(channel, pixels.shape[2] - 1)].astype(np.uint16), np.uint16(colour[channel])
        if pixels.dtype == np.uint8:
            plane *= 257
        np.maximum(result, np.maximum(plane, level) - np.minimum(plane, level) if level else plane, out=result)
    return result


def colour_distance(one: Colour, other: Colour) -> int:
    """The distance of two colours."""
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def packed(pixels: Pixels) -> npt.NDArray[Any]:
    """(H, W) one number for each colour; 0 is black."""
    if pixels.shape[2] == 1:
        return pixels[..., 0]
    values = pixels[..., 0].astype(np.uint32)
    for channel in (1, 2):
        values <<= 8
        values |= pixels[..., channel]
    return values


def unpacked(value: int, pixels: Pixels) -> Colour:
    """The colour of a number of `packed(pixels)`."""
    if pixels.shape[2] == 3:
        return (value >> 16) * 257, (value >> 8 & 255) * 257, (value & 255) * 257
    level = value * (257 if pixels.dtype == np.uint8 else 1)
    return level, level, level


def describe(colour: Colour) -> str:
    """A colour as a word, a grey level at 8 bits, or red, green and blue."""
    red, green, blue = (round(level / 257) for level in colour)
    if red == green == blue:
        return {0: "black", 255: "white"}.get(red, f"grey {red}")
    return f"#{red:02x}{green:02x}{blue:02x}"
