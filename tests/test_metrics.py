"""Metrics compared with brute force, scikit-learn, published numbers and simulation."""

from __future__ import annotations

import itertools
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage, stats  # type: ignore[import-untyped]
from sklearn.metrics import average_precision_score, roc_auc_score

from oddlens.errors import DataError, MissingExtraError
from oddlens.metrics import (
    aupro,
    auroc,
    auroc_interval,
    average_precision,
    exceedance_of_largest,
    pixel_auroc,
    rate_interval,
)

Map = npt.NDArray[np.floating[Any]]
Mask = npt.NDArray[np.bool_]


# Image metrics


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=2, max_size=40))
@settings(deadline=None)
def test_auroc_is_the_share_of_pairs_ranked_correctly(images: list[tuple[bool, int]]) -> None:
    labels, scores = [int(label) for label, _ in images], [score for _, score in images]
    if len(set(labels)) < 2:
        with pytest.raises(DataError, match="images of both kinds"):
            auroc(labels, scores)
        return
    wins = [
        1.0 if high > low else 0.5 if high == low else 0.0
        for anomalous, high in images
        if anomalous
        for other, low in images
        if not other
    ]
    assert auroc(labels, scores) == pytest.approx(sum(wins) / len(wins))


def test_infinite_scores_are_ranked_last_instead_of_refused() -> None:
    labels, scores = [0, 0, 1, 0, 1, 1], [-math.inf, 1.0, 2.0, math.inf, math.inf, 3.0]
    finite = [-1e9, 1.0, 2.0, 1e9, 1e9, 3.0]
    assert auroc(labels, scores) == roc_auc_score(labels, finite)
    assert average_precision(labels, scores) == average_precision_score(labels, finite)
    assert auroc_interval(labels, scores) == auroc_interval(labels, finite)


def test_scores_that_differ_in_the_last_bit_are_distinguished() -> None:
    # a reconstruction error of 1e-12 and the next larger float, below any tolerance that a metric may apply
    low = 1e-12
    assert auroc([0, 1, 0, 1], [low, np.nextafter(low, 1), low, np.nextafter(low, 1)]) == 1.0


def test_average_precision_of_uninformative_scores_is_the_base_rate() -> None:
    assert average_precision([0] * 7 + [1] * 3, np.zeros(10)) == pytest.approx(0.3)


@pytest.mark.parametrize("metric", [auroc, average_precision, auroc_interval])
@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([0, 1, 1], [0.1, math.nan, 0.2], "1 of 3 scores are NaN"),
        ([1, 1], [0.1, 0.2], r"found labels \[1\]"),
        ([], [], r"found labels \[\]"),
        ([-1, 1], [0.1, 0.2], r"found labels \[-1, 1\]"),
        ([0, 1], [0.1], "lists of equal length"),
        ([[0], [1]], [[0.1], [0.2]], "lists of equal length"),
    ],
)
def test_invalid_labels_and_scores_are_refused_in_one_line(
    metric: Any, labels: list[Any], scores: list[Any], message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        metric(labels, scores)
    assert "\n" not in str(caught.value)


# Intervals


def delong_variance(labels: npt.NDArray[np.int_], scores: npt.NDArray[np.float64]) -> float:
    """DeLong's variance by its definition over all pairs."""
    anomalous, normal = scores[labels == 1], scores[labels == 0]
    wins = (anomalous[:, None] > normal) + 0.5 * (anomalous[:, None] == normal)
    return float(wins.mean(axis=1).var(ddof=1) / len(anomalous) + wins.mean(axis=0).var(ddof=1) / len(normal))


@pytest.mark.parametrize("seed", range(5))
def test_auroc_interval_is_delongs_on_the_logit_scale(seed: int) -> None:
    draw = np.random.default_rng(seed)
    labels = np.repeat([0, 1], [40, 25])
    scores = np.round(draw.normal(loc=labels), 1)  # rounded: with ties
    area, low, high = auroc(labels, scores), *auroc_interval(labels, scores, confidence=0.9)
    deviation = math.sqrt(delong_variance(labels, scores)) / (area * (1 - area))
    assert stats.logistic.ppf([low, high]) == pytest.approx(
        stats.logistic.ppf(area) + deviation * stats.norm.ppf([0.05, 0.95])
    )


@pytest.mark.parametrize(("shift", "normals", "anomalies"), [(0.5, 60, 60), (1.2, 200, 30), (1.8, 50, 50)])
def test_auroc_interval_covers_the_truth_with_its_confidence(shift: float, normals: int, anomalies: int) -> None:
    draw, sets = np.random.default_rng(7), 600
    truth = stats.norm.cdf(shift / math.sqrt(2))  # two normal distributions, `shift` apart
    labels = np.repeat([0, 1], [normals, anomalies])
    covered = 0
    for _ in range(sets):
        low, high = auroc_interval(labels, draw.normal(size=len(labels)) + shift * labels)
        covered += low <= truth <= high
    # four standard errors of 95% among 600 sets
    assert covered / sets == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / sets))


