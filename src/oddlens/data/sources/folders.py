"""Open folders of images: plain folders, class folders, and MVTec's train/test layout with masks.

The names of the subfolders determine the layout:

- `train/` or `test/`: class folders below each of them, masks in `ground_truth/<class>/<name>_mask.*`;
- `good/` and other subfolders, or any subfolders if a normal class is given: one subfolder per class;
- anything else: all images in the folder, at any depth, are normal.

What no layout reads is in the `left_out` of the data set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from oddlens.data.image_set import DataSet, ImageSet, concatenate, require_class
from oddlens.data.sources.listing import NOT_IN_LAYOUT, FolderListing, join, no_images_error
from oddlens.data.sources.mixed_masks import refuse_masks_among_images
from oddlens.errors import DataError

GOOD = "good"
MASKS = "ground_truth"


def open_folder(source: str, normal: str | None) -> DataSet:
    """Open the data set in a folder; `source` is its path as the user wrote it, with which all image names start.

    Raises:
        DataNotFoundError: the folder contains no image.
        DataError: there is no such class, the layout of the folder is ambiguous, or masks lie among the images.
    """
    listing = FolderListing(source)
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


def _open_layout(name: str, listing: FolderListing, normal: str | None) -> DataSet:
    source, subfolders = listing.root, listing.subfolders()
    if "train" in subfolders or "test" in subfolders:
        return _open_train_and_test(name, listing, normal)
    misplaced = [folder for folder in subfolders if folder.casefold() in ("train", "test", MASKS)]
    if misplaced:  # as a plain folder, its test images or masks would be training images
        raise DataError(
            f"{source}: has '{misplaced[0]}' but neither 'train' nor 'test'; name the folders "
            f"train/good, test/good, test/<defect> and {MASKS}/<defect>"
        )
    sets = [folder for folder in subfolders if {"train", "test"} <= set(listing.subfolders(folder))]
    if sets:
        raise DataError(f"{source}: is a folder of data sets; give one of them: {', '.join(sets)}")
    if normal is None and (GOOD not in subfolders or len(subfolders) == 1):
        return DataSet(name, _images_of(listing, ""), ImageSet.from_files([]), GOOD, is_plain=True)
    normal = normal or GOOD
    require_class(normal, subfolders, source)
    _refuse_loose_images(listing, "")
    train = _images_of(listing, normal)
    labelled = _labelled(listing, "", subfolders, normal)
    return DataSet(name, replace(train, kinds=(normal,) * len(train)), labelled, normal)


def _open_train_and_test(name: str, listing: FolderListing, normal: str | None) -> DataSet:
    source, train_classes, test_classes = listing.root, listing.subfolders("train"), listing.subfolders("test")
    normal_class = _choose_normal_class(source, train_classes, test_classes, normal)
    if train_classes:
        _refuse_loose_images(listing, "train")
    _refuse_loose_images(listing, "test")
    _leave_out_the_rest(listing, "", ("train", "test", MASKS))
    if train_classes and normal is None:
        _leave_out_the_rest(listing, "train", (normal_class,))
    train = join("train", normal_class) if train_classes else "train"
    has_train = "train" in listing.subfolders()
    normals = _images_of(listing, train) if has_train else ImageSet.from_files([])
    normals = replace(normals, kinds=(normal_class,) * len(normals))
    labelled = _labelled(listing, "test", test_classes, normal_class, MASKS)
    if len(normals) + len(labelled) == 0:
        raise no_images_error(source, listing.left_out)
    used = {str(mask) for mask in labelled.masks}
    masks = [join(source, file) for file in listing.images(MASKS)]
    return DataSet(name, normals, labelled, normal_class, tuple(mask for mask in masks if str(Path(mask)) not in used))


def _choose_normal_class(source: str, train_classes: list[str], test_classes: list[str], normal: str | None) -> str:
    """The normal class: `normal` if it is not None, else "good", else the only training class.

    A test part may have defects alone: "good" need not be among its classes where it is `normal`, or where there is no
    training part.
    """
    classes = train_classes or test_classes
    if normal is not None:
        if normal != GOOD or train_classes:
            require_class(normal, classes, source)
        return normal
    if GOOD in classes or not classes or not Path(source, "train").is_dir():
        return GOOD
    if len(train_classes) == 1 and GOOD not in test_classes:
        return train_classes[0]
    folder = join(source, "train" if train_classes else "test")
    alone = "" if train_classes else f", or choose '{GOOD}' if all of these are defects"
    raise DataError(f"{folder}: has no class '{GOOD}'; choose the normal class from: {', '.join(classes)}{alone}")


def _images_of(listing: FolderListing, folder: str) -> ImageSet:
    """The images below a folder, all normal.

    Raises:
        DataNotFoundError: there are none.
        DataError: masks lie among them.
    """
    paths = listing.images(folder)
    if not paths:
        raise no_images_error(join(listing.root, folder) if folder else listing.root, listing.left_out)
    refuse_masks_among_images(listing.root, paths)
    return ImageSet.from_files([join(listing.root, path) for path in paths])


def _labelled(
    listing: FolderListing, parent: str, classes: Sequence[str], normal: str, masks: str | None = None
) -> ImageSet:
    """The labelled images of all classes, with their masks if `masks` is a folder that contains them by class."""
    sets = []
    for kind in classes:
        folder = join(parent, kind)
        files = [path.removeprefix(join(folder, "")) for path in listing.images(folder)]
        refuse_masks_among_images(join(listing.root, folder), files)
        mask_folder = "" if masks is None else join(masks, kind)
        mask_paths = listing.images(mask_folder) if masks else []
        mask_files = {_stem(path.removeprefix(join(mask_folder, ""))): Path(listing.root, path) for path in mask_paths}
        paths = [join(listing.root, folder, file) for file in files]
        image_masks = [mask_files.get(f"{_stem(file)}_mask") for file in files]
        sets.append(ImageSet.from_files(paths, kind=kind, label=int(kind != normal), masks=image_masks))
    return concatenate(sets)


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


def _stem(file: str) -> str:
    return file.removesuffix(Path(file).suffix)
