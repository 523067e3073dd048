"""Mask files: the masks of a data set are read alike, as `mask_levels` chooses from all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from oddlens.data.image_io import decode_mask
from oddlens.data.mask_levels import BLACK, Colour, MaskReading, choose_reading, distances
from oddlens.errors import DataError, ImageError
from oddlens.io.text import list_names


@dataclass(frozen=True, eq=False)
class MaskSet:
    """The mask files of a data set, which are read alike; no file is opened before the first mask is read.

    Attributes:
        files: all files.
        problems: why masks cannot be used, with their names. No mask is read as long as there are any.
        ground: the colour of what is not marked, where it is not to be chosen from the files.
    """

    files: tuple[Path, ...]
    problems: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    ground: Colour | None = None

    @cached_property
    def reading(self) -> MaskReading:
        """How these masks are read; its problems include those of the set."""
        return MaskReading(problems=self.problems) if self.problems else choose_reading(self.files, self.ground)


@dataclass(frozen=True, eq=False)
class MaskFile:
    """The mask of one image: a file of a set, or several whose marks are united."""

    paths: tuple[Path, ...]
    masks: MaskSet

    def read(self) -> npt.NDArray[np.bool_]:
        """(H, W) bool, True where a pixel is marked.

        Raises:
            ImageError: a file cannot be read, or has another size than the first.
            DataError: the masks of the set cannot be read, by their problems.
        """
        reading = self.masks.reading
        for reason, names in reading.problems.items():
            raise DataError(f"masks cannot be used: {reason} ({list_names(names)})")
        parts = [distances(decode_mask(path)[0], reading.ground) > reading.threshold for path in self.paths]
        marked = parts[0]
        for path, part in zip(self.paths, parts, strict=True):
            if part.shape != marked.shape:
                raise ImageError(str(path), f"has another size than {self.paths[0]}, a mask of the same image")
            marked = marked | part
        return marked


def with_mask_set(masks: Sequence[MaskFile | Path | None]) -> tuple[MaskFile | None, ...]:
    """The masks, with those that are paths as files of one set."""
    shared = MaskSet(tuple(dict.fromkeys(mask for mask in masks if isinstance(mask, Path))))
    return tuple(MaskFile((mask,), shared) if isinstance(mask, Path) else mask for mask in masks)


def read_mask(path: Path) -> npt.NDArray[np.bool_]:
    """Read a mask file that belongs to no set, (H, W) bool; black is what is not marked.

    Raises:
        ImageError: the file cannot be read, or what it marks is unclear.
    """
    mask = MaskFile((path,), MaskSet((path,), ground=BLACK))
    for reason in mask.masks.reading.problems:
        raise ImageError(str(path), reason)
    return mask.read()