def test_auroc_interval_of_a_perfect_ranking_is_not_empty() -> None:
    labels = [0] * 100 + [1] * 30
    low, high = auroc_interval(labels, labels)
    assert high == 1.0
    assert low == pytest.approx(0.025 ** (1 / 30))  # 30 disjoint pairs, all correct
    worst_low, worst_high = auroc_interval(labels, [-label for label in labels])
    assert worst_low == 0.0
    assert worst_high == pytest.approx(1 - low)


def test_one_image_of_a_label_gives_a_wide_interval_instead_of_nan() -> None:
    low, high = auroc_interval([1] + [0] * 20, [15.5, *range(20)])
    assert 0 < low < 0.5 < 0.8 < high < 1


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), min_size=2, max_size=40), st.floats(0.5, 0.999))
@settings(deadline=None)
def test_auroc_interval_lies_within_0_and_1_around_the_auroc(images: list[tuple[bool, int]], confidence: float) -> None:
    labels, scores = [int(label) for label, _ in images], [score for _, score in images]
    if len(set(labels)) == 2:
        low, high = auroc_interval(labels, scores, confidence)
        assert 0 <= low <= auroc(labels, scores) + 1e-12
        assert auroc(labels, scores) - 1e-12 <= high <= 1


@given(st.integers(1, 60), st.integers(0, 60), st.sampled_from([0.8, 0.95, 0.99]))
@settings(deadline=None)
def test_rate_interval_is_where_each_tail_has_half_the_error_probability(n: int, hits: int, confidence: float) -> None:
    hits, tail = min(hits, n), (1 - confidence) / 2
    low, high = rate_interval(hits, n, confidence)
    assert low == 0 if hits == 0 else stats.binom.sf(hits - 1, n, low) == pytest.approx(tail)
    assert high == 1 if hits == n else stats.binom.cdf(hits, n, high) == pytest.approx(tail)


@pytest.mark.parametrize(("hits", "n"), [(0, 0), (-1, 5), (6, 5)])
def test_rate_interval_refuses_impossible_counts(hits: int, n: int) -> None:
    with pytest.raises(DataError, match=f"got {hits} of {n}"):
        rate_interval(hits, n)


# Pixel metrics


def brute_force_curve(maps: list[Map], masks: list[Mask], limit: float) -> float:
    """Area under the mean overlap of all defects, one threshold per distinct score, straight lines between."""
    values, defect = np.concatenate([part.ravel() for part in maps]), np.concatenate([part.ravel() for part in masks])
    regions = []
    for part, mask in zip(maps, masks, strict=True):
        components, count = ndimage.label(mask, structure=np.ones((3, 3)))
        regions += [part[components == number] for number in range(1, count + 1)]
    rates, overlaps = [0.0], [0.0]
    for threshold in np.unique(values)[::-1]:
        rates.append(float((values[~defect] >= threshold).mean()))
        overlaps.append(float(np.mean([(region >= threshold).mean() for region in regions])))
    area = 0.0
    for left, right, low, high in zip(rates, rates[1:], overlaps, overlaps[1:], strict=False):
        if right <= limit:
            area += (right - left) * (low + high) / 2
        elif left < limit:
            at_limit = low + (high - low) * (limit - left) / (right - left)
            area += (limit - left) * (low + at_limit) / 2
    return area / limit


