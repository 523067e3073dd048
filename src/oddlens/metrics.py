"""Numbers about scores: thin names over scikit-learn and SciPy, plus intervals and pixel metrics.

Labels are 0 (normal) or 1 (anomalous); a higher score is more anomalous. Infinite scores are ranked
like any others, NaN is refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from oddlens.errors import DataError, MissingExtraError

Values = npt.NDArray[np.floating[Any]]


def auroc(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Chance that an anomalous image scores above a normal one, ties counted half; (N,) and (N,).

    Raises:
        DataError: one of the labels is missing, or a score is NaN.

    >>> auroc([0, 0, 1, 1], [0.1, 0.4, 0.4, 0.8])
    0.875
    """
    with _evaluation_extra():
        from sklearn.metrics import roc_auc_score
    return float(roc_auc_score(*_ranked(labels, scores)))


def average_precision(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Mean precision over the anomalous images, best first; compare it with their share of all images.

    Raises:
        DataError: one of the labels is missing, or a score is NaN.
    """
    with _evaluation_extra():
        from sklearn.metrics import average_precision_score
    return float(average_precision_score(*_ranked(labels, scores)))


def auroc_interval(labels: npt.ArrayLike, scores: npt.ArrayLike, confidence: float = 0.95) -> tuple[float, float]:
    """Confidence interval of the AUROC: DeLong's variance on the logit scale, so that it stays in 0..1.

    With a single image of one label the variance cannot be estimated, and its largest possible value,
    A (1 - A), is taken. At an AUROC of exactly 1 the variance says nothing: the lower end is then that
    of k hits in k trials, k the number of images of the rarer label, since a perfect ranking gets each
    of k disjoint pairs right; at exactly 0 the same from below. That is valid and cautious, so it can be
    wider than the interval of an AUROC just under 1, which DeLong makes too narrow.

    Raises:
        DataError: one of the labels is missing, or a score is NaN.

    Source: DeLong et al. 1988, by midranks as in Sun and Xu 2014.
    """
    with _evaluation_extra():
        from scipy.stats import rankdata  # type: ignore[import-untyped]
    is_anomalous, ranks = _ranked(labels, scores)
    anomalous, normal = ranks[is_anomalous == 1], ranks[is_anomalous == 0]
    # for each image, the share of images of the other label that it is ranked rightly against
    right_anomalous = (anomalous - rankdata(anomalous)) / len(normal)
    right_normal = 1 - (normal - rankdata(normal)) / len(anomalous)
    area, fewest = float(right_anomalous.mean()), min(len(normal), len(anomalous))
    if not 0 < area < 1:
        return rate_interval(round(area) * fewest, fewest, confidence)
    if fewest == 1:
        variance = area * (1 - area)
    else:
        variance = right_anomalous.var(ddof=1) / len(anomalous) + right_normal.var(ddof=1) / len(normal)
    logit = math.log(area / (1 - area))
    reach = NormalDist().inv_cdf((1 + confidence) / 2) * math.sqrt(variance) / (area * (1 - area))
    return _logistic(logit - reach), _logistic(logit + reach)


def rate_interval(hits: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Clopper-Pearson confidence interval of a rate of which `hits` in `n` were seen.

    Raises:
        DataError: n is not positive, or hits is not in 0..n.

    >>> [round(end, 4) for end in rate_interval(0, 100)]
    [0.0, 0.0362]
    """
    if not (n > 0 and 0 <= hits <= n):
        raise DataError(f"a rate needs hits among at least one image, got {hits} of {n}")
    with _evaluation_extra():
        from scipy.stats import binomtest
    interval = binomtest(hits, n).proportion_ci(confidence, method="exact")
    return float(interval.low), float(interval.high)


def pixel_auroc(maps: Sequence[Values], masks: Sequence[npt.NDArray[np.bool_]]) -> float:
    """AUROC over all pixels of all images, ties counted half: exact, without a grid of thresholds.

    Maps and masks (H, W) are pairwise of equal shape; sizes may differ between images. Normal images
    come with an all-False mask and count. Leave out anomalous images whose mask is empty: where their
    defect lies is unknown, so neither kind of pixel can be told.

    Raises:
        DataError: shapes differ, a map has NaN, or defect or normal pixels are missing.
    """
    defects, _, normals = _pixels(maps, masks)
    return float(_areas(defects, normals, 1.0).mean())


def aupro(maps: Sequence[Values], masks: Sequence[npt.NDArray[np.bool_]], limit: float = 0.3) -> float:
    """Area under the per-region overlap, up to a false-positive rate of `limit`, divided by `limit`.

    The overlap is the share found of each defect (8-connected pixels of one mask), averaged over
    defects; the false-positive rate is over all normal pixels of all images. The curve has one point a
    distinct score and straight lines between them: exact, without a grid of thresholds. Which images to
    pass: as for `pixel_auroc`.

    Raises:
        DataError: limit is not in (0, 1], shapes differ, a map has NaN, or defect or normal pixels are missing.

    Source: Bergmann et al., "The MVTec anomaly detection dataset", IJCV 2021.
    """
    if not 0 < limit <= 1:
        raise DataError(f"the false-positive rate that AUPRO integrates to must lie in 0..1, got {limit}: 0.3 is usual")
    defects, components, normals = _pixels(maps, masks)
    total = np.bincount(components, weights=_areas(defects, normals, limit))
    return float((total / np.bincount(components)).mean() / limit)


@contextmanager
def _evaluation_extra() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise MissingExtraError("evaluation", "train") from error


def _ranked(labels: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float64]]:
    """Checked labels, and scores as midranks: the same order and ties, but always finite."""
    from scipy.stats import rankdata

    kinds, values = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    if kinds.ndim != 1 or kinds.shape != values.shape:
        raise DataError(f"labels and scores must be lists of one length, got shapes {kinds.shape} and {values.shape}")
    if np.isnan(values).any():
        raise DataError(f"{np.isnan(values).sum()} of {values.size} scores are NaN: the detector is broken, fit again")
    found = np.unique(kinds).tolist()
    if found != [0, 1]:
        raise DataError(
            f"metrics need normal (0) and anomalous (1) images, found labels {found[:5]}: add images of both kinds"
        )
    return kinds.astype(np.int8), rankdata(values)


