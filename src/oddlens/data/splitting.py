"""Divide normal images into training, standardization and calibration images; near-duplicates stay together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from oddlens.config.base import DecisionSettings, InputSpec
from oddlens.config.manifest import CountBy
from oddlens.conformal.grouped import add_group_to_errors
from oddlens.conformal.ranks import DEFAULT_RATE, min_calibration_size, threshold_rank
from oddlens.conformal.schemes import LEAVE_ONE_OUT
from oddlens.data.image_io import Index, Pixels
from oddlens.data.near_duplicates import near_duplicate_groups, thumbnails
from oddlens.data.pixel_store import take_rows
from oddlens.data.training_images import TrainingImages
from oddlens.errors import DataError

CALIBRATION_SHARE = 0.2  # of the normal images, more where the rate needs more
MAX_DEFAULT_PERCENT = 30  # of the normal images that calibrate, where neither a rate nor a confidence is requested
MAX_CALIBRATION = 500  # calibration images, unless the requested rate needs more
STANDARDIZATION_SHARE = 0.1  # of the normal images: they bring an ensemble's members to one scale
MAX_STANDARDIZATION = 300

NO_CLUSTERS: Index = np.empty(0, dtype=np.intp)


@dataclass(frozen=True)
class CalibrationSet:
    """Normal images from which a threshold is computed."""

    pixels: Pixels  # (N, H, W, C)
    groups: tuple[str, ...] = ()  # each image's group, where every group has its own threshold
    grouped_by: str = ""
    clusters: Index = field(
        default_factory=lambda: NO_CLUSTERS
    )  # (N,) each image's group of near-duplicates; empty where images are counted


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
    # (N,) what leave-one-out leaves out together, for each training image; empty where it does not calibrate
    train_clusters: Index = field(default_factory=lambda: NO_CLUSTERS)


class Split(NamedTuple):
    """Which images are used for what: disjoint, sorted indices."""

    train: Index
    standardization: Index
    calibration: Index
    clusters: Index = NO_CLUSTERS  # (N,) the group of near-duplicates of every image; empty where nothing needed them


def split_training_images(
    loaded: TrainingImages,
    decision: DecisionSettings,
    seed: int,
    *,
    hold_out: bool,
    standardize: bool,
    count_by: CountBy = "group",
    leave_one_out: bool = False,
) -> SplitImages:
    """Third step of fitting: divide loaded images, in each of their groups; see `split_normals`.

    With `leave_one_out` all images are for training, and each of them, or each group of near-duplicates, calibrates.

    Raises:
        CalibrationError, DataError: as `split_normals`; with `leave_one_out`, where all images cannot guarantee the
            requested rate.
    """
    images, pixels = loaded.images, loaded.pixels
    train_clusters, split = NO_CLUSTERS, Split(np.arange(len(pixels)), np.arange(0), np.arange(0))
    if leave_one_out:
        train_clusters = left_out_clusters(pixels, decision, count_by)
    else:
        split = split_normals(
            pixels,
            decision,
            seed,
            hold_out=hold_out,
            standardize=standardize,
            groups=images.groups,
            count_by=count_by,
        )
    counted = count_by == "group" and len(split.clusters)
    return SplitImages(
        train=take_rows(pixels, split.train),
        standardization=take_rows(pixels, split.standardization),
        calibration=CalibrationSet(
            take_rows(pixels, split.calibration),
            images.subset(split.calibration).groups,
            images.grouped_by,
            split.clusters[split.calibration] if counted else NO_CLUSTERS,
        ),
        spec=loaded.spec,
        roi=loaded.roi,
        source=images.source,
        normal=images.normal,
        remarks=loaded.remarks,
        train_clusters=train_clusters,
    )


def left_out_clusters(pixels: Pixels, decision: DecisionSettings, count_by: CountBy) -> Index:
    """The groups (N,) of training images that leave-one-out leaves out together: near-duplicates, or each by itself.

    Raises:
        CalibrationError: they cannot guarantee the requested rate.
        DataError: all images are near-duplicates of each other, so that none can be compared with others.
    """
    clusters = near_duplicate_groups(thumbnails(pixels)) if count_by == "group" else np.arange(len(pixels))
    count = int(clusters.max()) + 1
    if count < 2:
        raise DataError(
            f"the {len(pixels)} normal images are near-duplicates of each other, so that none can be compared with "
            "others; add images of other parts"
        )
    if decision.false_alarm_rate is not None:
        n_images = len(pixels) if count < len(pixels) else None
        threshold_rank(count, decision.false_alarm_rate, None, LEAVE_ONE_OUT, n_images)
    return clusters


def split_normals(
    pixels: Pixels,
    decision: DecisionSettings,
    seed: int,
    *,
    hold_out: bool = True,
    standardize: bool = False,
    groups: Sequence[str] = (),
    count_by: CountBy = "group",
) -> Split:
    """Split normal images (N, H, W, C) for training, standardization and calibration.

    A fifth is held out for calibration, 500 images at most, or as many more as the rate needs: up to half for a rate or
    a confidence that is requested, up to 30% otherwise. With `standardize`, a tenth (300 at most) is set aside for it.
    Without `hold_out` there are no calibration images. Near-duplicates stay together; by "group", these numbers are of
    groups of near-duplicates, by "image" of images. With `groups` (N names) each group is split this way;
    near-duplicates in two groups go with the first of them.

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
        if count_by == "group":
            indices = split_clusters(duplicates[members], decision, seed, hold_out, standardize)
        else:
            indices = split_images(duplicates[members], n_other_groups, decision, seed, hold_out, standardize)
        for part, index in zip(parts, indices, strict=True):
            part.append(members[index])
    train, standardization, calibration = (np.sort(np.concatenate(part)) for part in parts)
    split = Split(train, standardization, calibration, duplicates)
    if len(split.train) == 0 or (hold_out and len(split.calibration) == 0):
        raise DataError(
            f"the {len(pixels)} normal images are near-duplicates of each other ({duplicates.max() + 1} group(s)), so "
            "that none can be held out; add images of other parts"
        )
    if hold_out:
        check_calibration_groups(names, split, decision, count_by)
    return split