def random_set(seed: int, levels: int | None) -> tuple[list[Map], list[Mask]]:
    """Maps of several sizes with defects of several sizes; `levels` distinct scores, or all different."""
    draw = np.random.default_rng(seed)
    maps: list[Map] = []
    masks: list[Mask] = []
    for height, width in ((7, 9), (12, 5), (6, 6), (1, 11)):
        mask = draw.random((height, width)) < draw.choice([0.0, 0.15, 0.4])
        values = draw.random((height, width)) + 0.4 * mask
        maps.append((values if levels is None else np.floor(values * levels)).astype(np.float32))
        masks.append(mask)
    masks[0][0, :2] = True
    return maps, masks


@pytest.mark.parametrize("levels", [None, 1, 2, 3, 5, 20])
@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
def test_aupro_is_the_brute_force_curve_with_and_without_ties(levels: int | None, limit: float) -> None:
    for seed in range(12):
        maps, masks = random_set(seed, levels)
        assert aupro(maps, masks, limit) == pytest.approx(brute_force_curve(maps, masks, limit), abs=1e-12)


@pytest.mark.parametrize("levels", [None, 1, 3, 20])
def test_pixel_auroc_is_scikit_learns_over_all_pixels(levels: int | None) -> None:
    for seed in range(12):
        maps, masks = random_set(seed, levels)
        labels, scores = (np.concatenate([part.ravel() for part in parts]) for parts in (masks, maps))
        assert pixel_auroc(maps, masks) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


def test_a_map_that_is_the_mask_scores_one_and_its_opposite_nothing() -> None:
    mask = np.zeros((20, 20), dtype=bool)
    mask[4:9, 4:12] = True
    for values, best in ((mask.astype(np.float32), 1.0), (-mask.astype(np.float32), 0.0)):
        assert pixel_auroc([values], [mask]) == best
        assert aupro([values], [mask]) == pytest.approx(best)


def test_a_constant_map_is_worth_half_the_limit() -> None:
    mask = np.eye(10, dtype=bool)
    flat = np.zeros((10, 10), dtype=np.float32)
    assert pixel_auroc([flat], [mask]) == 0.5
    # one tie block from (0, 0) to (1, 1), cut off at 0.3: a triangle of 0.3 by 0.3
    assert aupro([flat], [mask]) == pytest.approx(0.15)


def test_aupro_weights_all_defects_equally() -> None:
    mask = np.zeros((30, 30), dtype=bool)
    mask[2:20, 2:20] = True  # detected
    mask[28, 28] = True  # missed: below every normal pixel
    values = np.where(mask, 2.0, 1.0).astype(np.float32)
    values[28, 28] = 0.0
    assert aupro([values], [mask]) == pytest.approx(0.5)
    assert pixel_auroc([values], [mask]) == pytest.approx(18 * 18 / (18 * 18 + 1))


def test_pixels_that_touch_at_a_corner_are_one_defect_within_an_image() -> None:
    values = np.array([[5, 0, 0, 0], [0, 5, 0, -1]], dtype=np.float32)
    corner = np.array([[1, 0, 0, 0], [0, 1, 0, 1]], dtype=bool)  # two defects: one detected, one missed
    assert aupro([values], [corner]) == pytest.approx(1 / 2)
    assert aupro([values, values], [corner, corner]) == pytest.approx(2 / 4)
    clean = values[:, :3]  # a third defect, in another image
    assert aupro([values, clean], [corner, corner[:, :3]]) == pytest.approx(2 / 3)


