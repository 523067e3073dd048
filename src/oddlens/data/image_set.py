"""`ImageSet` and `DataSet`: the images that detectors are trained on, calibrated with and applied to."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from oddlens.config.base import InputSpec
from oddlens.data.image_header import ImageInfo
from oddlens.data.image_io import DECODERS, Pixels, as_pixels, decode, probe
from oddlens.data.masks import MaskFile, MaskSet, with_mask_set
from oddlens.data.ordered_pool import OrderedPool, ordered_map
from oddlens.data.pixel_store import allocate_pixels
from oddlens.data.preprocessing import choose_spec, fit_to, value_max
from oddlens.errors import DataError, ImageError, UnreadableImageError

MAX_PIXELS_AHEAD = 2**24  # of images decoded ahead, unless that is a single one
MAX_TASK_IMAGES = 16  # images per task, at most; passing single small images between threads costs as much as decoding

LeftOut = Mapping[str, tuple[str, ...]]  # why something is not read as an image -> paths
Mask = MaskFile | npt.NDArray[np.bool_]
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images that are decoded on demand, with their names, classes, labels, masks and groups.

    The fields up to `groups` have one entry per image.

    Attributes:
        names: what verdict files show: the path as the user gave it, or "train[17]" for arrays.
        kinds: "good", a class or a defect.
        labels: (N,) int8: 0 normal, 1 anomalous.
        images: one array (N, H, W, C), or for each image the path of its file, its content or an array (H, W, C).
        masks: files, read alike, or arrays (H, W) bool; None is no mask, which for a normal image means no defect.
        groups: what each image belongs to (a camera, a product) where each group has its own threshold; empty without.
        grouped_by: where the groups come from: "folder", or "column NAME" of a CSV file.
        source: where the images come from, as the user wrote it; the folder of the first one unless given.
        normal: the name of what is normal. A detector's manifest keeps both.
        left_out: files and folders beside the images that were not read, by reason.
    """

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    labels: npt.NDArray[np.int8]
    images: Pixels | tuple[str | bytes | Pixels, ...]
    masks: tuple[Mask | None, ...]
    groups: tuple[str, ...] = ()
    grouped_by: str = ""
    source: str = ""
    normal: str = "good"
    left_out: LeftOut = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.source:
            object.__setattr__(self, "source", self.names[0].rsplit("/", 1)[0] if self.names else "nothing")
        sizes = {len(part) for part in (self.names, self.kinds, self.labels, self.images, self.masks)}
        if len(sizes) > 1:
            raise DataError(f"an ImageSet needs one name, kind, label, image and mask per image, got {sorted(sizes)}")
        if self.groups and len(self.groups) != len(self.names):
            raise DataError(f"an ImageSet needs one group per image, got {len(self.groups)} for {len(self.names)}")
        if "" in self.groups:
            raise DataError(f"{self.names[self.groups.index('')]}: its group has no name; give it one")

    @classmethod
    def from_array(
        cls,
        array: npt.NDArray[Any],
        *,
        name: str = "array",
        kind: str | Sequence[str] = "good",
        label: int | npt.ArrayLike = 0,
        masks: Sequence[npt.NDArray[np.bool_] | None] | None = None,
    ) -> ImageSet:
        """Images held in memory; see `image_io.as_pixels` for the shapes and types accepted.

        `kind` and `label` are one for all images or one per image; `masks` has (H, W) bool or None for each image.

        Raises:
            ImageError: the array is not one of images.
        """
        pixels = as_pixels(array, name)
        names = tuple(f"{name}[{i}]" for i in range(len(pixels)))
        mask_of_each = (None,) * len(pixels) if masks is None else tuple(masks)
        kinds, labels = _each(kind, len(pixels)), _labels(label, len(pixels))
        return cls(names, kinds, labels, pixels, mask_of_each, source=f"array {array.shape}")

    @classmethod
    def from_files(
        cls,
        paths: Iterable[str | Path],
        *,
        kind: str | Sequence[str] = "good",
        label: int | npt.ArrayLike = 0,
        masks: Sequence[MaskFile | Path | None] | None = None,
        source: str = "",
    ) -> ImageSet:
        """Image files in this order, each named as it was written; none is opened yet. Paths of masks are one set."""
        names = tuple(str(path) for path in paths)
        mask_of_each = (None,) * len(names) if masks is None else with_mask_set(masks)
        kinds, labels = _each(kind, len(names)), _labels(label, len(names))
        return cls(names, kinds, labels, names, mask_of_each, source=source)

    def __len__(self) -> int:
        return len(self.names)

    def subset(self, index: npt.ArrayLike) -> ImageSet:
        """The images at an integer or boolean index, in the index's order."""
        rows = np.asarray(index)
        rows = rows.astype(np.intp) if rows.size == 0 else np.arange(len(self))[rows]
        return replace(
            self,
            names=_at(self.names, rows),
            kinds=_at(self.kinds, rows),
            labels=self.labels[rows],
            images=self.images[rows] if isinstance(self.images, np.ndarray) else _at(self.images, rows),
            masks=_at(self.masks, rows),
            groups=_at(self.groups, rows) if self.groups else (),
        )

    def image(self, i: int, spec: InputSpec | None = None) -> Pixels:
        """One image at its own size, (H, W, C); with `spec`, it may already have that size (see `image_io.decode`).

        Raises:
            ImageError: its file cannot be read; the error has the image's name in this set.
        """
        image = self.images[i]
        if isinstance(image, np.ndarray):
            return image
        try:
            return decode(image if isinstance(image, bytes) else Path(image), spec)
        except ImageError as error:
            raise UnreadableImageError(self.names[i], error.reason) from error

    def mask(self, i: int) -> npt.NDArray[np.bool_] | None:
        """One mask at its own size, (H, W) bool, or None where there is none.

        Raises:
            ImageError: its file cannot be read.
            DataError: the masks of its data set cannot be read, as what they mark is unclear.
        """
        mask = self.masks[i]
        return mask.read() if isinstance(mask, MaskFile) else mask

    @property
    def mask_sets(self) -> tuple[MaskSet, ...]:
        """The sets of mask files that masks of these images belong to, in order."""
        return tuple(dict.fromkeys(mask.masks for mask in self.masks if isinstance(mask, MaskFile)))

    def infos(self) -> list[ImageInfo]:
        """Size, channels and bits of every image; of files only the headers are read.

        Raises:
            ImageError: a header cannot be read.
        """
        return [self._info(i) for i in range(len(self))]

    def _info(self, i: int) -> ImageInfo:
        image = self.images[i]
        if isinstance(image, np.ndarray):
            height, width, channels = image.shape
            return ImageInfo(height, width, 3 if channels == 3 else 1, 8 if image.dtype == np.uint8 else 16)
        try:
            return probe(image if isinstance(image, bytes) else Path(image))
        except ImageError as error:
            raise UnreadableImageError(self.names[i], error.reason) from error

    def choose_spec(self, size: int | tuple[int, int] | None, infos: Sequence[ImageInfo] | None = None) -> InputSpec:
        """The pixels that a detector of these images should take; 16-bit images are decoded for their peak.

        `infos` are those of the images, where they have been read already.

        Raises:
            DataError: there are no images, or they do not go together.
        """
        infos = self.infos() if infos is None else infos
        if not infos:
            raise DataError("there are no images to choose an input size from; give at least one")
        deep = [i for i, info in enumerate(infos) if info.bits == 16]
        peak = max(ordered_map(lambda i: int(self.image(i).max()), deep, DECODERS, 2 * DECODERS), default=0)
        return choose_spec(infos, value_max(peak, 16 if deep else 8), size)

    def batches(
        self,
        spec: InputSpec,
        batch_size: int,
        start: int = 0,
        problems: dict[int, UnreadableImageError] | None = None,
        *,
        pool: OrderedPool[Any] | None = None,
        on_image: Callable[[int, Pixels], None] | None = None,
    ) -> Iterator[Pixels]:
        """The images from `start` on in the form of `spec`, (B, height, width, channels) at a time, in order.

        Files are decoded by a few threads, or those of `pool`, that stay at most two batches ahead. With `problems`,
        images that cannot be read are left out of their batch, which may be empty then, and their errors are put there
        under their positions. `on_image` is called with the position and the pixels of each image at its own size, by
        the thread that decoded it.

        Raises:
            ImageError: at the first image that cannot be read or does not fit the spec.
        """
        images, shape = self.images, (spec.height, spec.width, spec.channels)
        starts = range(start, len(self), batch_size)
        if isinstance(images, np.ndarray) and images.shape[1:] == shape and images.dtype == spec.dtype:
            yield from (images[first : first + batch_size] for first in starts)
            return
        size = max(1, min(MAX_TASK_IMAGES, batch_size // 8))
        tasks = (range(first, min(first + size, len(self))) for first in range(start, len(self), size))
        ahead = max(1, min(2 * batch_size // size, MAX_PIXELS_AHEAD // (size * spec.height * spec.width)))
        with closing(
            ordered_map(lambda task: self._resized(task, spec, on_image), tasks, pool or DECODERS, ahead)
        ) as done:
            resized = chain.from_iterable(done)
            for first in starts:
                good: list[Pixels] = []
                for i, image in zip(range(first, min(first + batch_size, len(self))), resized, strict=False):
                    if not isinstance(image, ImageError):
                        good.append(image)
                    elif problems is not None and isinstance(image, UnreadableImageError):
                        problems[i] = image
                    else:
                        raise image
                yield stack(good, shape, spec.dtype)

    def _resized(
        self, indices: Iterable[int], spec: InputSpec, on_image: Callable[[int, Pixels], None] | None
    ) -> list[Pixels | ImageError]:
        """Some images in the form of `spec`, or the error of each that cannot be read."""
        results: list[Pixels | ImageError] = []
        for i in indices:
            try:
                image = self.image(i, spec if on_image is None else None)
                results.append(fit_to(image, spec, self.names[i]))
                if on_image is not None:
                    on_image(i, image)
            except ImageError as error:
                results.append(error)
        return results

    def load(self, spec: InputSpec) -> Pixels:
        """All images in the form of `spec`, (N, height, width, channels); very many are kept in a temporary file.

        Raises:
            ImageError: at the first image that cannot be read or does not fit the spec.
            DataError: neither memory nor disk has room for them.
        """
        pixels = allocate_pixels((len(self), spec.height, spec.width, spec.channels), spec.dtype)
        start = 0
        for batch in self.batches(spec, 64):
            pixels[start : start + len(batch)] = batch
            start += len(batch)
        return pixels

    def readable(self) -> tuple[ImageSet, list[ImageError]]:
        """The images that can be decoded, and the errors of the others; every image is decoded once."""

        def problem(i: int) -> ImageError | None:
            try:
                self.image(i)
            except ImageError as error:
                return error
            return None

        problems = list(ordered_map(problem, range(len(self)), DECODERS, 2 * DECODERS))
        return self.subset(np.array([error is None for error in problems])), [e for e in problems if e is not None]


@dataclass(frozen=True, eq=False)
class DataSet:
    """A training set of normal images and a labelled test set.

    `train` may be empty (a data set for testing only) and so may `test` (normal images only). `normal` is
    "good", the class that is normal, or "all" where every class is. `unused_masks` are the mask files that belong to
    no image, and `left_out` the files and folders that were not read, both by the reason why. A plain data set has
    neither parts nor classes, and all its images are in `train`.
    """

    name: str
    train: ImageSet
    test: ImageSet
    normal: str
    unused_masks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    left_out: LeftOut = field(default_factory=dict)
    is_plain: bool = False


def stack(images: Sequence[Pixels], shape: tuple[int, ...], dtype: str) -> Pixels:
    """Images of one shape (H, W, C) and type as one array; a single one, which may be large, is not copied."""
    if len(images) == 1:
        return images[0][None]
    return cast(Pixels, np.stack(images) if images else np.empty((0, *shape), dtype))


def concatenate(sets: Sequence[ImageSet]) -> ImageSet:
    """One set of all the images, in order.

    Arrays of equal shape and type become one array; anything else is kept image by image.
    """
    arrays = [part.images for part in sets if isinstance(part.images, np.ndarray)]
    images: Pixels | tuple[str | bytes | Pixels, ...]
    if arrays and len(arrays) == len(sets) and len({(array.shape[1:], array.dtype) for array in arrays}) == 1:
        images = cast(Pixels, np.concatenate(arrays))
    else:
        images = tuple(image for part in sets for image in part.images)
    return ImageSet(
        names=tuple(name for part in sets for name in part.names),
        kinds=tuple(kind for part in sets for kind in part.kinds),
        labels=np.concatenate([np.zeros(0, dtype=np.int8), *(part.labels for part in sets)]),
        images=images,
        masks=tuple(mask for part in sets for mask in part.masks),
        groups=tuple(group for part in sets for group in part.groups),
        grouped_by=next((part.grouped_by for part in sets), ""),
        source=next((part.source for part in sets), ""),
        normal=next((part.normal for part in sets), "good"),
        left_out=merge_left_out(part.left_out for part in sets),
    )


def merge_left_out(parts: Iterable[LeftOut]) -> LeftOut:
    """What was left out of any part, by reason; each path once."""
    merged: dict[str, dict[str, None]] = {}
    for reason, paths in chain.from_iterable(part.items() for part in parts):
        merged.setdefault(reason, {}).update(dict.fromkeys(paths))
    return {reason: tuple(paths) for reason, paths in merged.items()}


def require_class(normal: str, classes: Iterable[str], where: str) -> None:
    """Refuse a normal class that is not among `classes`.

    Raises:
        DataError: lists the classes and names the nearest one.
    """
    names = list(classes)
    if normal not in names:
        near = difflib.get_close_matches(normal, names, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise DataError(f"{where}: has no class '{normal}'; {hint}the classes are: {', '.join(names) or '(none)'}")


def _each(value: str | Sequence[str], count: int) -> tuple[str, ...]:
    return (value,) * count if isinstance(value, str) else tuple(str(item) for item in value)


def _labels(value: int | npt.ArrayLike, count: int) -> npt.NDArray[np.int8]:
    return np.broadcast_to(np.asarray(value, dtype=np.int8), (count,)).copy()


def _at(items: tuple[T, ...], index: npt.NDArray[np.intp]) -> tuple[T, ...]:
    return tuple(items[i] for i in index)
