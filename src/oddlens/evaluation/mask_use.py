"""Which masks of a test set are used for pixel metrics, which are not, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from oddlens.data.image_set import ImageSet
from oddlens.data.masks import MaskFile
from oddlens.errors import ImageError
from oddlens.io.text import list_names

MAX_RATIO = 1.02  # of the aspect ratios of a mask and its image

EMPTY = "they mark no pixel of anomalous images"
CONTRADICTING = "they mark pixels of normal images"


@dataclass(frozen=True)
class MaskUse:
    """How the masks of a test set are used.

    Attributes:
        sizes: (height, width) at which each image's map is compared with its mask, None where the place of a defect
            is not known; empty without masks.
        n_used: masks of anomalous images that mark something.
        unused: the names of other masks by the reason why; a normal image's empty mask is neither.
        without_mask: anomalous images without a mask.
        stretched: masks with another aspect ratio than their image, which may be masks of another image.
        notes: what a user should know about how the masks are read.
    """

    sizes: list[tuple[int, int] | None] = field(default_factory=list)
    n_used: int = 0
    unused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    without_mask: tuple[str, ...] = ()
    stretched: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def with_unmatched(self, masks: Mapping[str, tuple[str, ...]]) -> MaskUse:
        """The same with the masks of a data set that belong to no image, by the reason why, among the unused ones."""
        return replace(self, unused={**masks, **self.unused})

    @property
    def as_json(self) -> dict[str, Any]:
        """The field `masks` of `eval --json`; no field where there are no masks."""
        if not self.n_used and not self.unused:
            return {}
        values = {
            "n_used": self.n_used,
            "unused": {reason: list(names) for reason, names in self.unused.items()},
            "images_without_mask": list(self.without_mask),
            "stretched": list(self.stretched),
            "notes": list(self.notes),
        }
        return {"masks": values}

    def lines(self) -> list[str]:
        """What a user should know, one thing a line; nothing where each anomalous image has a mask that is used."""
        lines = [f"masks: {note}" for note in self.notes]
        lines += [f"masks not used, as {reason}: {list_names(names)}" for reason, names in self.unused.items()]
        if self.stretched:
            lines.append(
                f"masks with another aspect ratio than their image, stretched to it: {list_names(self.stretched)}"
            )
        if self.without_mask and (self.n_used or self.unused):
            lines.append(f"anomalous images without a mask, left out of pixel metrics: {list_names(self.without_mask)}")
        return lines


def survey_masks(test: ImageSet, errors: list[ImageError] | None = None) -> MaskUse:
    """Read all masks of a test set; with `errors`, masks that cannot be read are left out and their errors put there.

    Raises:
        ImageError: at the first mask that cannot be read.
        DataError: what the masks mark is unclear.
    """
    if not any(mask is not None for mask in test.masks):
        return MaskUse()
    notes = tuple(masks.reading.note for masks in test.mask_sets if masks.reading.note)
    sizes: list[tuple[int, int] | None] = []
    without_mask, stretched = [], []
    unused: dict[str, list[str]] = {EMPTY: [], CONTRADICTING: []}
    for i, info in enumerate(test.infos()):
        image_size, is_anomalous = (info.height, info.width), bool(test.labels[i])
        sizes.append(None if is_anomalous else image_size)  # without a mask, the place of a defect is not known
        try:
            mask = test.mask(i)
        except ImageError as error:
            if errors is None:
                raise
            errors.append(error)
            continue
        if mask is None:
            without_mask += [test.names[i]] * is_anomalous
        elif mask.any() != is_anomalous:
            unused[EMPTY if is_anomalous else CONTRADICTING].append(mask_name(test, i))
        elif is_anomalous:
            sizes[i] = (mask.shape[0], mask.shape[1])
            ratio = mask.shape[1] * info.height / (mask.shape[0] * info.width)
            stretched += [mask_name(test, i)] * (max(ratio, 1 / ratio) > MAX_RATIO)
    return MaskUse(
        sizes,
        n_used=sum(size is not None and bool(label) for size, label in zip(sizes, test.labels, strict=True)),
        unused={reason: tuple(names) for reason, names in unused.items() if names},
        without_mask=tuple(without_mask),
        stretched=tuple(stretched),
        notes=notes,
    )


def mask_name(test: ImageSet, i: int) -> str:
    """The name of an image's mask: its files, or the image's own name where the mask is an array."""
    mask = test.masks[i]
    return " and ".join(map(str, mask.paths)) if isinstance(mask, MaskFile) else test.names[i]
