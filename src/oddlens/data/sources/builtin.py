"""The data sets that need no download: `digits` (from scikit-learn) and `tiles` (generated)."""

from __future__ import annotations

import numpy as np

from oddlens.data.image_set import DataSet, ImageSet, require_class
from oddlens.data.near_duplicates import near_duplicate_groups, thumbnails
from oddlens.data.sources.arrays import LabelledArrays
from oddlens.data.sources.woven_tiles import load_tiles
from oddlens.data.splitting import split_groups
from oddlens.errors import MissingExtraError

N_TRAIN = 1300  # of the 1,797 digits


def load_digits() -> LabelledArrays:
    """Load scikit-learn's handwritten digits, 8 x 8 pixels, with the 17 grey levels scaled to 0..255.

    The split is always the same, and near-duplicates are on one side of it.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    try:
        from sklearn import datasets
    except ImportError as error:
        raise MissingExtraError("the data set 'digits'", "train") from error
    bunch = datasets.load_digits()
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    kinds = bunch.target.astype(np.str_)
    groups = near_duplicate_groups(thumbnails(pixels))
    train, test = split_groups(groups, [N_TRAIN, len(pixels) - N_TRAIN], seed=0)
    return LabelledArrays(pixels[train], kinds[train], pixels[test], kinds[test])


def load_tiles_dataset(normal: str | None) -> DataSet:
    """Generate woven surfaces with defects and exact masks; see `woven_tiles`.

    Raises:
        DataError: `normal` is a class other than "good".
    """
    train, test, kinds, masks = load_tiles()
    if normal is not None:
        require_class(normal, ["good"], "tiles")
    defective = np.array(kinds) != "good"
    defect_masks = [mask if is_defective else None for mask, is_defective in zip(masks, defective, strict=True)]
    labelled = ImageSet.from_array(test, name="test", kind=kinds, label=defective, masks=defect_masks)
    return DataSet("tiles", ImageSet.from_array(train, name="train"), labelled, "good")
