"""Divide normal images into training, standardization and calibration images; near-duplicates stay together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from oddlens.config.base import DecisionSettings, InputSpec
from oddlens.conformal.grouped import add_group_to_errors
from oddlens.conformal.ranks import DEFAULT_RATE, min_calibration_size, threshold_rank
from oddlens.data.image_io import Index, Pixels
from oddlens.data.near_duplicates import near_duplicate_groups, thumbnails
from oddlens.data.pixel_store import take_rows
from oddlens.data.training_images import TrainingImages
from oddlens.errors import DataError

CALIBRATION_SHARE = 0.2  # of the normal images, more where the requested rate needs more
MAX_CALIBRATION = 500  # calibration images, unless the requested rate needs more
STANDARDIZATION_SHARE = 0.1  # of the normal images: they bring an ensemble's members to one scale
MAX_STANDARDIZATION = 300


@dataclass(frozen=True)
class CalibrationSet:
    """Normal images from which a threshold is computed."""

    pixels: Pixels  # (N, H, W, C)
    groups: tuple[str, ...] = ()  # each image's group, where every group has its own threshold
    grouped_by: str = ""


@dataclass(frozen=True)
class SplitImages:
    """Normal images divided into what they are used for, and what a detector's manifest says about them."""

    train: Pixels  # (N, H, W, C)
    standardization: Pixels  # (M, H, W, C)
    calibration: CalibrationSet
    spec: InputSpec
    roi: npt.NDArray[np.bool_] | None
    source: str
    normal: str
    remarks: tuple[str, ...] = ()


class Split(NamedTuple):
    """Which images are used for what: disjoint, sorted indices."""

    train: Index
    standardization: Index
    calibration: Index


def split_training_images(
    loaded: TrainingImages, decision: DecisionSettings, seed: int, *, hold_out: bool, standardize: bool
) -> SplitImages:
    """Third step of fitting: divide loaded images, in each of their groups; see `split_normals`."""
    images, pixels = loaded.images, loaded.pixels
    split = split_normals(pixels, decision, seed, hold_out=hold_out, standardize=standardize, groups=images.groups)
    groups = images.subset(split.calibration).groups
    return SplitImages(
        train=take_rows(pixels, split.train),
        standardization=take_rows(pixels, split.standardization),
        calibration=CalibrationSet(take_rows(pixels, split.calibration), groups, images.grouped_by),
        spec=loaded.spec,
        roi=loaded.roi,
        source=images.source,
        normal=images.normal,
        remarks=loaded.remarks,
    )


def split_normals(
    pixels: Pixels,
    decision: DecisionSettings,
    seed: int,
    *,
    hold_out: bool = True,
    standardize: bool = False,
    groups: Sequence[str] = (),
) -> Split:
    """Split normal images (N, H, W, C) for training, standardization and calibration.

    A fifth is held out for calibration, 500 images at most, or as many more (up to half) as the requested rate needs;
    with `standardize`, a tenth (300 at most) is set aside for that. Without `hold_out` there are no calibration images.
    With `groups` (N names) each group is split this way; near-duplicates in two groups go with the first of them.

    Raises:
        CalibrationError: half of the images (of a group) cannot guarantee the requested rate.
        DataError: the images (of a group) are near-duplicates of each other, so that none can be held out.
    """
    if not (hold_out or standardize):
        return Split(np.arange(len(pixels)), np.arange(0), np.arange(0))
    duplicates = near_duplicate_groups(thumbnails(pixels))
    names = np.array(groups or ("",) * len(pixels), dtype=object)
    _, first, inverse = np.unique(duplicates, return_index=True, return_inverse=True)
    leading = names[first][inverse]  # the group of the first of an image's near-duplicates
    parts: tuple[list[Index], list[Index], list[Index]] = ([], [], [])
    for name in sorted(set(names)):
        members = np.flatnonzero(leading == name)
        # Near-duplicates that are in another group do not count for this one.
        n_other_groups = int((names[members] != name).sum())
        indices = split_group(duplicates[members], n_other_groups, decision, seed, hold_out, standardize)
        for part, index in zip(parts, indices, strict=True):
            part.append(members[index])
    split = Split(*(np.sort(np.concatenate(part)) for part in parts))
    if len(split.train) == 0 or (hold_out and len(split.calibration) == 0):
        raise DataError(
            f"the {len(pixels)} normal images are near-duplicates of each other ({duplicates.max() + 1} group(s)), so "
            "that none can be held out; add images of other parts"
        )
    if hold_out:
        check_calibration_groups(names, split.calibration, decision)
    return split


def check_calibration_groups(names: npt.NDArray[Any], calibration: Index, decision: DecisionSettings) -> None:
    """Refuse a split in which a group has too few calibration images for the requested rate."""
    for name in sorted(set(names)):
        count = int((names[calibration] == name).sum())
        if count == 0:
            raise DataError(f"group {name}: none of its images can be held out; add some that are not near-duplicates")
        if decision.method == "conformal" and decision.false_alarm_rate is not None:
            with add_group_to_errors(name):
                threshold_rank(count, decision.false_alarm_rate, decision.confidence)


def split_group(
    duplicates: Index, n_other_groups: int, decision: DecisionSettings, seed: int, hold_out: bool, standardize: bool
) -> list[Index]:
    """Split the images of one group, given by their groups of near-duplicates; `n_other_groups` are of other groups."""
    count = len(duplicates)
    if count == 0:
        return [np.arange(0)] * 3
    largest = int(np.unique(duplicates, return_counts=True)[1].max())
    needed = min_calibration_size(decision.false_alarm_rate or DEFAULT_RATE, decision.confidence)
    n_requested = max(min(round(CALIBRATION_SHARE * count), MAX_CALIBRATION), needed + largest - 1 + n_other_groups)
    n_calibration = max(1, min(n_requested, count // 2)) if hold_out else 0
    n_standardization = min(round(STANDARDIZATION_SHARE * count), MAX_STANDARDIZATION) if standardize else 0
    n_train = count - n_standardization - n_calibration
    return split_groups(duplicates, [n_train, n_standardization, n_calibration], seed)


def split_groups(groups: npt.NDArray[Any], sizes: Sequence[int], seed: int) -> list[Index]:
    """Split N images at random into parts of about the requested sizes, keeping groups whole.

    Returns sorted index arrays that are disjoint and cover everything; each part's size differs from the requested
    one by less than the largest group. The largest groups are placed first, each into a part drawn in proportion to
    the remaining capacity of those that it fits into (for groups of one image: a uniformly random split), or into
    the part with the most capacity where it fits into none.

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
    capacity = np.array(sizes, dtype=np.int64)
    part_of = np.empty(len(names), dtype=np.intp)
    for g in order[:n_large]:
        cumulative = np.where(capacity >= counts[g], capacity, 0).cumsum()
        fits = cumulative[-1] > 0
        part = np.searchsorted(cumulative, rng.integers(cumulative[-1]), side="right") if fits else capacity.argmax()
        part_of[g] = part
        capacity[part] -= counts[g]
    slots = np.repeat(np.arange(len(sizes)), capacity.clip(0))
    part_of[order[n_large:]] = rng.permutation(slots)[: len(names) - n_large]
    return [np.flatnonzero(part_of[group.ravel()] == part) for part in range(len(sizes))]
