"""Labelled test sets: a data set's own test images, or its normal images with corrupted and foreign ones added."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

from oddlens.config.base import InputSpec
from oddlens.data.image_io import Pixels
from oddlens.data.image_set import DataSet, ImageSet, concatenate
from oddlens.data.sources.folders import GOOD
from oddlens.errors import DataError
from oddlens.evaluation import corruptions

NORMAL = "normal"  # the kind of normal images where several classes of them are pooled


def with_test_images(data: DataSet, log: Callable[[str], None] | None = None) -> DataSet:
    """The data set with test images: of one without parts and classes, all images, as normal ones.

    `log` is called with a line that says so.

    Raises:
        DataError: it has no test images, or its folders may be classes.
    """
    if len(data.test) or not data.is_plain:
        return data
    source = data.train.source
    files = data.train.images if isinstance(data.train.images, tuple) else ()
    paths = [os.path.relpath(file, source) for file in files if isinstance(file, str)]
    folders = sorted({path.partition(os.sep)[0] for path in paths if os.sep in path} - {GOOD})
    if folders:
        raise DataError(
            f"{source}: has the folders {', '.join(folders[:10])} and no part `test`, so it is not clear which images "
            "are normal; give one folder of normal images, or make it a data set of test/good and test/<defect>"
        )
    if log:
        log(f"{source}: has no classes, so all {len(data.train)} images count as normal")
    return replace(data, test=data.train)


def build_test_set(data: DataSet, spec: InputSpec, seed: int, distort: bool, foreign: Pixels | None = None) -> ImageSet:
    """Return the data set's own test images; with `distort`, its normal ones with corrupted and foreign ones added.

    `foreign` are images (N, h, w, C) of another data set, converted to grey where the detector's input is grey.
    """
    if not distort:
        return data.test
    source = data.test.subset(data.test.labels == 0)
    normal = source.load(spec)
    parts = [ImageSet.from_array(normal, name=f"{data.name}/test", kind=NORMAL)]
    for kind in corruptions.DISTORTIONS:
        parts.append(anomalous_images(corruptions.distort(kind, normal, spec.value_max, seed), kind))
    for kind in corruptions.PATTERNS:
        parts.append(anomalous_images(corruptions.draw_pattern(kind, len(normal), spec, seed), kind))
    if foreign is not None:
        parts.append(anomalous_images(corruptions.fit_foreign(foreign[: len(normal)], spec), "foreign"))
    if source.groups:  # the i-th image of every kind belongs to the group of the i-th normal image
        parts = [replace(part, groups=source.groups[: len(part)], grouped_by=source.grouped_by) for part in parts]
    return concatenate(parts)


def anomalous_images(pixels: Pixels, kind: str) -> ImageSet:
    """Images of one kind of anomaly, labelled 1."""
    return ImageSet.from_array(pixels, name=kind, kind=kind, label=1)