def test_normal_images_count_towards_the_false_positives() -> None:
    mask = np.zeros((10, 10), dtype=bool)
    mask[:2] = True
    values = np.where(mask, 1.0, 0.0).astype(np.float32)
    alarmed = np.full((10, 10), 2.0, dtype=np.float32)  # 100 of 180 normal pixels score above every defect
    nothing = np.zeros((10, 10), dtype=bool)
    assert aupro([values, alarmed], [mask, nothing]) == 0.0
    assert pixel_auroc([values, alarmed], [mask, nothing]) == pytest.approx(80 / 180)


def test_exceedance_of_the_largest_is_that_of_all_subsets(rng: np.random.Generator) -> None:
    normal, scores = rng.integers(0, 6, 8).astype(float), np.arange(-0.5, 7, 0.5)
    for count in (1, 3, 8):
        subsets = [max(subset) for subset in itertools.combinations(normal, count)]
        exact = [np.mean([score > largest for largest in subsets]) for score in scores]
        np.testing.assert_allclose(exceedance_of_largest(normal, scores, count), exact)
    fewer = exceedance_of_largest(normal, scores, 99)  # all of them
    np.testing.assert_array_equal(fewer, scores > normal.max())


def test_infinite_map_values_are_ranked_like_any_others() -> None:
    mask = np.array([[True, False, False, False]])
    assert pixel_auroc([np.array([[np.inf, 0.0, np.inf, -np.inf]])], [mask]) == pytest.approx(2.5 / 3)


@pytest.mark.parametrize(
    ("maps", "masks", "message"),
    [
        ([np.zeros((2, 2))], [], "1 maps and 0 masks"),
        ([np.zeros((2, 2))], [np.zeros((2, 3), bool)], r"map 0 \(2, 2\) needs a boolean mask"),
        ([np.zeros((2, 2))], [np.full((2, 2), 60, np.uint8)], "got uint8"),
        ([np.zeros((2, 2, 1))], [np.zeros((2, 2, 1), bool)], "map 0"),
        ([np.array([[0.0, np.nan]])], [np.array([[True, False]])], "map 0 of 1 contains NaN"),
        ([np.zeros((2, 2))], [np.zeros((2, 2), bool)], "got 0 defects in 1 maps"),
        ([np.zeros((2, 2))], [np.ones((2, 2), bool)], "got 1 defects in 1 maps"),
        ([], [], "got 0 defects in 0 maps"),
    ],
)
@pytest.mark.parametrize("metric", [pixel_auroc, aupro])
def test_invalid_maps_and_masks_are_refused_in_one_line(metric: Any, maps: Any, masks: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        metric(maps, masks)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("limit", [0.0, -0.1, 1.5, 30, math.nan])
def test_aupro_refuses_a_limit_outside_0_to_1(limit: float) -> None:
    maps, masks = random_set(0, None)
    with pytest.raises(DataError, match=r"0\.3 is usual"):
        aupro(maps, masks, limit)


def test_real_masks_of_magnetic_tiles_agree_with_brute_force(real_data: Path) -> None:
    folder = real_data / "magnetic-tile/ground_truth"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    files = sorted(folder.glob("*/*_mask.png"))[::60]
    assert len(files) >= 5
    masks = [np.asarray(Image.open(file).convert("L")) > 127 for file in files]
    draw = np.random.default_rng(3)
    maps: list[Map] = [np.round(8 * draw.random(mask.shape, dtype=np.float32) + 4 * mask) for mask in masks]
    assert aupro(maps, masks) == pytest.approx(brute_force_curve(maps, masks, 0.3), abs=1e-9)


@pytest.mark.parametrize("absent", ["scipy", "sklearn"])
def test_without_the_train_extra_the_error_says_what_to_install(absent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == absent]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'oddlens\[train\]'"):
        auroc([0, 1], [0.0, 1.0]) if absent == "sklearn" else rate_interval(1, 2)
