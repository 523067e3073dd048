"""Image and pixel metrics with confidence intervals, on top of scikit-learn and SciPy.

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
    """Probability that an anomalous image scores above a normal one, ties counted half; labels and scores are (N,).

    Raises:
        DataError: one of the labels is missing, or a score is NaN.

    >>> auroc([0, 0, 1, 1], [0.1, 0.4, 0.4, 0.8])
    0.875
    """
    with _evaluation_extra():
        from sklearn.metrics import roc_auc_score
    return float(roc_auc_score(*_checked_ranks(labels, scores)))


def average_precision(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Average precision of labels (N,) and scores (N,); uninformative scores give the share of anomalous images.

    Raises:
        DataError: one of the labels is missing, or a score is NaN.
    """
    with _evaluation_extra():
        from sklearn.metrics import average_precision_score
    return float(average_precision_score(*_checked_ranks(labels, scores)))


def auroc_interval(labels: npt.ArrayLike, scores: npt.ArrayLike, confidence: float = 0.95) -> tuple[float, float]:
    """Confidence interval of the AUROC: DeLong's variance on the logit scale, so that it stays in 0..1.

    With a single image of one label the variance cannot be estimated; its largest possible value,
    A (1 - A), is used instead. At an AUROC of exactly 1 the estimated variance is 0: the lower bound is then
    that of k hits in k trials, where k is the number of images of the rarer label, since a perfect ranking orders
    each of k disjoint pairs correctly; at exactly 0, likewise for the upper bound. This is valid and conservative, so
    it can be wider than the interval of an AUROC just under 1, which DeLong makes too narrow.

    Raises:
        DataError: one of the labels is missing, or a score is NaN.

    Source: DeLong et al. 1988, computed from midranks as in Sun and Xu 2014.
    """
    with _evaluation_extra():
        from scipy.stats import rankdata  # type: ignore[import-untyped]
    is_anomalous, ranks = _checked_ranks(labels, scores)
    anomalous, normal = ranks[is_anomalous == 1], ranks[is_anomalous == 0]
    # placement of each image: the share of images of the other label that it is ranked correctly against
    placements_anomalous = (anomalous - rankdata(anomalous)) / len(normal)
    placements_normal = 1 - (normal - rankdata(normal)) / len(anomalous)
    area, n_rarer = float(placements_anomalous.mean()), min(len(normal), len(anomalous))
    if not 0 < area < 1:
        return rate_interval(round(area) * n_rarer, n_rarer, confidence)
    if n_rarer == 1:
        variance = area * (1 - area)
    else:
        variance = placements_anomalous.var(ddof=1) / len(anomalous) + placements_normal.var(ddof=1) / len(normal)
    logit = math.log(area / (1 - area))
    margin = NormalDist().inv_cdf((1 + confidence) / 2) * math.sqrt(variance) / (area * (1 - area))
    return _logistic(logit - margin), _logistic(logit + margin)


