"""The data sets that need no download: `digits` (scikit-learn's) and `tiles` (drawn here)."""

from __future__ import annotations

import numpy as np

from oddlens.data.image_set import DataSet, ImageSet, require_class
from oddlens.data.near_duplicates import near_duplicate_groups, thumbnails
from oddlens.data.sources.arrays import LabelledArrays
from oddlens.data.sources.woven_tiles import load_tiles
from oddlens.data.splitting import split_groups
from oddlens.errors import MissingExtraError

N_TRAIN = 1300  # of the 1,797 digits


def digits() -> LabelledArrays:
    """Handwritten digits of 8 x 8 pixels, always split in the same way; near-duplicates stay on one side.

    The 17 grey levels are spread over 0..255.

    Raises:
        MissingExtraError: scikit-learn, which carries them, is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingExtraError("the data set 'digits'", "train") from error
    bunch = load_digits()
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    kinds = bunch.target.astype(np.str_)
    groups = near_duplicate_groups(thumbnails(pixels))
    train, test = split_groups(groups, [N_TRAIN, len(pixels) - N_TRAIN], seed=0)
    return LabelledArrays(pixels[train], kinds[train], pixels[test], kinds[test])


def tiles(normal: str | None) -> DataSet:
    """Drawn surfaces with defects and exact masks; see `datasets.tiles`.

    Raises:
        DataError: a normal class other than "good" is asked for.
    """
    train, test, kinds, masks = load_tiles()
    if normal is not None:
        require_class(normal, ["good"], "tiles")
    defective = np.array(kinds) != "good"
    of_each = [mask if marked else None for mask, marked in zip(masks, defective, strict=True)]
    labelled = ImageSet.from_array(test, name="test", kind=kinds, label=defective, masks=of_each)
    return DataSet("tiles", ImageSet.from_array(train, name="train"), labelled, "good")
