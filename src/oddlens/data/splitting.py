"""Which images a detector learns from, and how they are divided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from oddlens.config.base import DecisionSettings
from oddlens.conformal.grouped import add_group_to_errors
from oddlens.conformal.ranks import DEFAULT_RATE, min_calibration_size, threshold_rank
from oddlens.data.image_io import Pixels
from oddlens.data.near_duplicates import near_duplicate_groups, thumbnails
from oddlens.errors import DataError

Index = npt.NDArray[np.intp]

CALIBRATION_SHARE = 0.2  # share of the normals kept for calibration, more where the asked rate needs more
MAX_CALIBRATION = 500  # images kept for calibration at most, unless the asked rate needs more
STANDARDIZATION_SHARE = 0.1  # share of the normals that bring an ensemble's members to one scale
MAX_STANDARDIZATION = 300


@dataclass(frozen=True)
class CalibrationSet:
    """Normal images that a decision is made from."""

    pixels: Pixels  # (N, H, W, C)
    groups: tuple[str, ...] = ()  # each image's, where a decision is made for each group
    grouped_by: str = ""


def split_normals(
    pixels: Pixels,
    decision: DecisionSettings,
    seed: int,
    *,
    hold_out: bool = True,
    standardise: bool = False,
    groups: Sequence[str] = (),
) -> tuple[Index, Index, Index]:
    """Indices to train on, to standardise an ensemble's members on, and to calibrate on; near-duplicates stay together.

    A fifth is held out for calibration, 500 images at most, or as much more (up to half) as the asked rate needs;
    with `standardise`, a tenth (300 at most) is set aside for that. Without `hold_out` nothing is kept to calibrate.
    With `groups` (N names) all this is done in each of them; near-duplicates in two groups go with the first.

    Raises:
        CalibrationError: half of the images (of a group) cannot promise the asked rate.
        DataError: the images (of a group) are near-duplicates of each other, and none can be held out.
    """
    alike = near_duplicate_groups(thumbnails(pixels))
    names = np.array(groups or ("",) * len(pixels), dtype=object)
    _, first, inverse = np.unique(alike, return_index=True, return_inverse=True)
    leading = names[first][inverse]  # the group of the first of its near-duplicates
    parts: tuple[list[Index], list[Index], list[Index]] = ([], [], [])
    for name in sorted(set(names)):
        own = np.flatnonzero(leading == name)
        others = int((names[own] != name).sum())  # near-duplicates of another group, which fill no place in this one
        for part, rows in zip(
            parts, split_group(alike[own], others, decision, seed, hold_out, standardise), strict=True
        ):
            part.append(own[rows])
    learn, standard, hold = (np.sort(np.concatenate(part)) for part in parts)
    if len(learn) == 0 or (hold_out and len(hold) == 0):
        raise DataError(
            f"the {len(pixels)} normal images are near-duplicates of each other ({alike.max() + 1} group(s)), so that "
            "none can be held out; add pictures of other parts"
        )
    for name in sorted(set(names)) if hold_out else ():
        count = int((names[hold] == name).sum())
        if count == 0:
            raise DataError(f"group {name}: none of its images can be held out; give more that are not near-duplicates")
        if decision.method == "conformal" and decision.false_alarm_rate is not None:
            with add_group_to_errors(name):
                threshold_rank(count, decision.false_alarm_rate, decision.confidence)
    return learn, standard, hold


def split_group(
    alike: npt.NDArray[np.intp],
    others: int,
    decision: DecisionSettings,
    seed: int,
    hold_out: bool,
    standardise: bool,
) -> list[Index]:
    """Split the images of one group into those to train on, to standardise on and to hold out."""
    count = len(alike)
    if count == 0:
        return [np.arange(0)] * 3
    largest = int(np.unique(alike, return_counts=True)[1].max())
    needed = min_calibration_size(decision.false_alarm_rate or DEFAULT_RATE, decision.confidence)
    wanted = max(min(round(CALIBRATION_SHARE * count), MAX_CALIBRATION), needed + largest - 1 + others)
    n_hold = max(1, min(wanted, count // 2)) if hold_out else 0
    n_standard = min(round(STANDARDIZATION_SHARE * count), MAX_STANDARDIZATION) if standardise else 0
    return split_groups(alike, [count - n_standard - n_hold, n_standard, n_hold], seed)


def split_groups(groups: npt.NDArray[Any], sizes: Sequence[int], seed: int) -> list[Index]:
    """Split N images at random into parts of about the given sizes, whole groups only.

    Gives sorted index arrays that are disjoint and cover everything; each part's size differs from the
    one asked for by less than the largest group. The largest groups are dealt first, each to a part
    drawn in proportion to the room left where the group fits (for groups of one: a uniformly random
    split), or to the roomiest part where it fits nowhere.

    Raises:
        DataError: the sizes do not add up to N.

    >>> [part.tolist() for part in split_groups(np.array([0, 0, 1, 2, 2]), [3, 2], seed=0)]
    [[2, 3, 4], [0, 1]]
    """
    if sum(sizes) != len(groups) or min(sizes, default=0) < 0:
        raise DataError(f"a split of {len(groups)} images into parts of {list(sizes)} does not add up")
    rng = np.random.default_rng(seed)
    names, group, counts = np.unique(groups, return_inverse=True, return_counts=True)
    order = rng.permutation(len(names))
    order = order[np.argsort(-counts[order], kind="stable")]
    n_large = int((counts > 1).sum())
    room = np.array(sizes, dtype=np.int64)
    part_of = np.empty(len(names), dtype=np.intp)
    for g in order[:n_large]:
        chances = np.where(room >= counts[g], room, 0).cumsum()
        fits = chances[-1] > 0
        part = np.searchsorted(chances, rng.integers(chances[-1]), side="right") if fits else room.argmax()
        part_of[g] = part
        room[part] -= counts[g]
    places = np.repeat(np.arange(len(sizes)), room.clip(0))
    part_of[order[n_large:]] = rng.permutation(places)[: len(names) - n_large]
    return [np.flatnonzero(part_of[group.ravel()] == part) for part in range(len(sizes))]
