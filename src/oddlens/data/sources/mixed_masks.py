"""Refuse folders in which masks lie among the images, where they would be learned or scored as images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePath

import numpy as np

from oddlens.data.image_io import Pixels, decode
from oddlens.data.sources.listing import join
from oddlens.data.sources.mask_files import MASK_FOLDERS, TAG_BEGINNING, TAG_ENDING
from oddlens.errors import DataError, ImageError

SUSPECT_FOLDERS = frozenset(
    {
        *MASK_FOLDERS, "label", "labels", "annotation", "annotations", "annotated", "segmentation", "segmentations",
        "segmentationclass", "segmentationobject",
    }
)  # fmt: skip
MAX_GROUPS = 500  # of images that belong together by their names and are decoded, evenly spaced
MIN_GROUND_SHARE = 0.5  # share of a mask's pixels that have exactly one level
MAX_LEVELS = 16  # of the labels in a mask
MIN_EXTREME_SHARE = 0.85  # share of the pixels near one of two levels, of a mask with soft edges
NEAR = 1 / 16  # of the range between the two levels


def refuse_masks_among_images(root: str, paths: Sequence[str]) -> None:
    """Refuse images (paths below `root`) of which some look like masks and others, which they belong to, do not.

    Raises:
        DataError: names such a mask, and where masks belong.
    """
    groups = suspect_groups(paths)
    for group in groups[:: max(1, -(-len(groups) // MAX_GROUPS))]:
        masks = [path for path in group if is_mask(root, path)]
        if 0 < len(masks) < len(group):
            raise DataError(
                f"{join(root, masks[0])}: is a mask among the images, by its name and its few levels; move masks to "
                "ground_truth/<defect>/<name>_mask, and their images to test/<defect>/<name> (see "
                "docs/reference/data.md); if it is an image, rename it"
            )


def suspect_groups(paths: Sequence[str]) -> list[list[str]]:
    """Images that belong together by their names, so that some of them may be masks of the others.

    They lie in one folder and differ in nothing but a suffix or an ending such as "_mask", or one lies in a folder of
    masks and the other, of the same name, does not.
    """
    by_place, by_name = defaultdict[str, list[str]](list), dict[str, str]()
    in_mask_folders: list[tuple[str, str]] = []
    for path in paths:
        folder, _, stem = path.removesuffix(PurePath(path).suffix).casefold().rpartition("/")
        name = TAG_BEGINNING.sub("", TAG_ENDING.sub("", stem))
        if SUSPECT_FOLDERS & set(folder.split("/")):
            in_mask_folders.append((name, path))
        else:
            by_place[f"{folder}/{name}"].append(path)
            by_name.setdefault(name, path)
    pairs = [[by_name[name], path] for name, path in in_mask_folders if name in by_name]
    return [group for group in by_place.values() if len(group) > 1] + pairs


def is_mask(root: str, path: str) -> bool:
    """Whether an image looks like a mask; False for one that cannot be read."""
    try:
        return looks_like_mask(decode(Path(root, path)))
    except ImageError:
        return False


def looks_like_mask(pixels: Pixels) -> bool:
    """Whether half of the pixels (H, W, C) have one level, and there are few levels or nearly two, in each channel."""
    for plane in np.moveaxis(pixels, -1, 0):
        levels, counts = np.unique(plane, return_counts=True)
        if counts.max() < MIN_GROUND_SHARE * plane.size:
            return False
        near = NEAR * int(levels[-1] - levels[0])
        extreme = (levels <= levels[0] + near) | (levels >= levels[-1] - near)
        if len(levels) > MAX_LEVELS and counts[extreme].sum() < MIN_EXTREME_SHARE * plane.size:
            return False
    return True