def check_calibration_groups(
    names: npt.NDArray[Any], split: Split, decision: DecisionSettings, count_by: CountBy
) -> None:
    """Refuse a split in which a group has too few calibration images for the requested rate."""
    for name in sorted(set(names)):
        calibration = split.calibration[names[split.calibration] == name]
        if len(calibration) == 0:
            raise DataError(f"group {name}: none of its images can be held out; add some that are not near-duplicates")
        if decision.method == "conformal" and decision.false_alarm_rate is not None:
            count = len(np.unique(split.clusters[calibration])) if count_by == "group" else len(calibration)
            n_images = len(calibration) if count < len(calibration) else None
            with add_group_to_errors(name):
                threshold_rank(count, decision.false_alarm_rate, decision.confidence, n_images=n_images)


def split_sizes(
    count: int, decision: DecisionSettings, hold_out: bool, standardize: bool, surplus: int = 0
) -> tuple[int, int, int]:
    """Sizes of the parts of `count` images, or groups of near-duplicates, for training, standardization, calibration.

    `surplus` is how many more than the rate needs are to be held out.
    """
    needed = min_calibration_size(decision.false_alarm_rate or DEFAULT_RATE, decision.confidence)
    is_requested = decision.false_alarm_rate is not None or decision.confidence is not None
    most = count // 2 if is_requested else count * MAX_DEFAULT_PERCENT // 100
    n_requested = max(min(round(CALIBRATION_SHARE * count), MAX_CALIBRATION), needed + surplus)
    n_calibration = max(1, min(n_requested, most)) if hold_out else 0
    n_standardization = min(round(STANDARDIZATION_SHARE * count), MAX_STANDARDIZATION) if standardize else 0
    return count - n_standardization - n_calibration, n_standardization, n_calibration


def split_clusters(
    duplicates: Index, decision: DecisionSettings, seed: int, hold_out: bool, standardize: bool
) -> list[Index]:
    """Split images, given by their groups of near-duplicates (N,), so that each group is equally likely to calibrate.

    A group of more than half of the images is for training in any case.
    """
    names, cluster_of, sizes = np.unique(duplicates, return_inverse=True, return_counts=True)
    free = np.flatnonzero(2 * sizes <= len(duplicates)) if len(duplicates) > 1 else np.arange(len(names))
    if len(free) == 0:
        return [np.arange(len(duplicates)), np.arange(0), np.arange(0)]
    _, *others = split_sizes(len(names), decision, hold_out, standardize)
    parts = split_groups(free, [len(free) - sum(others), *others], seed)
    part_of = np.zeros(len(names), dtype=np.intp)
    for number, part in enumerate(parts):
        part_of[free[part]] = number
    return [np.flatnonzero(part_of[cluster_of.ravel()] == number) for number in range(len(parts))]


def split_images(
    duplicates: Index, n_other_groups: int, decision: DecisionSettings, seed: int, hold_out: bool, standardize: bool
) -> list[Index]:
    """Split images, given by their groups of near-duplicates (N,), by their number; `n_other_groups` are of others."""
    if len(duplicates) == 0:
        return [np.arange(0)] * 3
    largest = int(np.unique(duplicates, return_counts=True)[1].max())
    sizes = split_sizes(len(duplicates), decision, hold_out, standardize, surplus=largest - 1 + n_other_groups)
    return split_groups(duplicates, sizes, seed)


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
