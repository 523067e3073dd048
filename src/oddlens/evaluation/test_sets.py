"""Labelled test sets: a data set's own, or its normal images with distorted and unseen ones beside them."""

from __future__ import annotations

from dataclasses import replace

from oddlens.config.base import InputSpec
from oddlens.data.image_io import Pixels
from oddlens.data.image_set import DataSet, ImageSet, concatenate
from oddlens.evaluation import corruptions

NORMAL = "normal"  # what normal images are called where several classes of them are pooled


def labelled_images(
    data: DataSet, spec: InputSpec, seed: int, distort: bool, foreign: Pixels | None = None
) -> ImageSet:
    """The data set's own test images; with `distort`, its normal ones with distorted and unseen ones beside them.

    `foreign` are pictures (N, h, w, C) of another data set, shown in grey where the detector sees grey.
    """
    if not distort:
        return data.test
    source = data.test.subset(data.test.labels == 0)
    normal = source.load(spec)
    parts = [ImageSet.from_array(normal, name=f"{data.name}/test", kind=NORMAL)]
    for kind in corruptions.DISTORTIONS:
        parts.append(anomalous_images(corruptions.distort(kind, normal, spec.value_max, seed), kind))
    for kind in corruptions.PATTERNS:
        parts.append(anomalous_images(corruptions.pattern(kind, len(normal), spec, seed), kind))
    if foreign is not None:
        parts.append(anomalous_images(corruptions.foreign(foreign[: len(normal)], spec), "foreign"))
    if source.groups:  # each picture made stands for one of its source's group
        parts = [replace(part, groups=source.groups[: len(part)], grouped_by=source.grouped_by) for part in parts]
    return concatenate(parts)


def anomalous_images(pixels: Pixels, kind: str) -> ImageSet:
    """Pictures of one kind of anomaly."""
    return ImageSet.from_array(pixels, name=kind, kind=kind, label=1)
