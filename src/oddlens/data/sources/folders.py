"""Open folders of images: plain folders, class folders, and MVTec's train/test layout with masks.

The names of the subfolders determine the layout:

- `train/` or `test/`: class folders below each of them, masks in `ground_truth/<class>/`, matched by `mask_files`;
- `Images/` and `Masks/`, or `Data/` with both: VisA's class folders, of which `Normal` is the normal one;
- `good/` and other subfolders, or any subfolders if a normal class is given: one subfolder per class;
- anything else: all images in the folder, at any depth, are normal.

What no layout reads is in the `left_out` of the data set.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from oddlens.data.image_io import Pixels
from oddlens.data.image_set import DataSet, ImageSet, require_class
from oddlens.data.sources.listing import NOT_IN_LAYOUT, FolderListing, join, no_images_error
from oddlens.data.sources.mask_files import MASK_FOLDERS, MaskMatches, match_masks
from oddlens.data.sources.mixed_masks import refuse_masks_among_images
from oddlens.errors import DataError

GOOD = "good"
MASKS = "ground_truth"
NORMAL_NAMES = (GOOD, "ok", "normal")  # in small letters, of folders that have others of defects beside them
VISA = ("Images", "Masks")  # the folders of VisA's layout, in which normal images are in Images/Normal


def open_folder(source: str, normal: str | None, follow_links: bool = True) -> DataSet:
    """Open the data set in a folder; `source` is its path as the user wrote it, with which all image names start.

    Without `follow_links`, symbolic links below the folder are left out.

    Raises:
        DataNotFoundError: the folder contains no image.
        DataError: there is no such class, the layout of the folder is ambiguous, or masks lie among the images.
    """
    listing = FolderListing(source, follow_links)
    data = _open_layout(Path(source).resolve().name or source, listing, normal)
    return replace(data, left_out=listing.left_out)


def open_image_folder(source: str) -> ImageSet:
    """All images below a folder, at any depth, in natural order.

    Raises:
        DataNotFoundError: there are none.
        DataError: masks lie among them.
    """
    listing = FolderListing(source)
    images = _images_of(listing, "")
    return replace(images, left_out=listing.left_out)


def folder_files(data: DataSet) -> dict[str, Pixels]:
    """The images and masks of a data set as files of MVTec's layout: paths below a folder, and pixels (H, W[, 3])."""
    files: dict[str, Pixels] = {}
    numbers = Counter[str]()
    for part, images in (("train", data.train), ("test", data.test)):
        for i, kind in enumerate(images.kinds):
            place = f"{kind}/{numbers[f'{part}/{kind}']:03}"
            numbers[f"{part}/{kind}"] += 1
            pixels = images.image(i)
            files[f"{part}/{place}.png"] = pixels[..., 0] if pixels.shape[2] == 1 else pixels
            mask = images.mask(i)
            if mask is not None:
                files[f"{MASKS}/{place}_mask.png"] = mask.astype(np.uint8) * 255
    return files


def _open_layout(name: str, listing: FolderListing, normal: str | None) -> DataSet:
    source, subfolders = listing.root, listing.subfolders()
    if "train" in subfolders or "test" in subfolders:
        return _open_train_and_test(name, listing, normal)
    for parent in ("Data", ""):
        if _is_visa(listing, parent):
            return _open_visa(name, listing, parent, normal or "Normal")
    misplaced = [folder for folder in subfolders if folder.casefold() in ("train", "test", MASKS)]
    if misplaced:  # as a plain folder, its test images or masks would be training images
        raise DataError(
            f"{source}: has '{misplaced[0]}' but neither 'train' nor 'test'; name the folders "
            f"train/good, test/good, test/<defect> and {MASKS}/<defect>"
        )
    sets = [folder for folder in subfolders if _is_data_set(listing, folder)]
    if sets:
        raise DataError(f"{source}: is a folder of data sets; give one of them: {', '.join(sets)}")
    if normal is None and (GOOD not in subfolders or len(subfolders) == 1):
        _refuse_hidden_classes(listing)
        return DataSet(name, _images_of(listing, ""), ImageSet.from_files([]), GOOD, is_plain=True)
    normal = normal or GOOD
    require_class(normal, subfolders, source)
    _refuse_loose_images(listing, "")
    train = _images_of(listing, normal, kind=normal)
    return DataSet(name, train, _labelled_images(listing, "", subfolders, normal)[0], normal)


def _refuse_hidden_classes(listing: FolderListing) -> None:
    """Refuse to take class folders for a plain folder, whose defects would all be normal."""
    subfolders = listing.subfolders()
    named = [folder for folder in subfolders if folder.casefold() in NORMAL_NAMES]
    if named and len(subfolders) > 1:
        raise DataError(
            f"{listing.root}: has a folder '{named[0]}' beside {len(subfolders) - 1} more; if these are classes, add "
            f"--normal {named[0]}; if all images are normal, rename it"
        )


def _is_visa(listing: FolderListing, parent: str) -> bool:
    return set(VISA) <= set(listing.subfolders(parent)) and "Normal" in listing.subfolders(join(parent, VISA[0]))