def rate_interval(hits: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Clopper-Pearson confidence interval of a rate observed as `hits` in `n` trials.

    Raises:
        DataError: n is not positive, or hits is not in 0..n.

    >>> [round(bound, 4) for bound in rate_interval(0, 100)]
    [0.0, 0.0362]
    """
    if not (n > 0 and 0 <= hits <= n):
        raise DataError(f"a rate needs hits among at least one image, got {hits} of {n}")
    with _evaluation_extra():
        from scipy.stats import binomtest
    interval = binomtest(hits, n).proportion_ci(confidence, method="exact")
    return float(interval.low), float(interval.high)


def exceedance_of_largest(normal_scores: npt.ArrayLike, scores: npt.ArrayLike, count: int) -> npt.NDArray[np.float64]:
    """Probability (N,) that each score is above the largest of `count` normal scores, drawn from n without repetition.

    With b of the n below a score it is C(b, count) / C(n, count), exactly. Of fewer than `count` scores all are drawn,
    whose largest is too low on average: the result is then an upper estimate.

    >>> exceedance_of_largest([1, 2, 3, 4], [0, 3, 3.5, 9], count=2).round(3).tolist()
    [0.0, 0.167, 0.5, 1.0]
    """
    ascending = np.sort(np.asarray(normal_scores, dtype=np.float64))
    below = np.searchsorted(ascending, np.asarray(scores, dtype=np.float64), side="left")
    draws = np.arange(min(count, len(ascending)))
    result: npt.NDArray[np.float64] = np.prod((below[:, None] - draws).clip(min=0) / (len(ascending) - draws), axis=1)
    return result


def pixel_auroc(maps: Sequence[Values], masks: Sequence[npt.NDArray[np.bool_]]) -> float:
    """AUROC over all pixels of all images, ties counted half: exact, without a grid of thresholds.

    A map and its mask have the same shape (H, W); sizes may differ between images. Normal images count
    too, with an all-False mask. Leave out anomalous images whose mask is empty: the location of their
    defect is unknown, so their pixels have no labels.

    Raises:
        DataError: shapes differ, a map contains NaN, or there are no defect pixels or no normal pixels.
    """
    return pixel_metrics(maps, masks)["pixel_auroc"]


def aupro(maps: Sequence[Values], masks: Sequence[npt.NDArray[np.bool_]], limit: float = 0.3) -> float:
    """Area under the per-region overlap, up to a false-positive rate of `limit`, divided by `limit`.

    The overlap is the detected share of each defect (8-connected pixels of one mask), averaged over
    defects; the false-positive rate is over all normal pixels of all images. The curve has one point per
    distinct score, joined by straight lines: exact, without a grid of thresholds. Pass the same images as to
    `pixel_auroc`.

    Raises:
        DataError: limit is not in (0, 1], or as for `pixel_auroc`.

    Source: Bergmann et al., "The MVTec anomaly detection dataset", IJCV 2021.
    """
    return pixel_metrics(maps, masks, limit)["aupro"]


def pixel_metrics(
    maps: Sequence[Values], masks: Sequence[npt.NDArray[np.bool_]], limit: float = 0.3
) -> dict[str, float]:
    """`pixel_auroc` and `aupro`, for which all pixels are sorted once.

    Raises:
        DataError: as for these.
    """
    if not 0 < limit <= 1:
        raise DataError(
            f"the false-positive rate limit of AUPRO must be above 0 and at most 1, got {limit}: 0.3 is usual"
        )
    components, before, after = _rates_at_defects(*_pixel_scores(maps, masks))
    total = np.bincount(components, weights=_areas_under_recall(before, after, limit))
    overlap = (total / np.bincount(components)).mean() / limit
    return {"pixel_auroc": float(_areas_under_recall(before, after, 1.0).mean()), "aupro": float(overlap)}


@contextmanager
def _evaluation_extra() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise MissingExtraError("evaluation", "train") from error


def _checked_ranks(
    labels: npt.ArrayLike, scores: npt.ArrayLike
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float64]]:
    """Validated labels (N,), and scores (N,) as midranks: the same order and ties, but always finite."""
    from scipy.stats import rankdata

    label_array, values = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    if label_array.ndim != 1 or label_array.shape != values.shape:
        raise DataError(
            f"labels and scores must be lists of equal length, got shapes {label_array.shape} and {values.shape}"
        )
    if np.isnan(values).any():
        raise DataError(f"{np.isnan(values).sum()} of {values.size} scores are NaN: the detector is broken, fit again")
    classes = np.unique(label_array).tolist()
    if classes != [0, 1]:
        raise DataError(
            f"metrics need normal (0) and anomalous (1) images, found labels {classes[:5]}: add images of both kinds"
        )
    return label_array.astype(np.int8), rankdata(values)


def _logistic(value: float) -> float:
    return 1 / (1 + math.exp(-value)) if value > 0 else 1 - 1 / (1 + math.exp(value))


def _pixel_scores(
    maps: Sequence[Values], masks: Sequence[npt.NDArray[np.bool_]]
) -> tuple[Values, npt.NDArray[np.intp], Values]:
    """Scores (D,) and component numbers (D,) of the defect pixels; sorted scores (P,) of the normal ones."""
    with _evaluation_extra():
        from scipy.ndimage import label  # type: ignore[import-untyped]
    if len(maps) != len(masks):
        raise DataError(f"each anomaly map needs a mask, got {len(maps)} maps and {len(masks)} masks")
    defects, components, normals, count = [], [], [], 0
    for index, (values, mask) in enumerate(zip(maps, masks, strict=True)):
        if values.ndim != 2 or mask.shape != values.shape or mask.dtype != bool:
            raise DataError(
                f"map {index} {values.shape} needs a boolean mask (H, W) of its shape, got {mask.dtype} {mask.shape}"
            )
        if np.isnan(values).any():
            raise DataError(f"map {index} of {len(maps)} contains NaN: the detector is broken, fit it again")
        normals.append(values[~mask])
        if mask.any():
            component_map, n_components = label(mask, structure=np.ones((3, 3)))
            defects.append(values[mask])
            components.append(component_map[mask].astype(np.intp) + (count - 1))
            count += n_components
    if not defects or not any(part.size for part in normals):
        raise DataError(
            f"pixel metrics need defect and normal pixels, got {count} defects in {len(maps)} maps: add images of both"
        )
    sorted_normals = np.concatenate(normals)
    sorted_normals.sort()
    return np.concatenate(defects), np.concatenate(components), sorted_normals


def _rates_at_defects(
    defects: Values, components: npt.NDArray[np.intp], normals: Values
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Component numbers (D,) of the defect pixels, and the false-positive rates (D,) before and after their scores.

    Distinct scores are looked up in ascending order, which is several times as fast as in that of the pixels.
    """
    distinct, place = np.unique(defects, return_inverse=True)
    above = (normals.size - np.searchsorted(normals, distinct, side="right")) / normals.size
    from_there = (normals.size - np.searchsorted(normals, distinct, side="left")) / normals.size
    return components, above[place], from_there[place]


def _areas_under_recall(
    before: npt.NDArray[np.float64], after: npt.NDArray[np.float64], limit: float
) -> npt.NDArray[np.float64]:
    """For each defect pixel (D,), the area up to `limit` that it adds under the curve of detected pixels.

    As the threshold passes the score of a pixel, the false-positive rate grows from `before` to `after` (equal
    unless normal pixels tie with it) while the pixel goes from missed to detected, and it stays detected. With
    straight lines that is a triangle over before..after, truncated at the limit, and a rectangle over
    after..limit. For a limit of 1 it is 1 - (before + after) / 2.
    """
    cut = np.clip(limit, before, after)
    rise = np.divide((cut - before) ** 2, 2 * (after - before), out=np.zeros_like(cut), where=after > before)
    areas: npt.NDArray[np.float64] = rise + np.maximum(0, limit - after)
    return areas