def _logistic(value: float) -> float:
    return 1 / (1 + math.exp(-value)) if value > 0 else 1 - 1 / (1 + math.exp(value))


def _pixels(
    maps: Sequence[Values], masks: Sequence[npt.NDArray[np.bool_]]
) -> tuple[Values, npt.NDArray[np.intp], Values]:
    """Scores (D,) and component numbers (D,) of the defect pixels; sorted scores (P,) of the normal ones."""
    with _evaluation_extra():
        from scipy.ndimage import label  # type: ignore[import-untyped]
    if len(maps) != len(masks):
        raise DataError(f"each anomaly map needs a mask, got {len(maps)} maps and {len(masks)} masks")
    defects, components, normals, count = [], [], [], 0
    for place, (values, mask) in enumerate(zip(maps, masks, strict=True)):
        if values.ndim != 2 or mask.shape != values.shape or mask.dtype != bool:
            raise DataError(
                f"map {place} {values.shape} needs a mask of True and False of its shape, got {mask.dtype} {mask.shape}"
            )
        if np.isnan(values).any():
            raise DataError(f"map {place} of {len(maps)} has NaN: the detector is broken, fit it again")
        normals.append(values[~mask])
        if mask.any():
            numbered, found = label(mask, structure=np.ones((3, 3)))
            defects.append(values[mask])
            components.append(numbered[mask].astype(np.intp) + (count - 1))
            count += found
    if not defects or not any(part.size for part in normals):
        raise DataError(
            f"pixel metrics need defect and normal pixels, got {count} defects in {len(maps)} maps: add images of both"
        )
    sorted_normals = np.concatenate(normals)
    sorted_normals.sort()
    return np.concatenate(defects), np.concatenate(components), sorted_normals


def _areas(defects: Values, normals: Values, limit: float) -> npt.NDArray[np.float64]:
    """For each defect pixel (D,), the area that it adds under the curve of pixels found, up to `limit`.

    As the threshold passes a pixel's score, the share of normal pixels at or above it grows from
    `before` to `after` (equal unless normal pixels tie with it) while the pixel goes from missed to
    found, and it stays found. On a straight line that is a triangle over before..after, cut off at the
    limit, and a rectangle over after..limit. Up to 1 it is 1 - (before + after) / 2.
    """
    before = (normals.size - np.searchsorted(normals, defects, side="right")) / normals.size
    after = (normals.size - np.searchsorted(normals, defects, side="left")) / normals.size
    cut = np.clip(limit, before, after)
    rise = np.divide((cut - before) ** 2, 2 * (after - before), out=np.zeros_like(cut), where=after > before)
    areas: npt.NDArray[np.float64] = rise + np.maximum(0, limit - after)
    return areas