def _is_data_set(listing: FolderListing, folder: str) -> bool:
    return {"train", "test"} <= set(listing.subfolders(folder)) or _is_visa(listing, join(folder, "Data"))


def _open_visa(name: str, listing: FolderListing, parent: str, normal: str) -> DataSet:
    images, masks = (join(parent, folder) for folder in VISA)
    classes = listing.subfolders(images)
    require_class(normal, classes, join(listing.root, images))
    _refuse_loose_images(listing, images)
    _leave_out_the_rest(listing, parent, VISA)
    if parent:
        _leave_out_the_rest(listing, "", [parent])
    train = _images_of(listing, join(images, normal), kind=normal)
    labelled, matches = _labelled_images(listing, images, classes, normal, [masks])
    return DataSet(name, train, labelled, normal, matches.unused_by_reason)


def _open_train_and_test(name: str, listing: FolderListing, normal: str | None) -> DataSet:
    subfolders, train_classes = listing.subfolders(), listing.subfolders("train")
    normal_class = _choose_normal_class(listing, normal)
    if train_classes:
        _refuse_loose_images(listing, "train")
    _refuse_loose_images(listing, "test")
    mask_folders = [folder for folder in subfolders if folder.casefold() in MASK_FOLDERS]
    _leave_out_the_rest(listing, "", ["train", "test", *mask_folders])
    if train_classes and normal is None:
        _leave_out_the_rest(listing, "train", [normal_class])
    train = join("train", normal_class) if train_classes else "train"
    normals = _images_of(listing, train, kind=normal_class) if "train" in subfolders else ImageSet.from_files([])
    labelled, matches = _labelled_images(listing, "test", listing.subfolders("test"), normal_class, mask_folders)
    if len(normals) + len(labelled) == 0:
        raise no_images_error(listing.root, listing.left_out)
    return DataSet(name, normals, labelled, normal_class, matches.unused_by_reason)


def _choose_normal_class(listing: FolderListing, normal: str | None) -> str:
    """The normal class: `normal` if it is not None, else "good", else the only training class.

    A test part may have defects alone: "good" need not be among its classes where it is `normal`, or where there is no
    training part.
    """
    train_classes, test_classes = listing.subfolders("train"), listing.subfolders("test")
    classes = train_classes or test_classes
    if normal is not None:
        if normal != GOOD or train_classes:
            require_class(normal, classes, listing.root)
        return normal
    if GOOD in classes or not classes or "train" not in listing.subfolders():
        return GOOD
    if len(train_classes) == 1 and GOOD not in test_classes:
        return train_classes[0]
    folder = join(listing.root, "train" if train_classes else "test")
    alone = "" if train_classes else f", or choose '{GOOD}' if all of these are defects"
    raise DataError(f"{folder}: has no class '{GOOD}'; choose the normal class from: {', '.join(classes)}{alone}")


def _images_of(listing: FolderListing, folder: str, kind: str = GOOD) -> ImageSet:
    """The images below a folder, all normal.

    Raises:
        DataNotFoundError: there are none.
        DataError: masks lie among them.
    """
    paths = listing.images(folder)
    if not paths:
        raise no_images_error(join(listing.root, folder) if folder else listing.root, listing.left_out)
    refuse_masks_among_images(listing.root, paths)
    return ImageSet.from_files([join(listing.root, path) for path in paths], kind=kind)


def _labelled_images(
    listing: FolderListing, parent: str, classes: Sequence[str], normal: str, mask_folders: Sequence[str] = ()
) -> tuple[ImageSet, MaskMatches]:
    """The labelled images of all classes, with their masks, and how the files in `mask_folders` are matched."""
    places: dict[str, str] = {}  # path of the image -> its place below `parent`
    kinds: list[str] = []
    for kind in classes:
        paths = listing.images(join(parent, kind))
        refuse_masks_among_images(listing.root, paths)
        places |= {join(listing.root, path): path.removeprefix(join(parent, "")) for path in paths}
        kinds += [kind] * len(paths)
    masks = {
        join(listing.root, path): path.removeprefix(join(folder, ""))
        for folder in mask_folders
        for path in listing.images(folder)
    }
    matches = match_masks(places, masks)
    labels, mask_of_each = [int(kind != normal) for kind in kinds], matches.mask_of_each(places)
    return ImageSet.from_files(places, kind=kinds, label=labels, masks=mask_of_each), matches


def _refuse_loose_images(listing: FolderListing, folder: str) -> None:
    """Refuse images outside the class folders: they have no class, and skipping them silently would lose data."""
    loose = listing.entries(folder).images
    if loose:
        parent = join(listing.root, folder) if folder else listing.root
        raise DataError(
            f"{join(parent, loose[0])}: is outside the class folders, with {len(loose) - 1} more; "
            f"move it to the folder of its class, such as {join(parent, GOOD)}"
        )


def _leave_out_the_rest(listing: FolderListing, folder: str, used: Sequence[str]) -> None:
    """Account for the images and folders in a folder of which only some are read."""
    for image in listing.entries(folder).images:
        listing.leave_out(NOT_IN_LAYOUT, join(folder, image))
    for name in listing.subfolders(folder):
        if name not in used:
            listing.leave_out(NOT_IN_LAYOUT, join(folder, name, ""))
