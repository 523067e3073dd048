"""Match mask files with images by their names, as data sets and labelling tools choose them.

The mask of `test/dent/7.jpg` is `ground_truth/dent/7.png`, `7_mask.bmp`, `7_GT.png`, `7.jpg.png`, `mask_7.png` or the
like, or every file in the folder `ground_truth/dent/7/` together. Case and the form of Unicode do not matter.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from oddlens.data.masks import MaskFile, MaskSet

MASK_FOLDERS = ("ground_truth", "groundtruth", "gt", "masks", "mask")  # in small letters

NO_CLASS = "their folder has the name of no class of test images"
NO_IMAGE = "no test image of the same class has their name"
SECOND_MASK = "their image has another mask, whose name ends in _mask or the like"
CONFLICT = "an image has several masks; leave one of them"

_TAG = "(?:ground[ _-]?truth|gt|masks?|labels?|seg|segmentation|annotation)"
TAG_ENDING, TAG_BEGINNING = re.compile(rf"[ ._-]{_TAG}$", re.I), re.compile(rf"^{_TAG}[ ._-]", re.I)

Scheme = Literal["tagged", "plain", "folder"]


@dataclass(frozen=True)
class _Owners:
    """The images that a mask belongs to, and the scheme by which it is named after them."""

    images: list[str]
    scheme: Scheme


@dataclass
class MaskMatches:
    """Which mask files belong to which image."""

    paths: dict[str, tuple[str, ...]] = field(default_factory=dict)  # of each image that has one
    unused: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))  # by the reason why
    conflicts: list[str] = field(default_factory=list)  # several masks of one image, in each entry

    @property
    def unused_by_reason(self) -> dict[str, tuple[str, ...]]:
        """The unused masks, for `DataSet.unused_masks`."""
        return {reason: tuple(masks) for reason, masks in self.unused.items()}

    def mask_of_each(self, images: Iterable[str]) -> list[MaskFile | None]:
        """The mask of each image, all in one set."""
        problems = {CONFLICT: tuple(self.conflicts)} if self.conflicts else {}
        paths = {image: tuple(map(Path, masks)) for image, masks in self.paths.items()}
        mask_set = MaskSet(tuple(dict.fromkeys(path for masks in paths.values() for path in masks)), problems)
        return [MaskFile(paths[image], mask_set) if image in paths else None for image in images]


def match_masks(images: Mapping[str, str], masks: Mapping[str, str]) -> MaskMatches:
    """Match mask files with images.

    Both are paths, each with its place below the folder of all classes, such as "dent/7.jpg". A mask whose name ends in
    `_mask` or the like precedes one with the image's own name, which may be a copy of the image. Any other two masks of
    one image are a conflict.
    """
    matches, candidates = MaskMatches(), defaultdict[str, dict[Scheme, list[str]]](lambda: defaultdict(list))
    if not masks:  # to fold the names of very many images takes a while
        return matches
    classes = {_fold(place).split("/")[0] for place in images.values()}
    exact, folded = _by_name(images, _nfc), _by_name(images, _fold)
    for mask, place in masks.items():
        owners = _owners(_nfc(place), exact) or _owners(_fold(place), folded)
        if owners is None:
            matches.unused[NO_IMAGE if _fold(place).split("/")[0] in classes else NO_CLASS].append(mask)
            continue
        for image in owners.images:
            candidates[image][owners.scheme].append(mask)
    for image, schemes in candidates.items():
        matches.paths[image] = _choose_masks(schemes, matches)
    return matches


def _by_name(images: Mapping[str, str], form: Callable[[str], str]) -> dict[str, list[str]]:
    """The images by their place, with and without suffix, in a form in which names are compared."""
    index: dict[str, list[str]] = defaultdict(list)
    for image, place in images.items():
        index[form(place)].append(image)
        if _without_suffix(place) != place:
            index[_without_suffix(form(place))].append(image)
    return index


def _owners(place: str, index: Mapping[str, list[str]]) -> _Owners | None:
    """The images that a mask at `place` belongs to by its name, or by that of its folder; None if there are none."""
    folder, _, name = place.rpartition("/")
    stem = _without_suffix(name)
    names: dict[str, Scheme] = {f"{folder}/{stem}": "plain"}
    while TAG_ENDING.search(stem):
        stem = TAG_ENDING.sub("", stem)
        names[f"{folder}/{stem}"] = "tagged"
    if TAG_BEGINNING.match(stem):
        names[f"{folder}/{TAG_BEGINNING.sub('', stem)}"] = "tagged"
    names[folder] = "folder"
    return next((_Owners(index[key], scheme) for key, scheme in names.items() if key in index), None)


def _choose_masks(schemes: Mapping[Scheme, list[str]], matches: MaskMatches) -> tuple[str, ...]:
    """The masks of one image; those that are left out, and conflicts, are added to `matches`."""
    every = tuple(mask for masks in schemes.values() for mask in masks)
    if len(every) == 1 or schemes.keys() == {"folder"}:
        return every
    if schemes.keys() == {"tagged", "plain"} and len(schemes["tagged"]) == 1:
        matches.unused[SECOND_MASK] += schemes["plain"]
        return tuple(schemes["tagged"])
    matches.conflicts.append(" and ".join(every))
    return every


def _nfc(place: str) -> str:
    return unicodedata.normalize("NFC", place.replace(os.sep, "/"))


def _fold(place: str) -> str:
    return _nfc(_nfc(place).casefold())


def _without_suffix(name: str) -> str:
    return name.removesuffix(Path(name).suffix)
