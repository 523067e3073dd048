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
    {*MASK_FOLDERS, "label", "labels", "annotation", "annotations", "segmentation", "segmentations"}
)
MAX_GROUPS = 40  # of suspects that are decoded to tell masks from images, evenly spaced
MAX_LEVELS = 16  # of the labels in a mask
MIN_EXTREME_SHARE = 0.98  # share of a mask's pixels that lie near one of two levels; its edges may be soft
NEAR = 1 / 16  # of the range between the two levels


def refuse_masks_among_images(root: str, paths: Sequence[str]) -> None:
    """Refuse images (paths below `root`) of which some are nearly two-valued and belong to another by their names.

    Raises:
        DataError: names such a mask, and where masks belong.
    """
    groups = suspect_groups(paths)
    for group in groups[:: max(1, -(-len(groups) // MAX_GROUPS))]:
        masks = [path for path in group if is_mask(root, path)]
        if not masks or len(masks) == len(group) > 1:
            continue
        raise DataError(
            f"{join(root, masks[0])}: is a mask among the images, by its name and its few levels; move "
            "masks to ground_truth/<defect>/<name>_mask, and their images to test/<defect>/<name> (see docs/data.md)"
        )


def suspect_groups(paths: Sequence[str]) -> list[list[str]]:
    """Images that may be masks by their names: alone in a folder of masks, or several that belong together.

    Those belong together that lie in one folder and differ in nothing but a suffix or an ending such as "_mask".
    """
    by_stem: dict[str, list[str]] = defaultdict(list)
    groups = []
    for path in paths:
        if SUSPECT_FOLDERS & {part.casefold() for part in PurePath(path).parts[:-1]}:
            groups.append([path])
        else:
            folder, _, name = path.removesuffix(PurePath(path).suffix).casefold().rpartition("/")
            by_stem[f"{folder}/{TAG_BEGINNING.sub('', TAG_ENDING.sub('', name))}"].append(path)
    return groups + [group for group in by_stem.values() if len(group) > 1]


def is_mask(root: str, path: str) -> bool:
    """Whether an image has few exact levels, or nearly two; False for one that cannot be read."""
    try:
        return is_two_valued(decode(Path(root, path)))
    except ImageError:
        return False


def is_two_valued(pixels: Pixels) -> bool:
    """Whether nearly all pixels (H, W, C) lie near the lowest or the highest level of their channel."""
    for plane in np.moveaxis(pixels, -1, 0):
        low, high = int(plane.min()), int(plane.max())
        near = NEAR * (high - low)
        extreme = (plane <= low + near) | (plane >= high - near)
        if np.mean(extreme) < MIN_EXTREME_SHARE and len(np.unique(plane)) > MAX_LEVELS:
            return False
    return True
