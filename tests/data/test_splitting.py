"""Splits of normal images into training, standardization and calibration images."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oddlens.config.base import DecisionSettings
from oddlens.data.image_io import Pixels
from oddlens.data.near_duplicates import near_duplicate_groups, thumbnails
from oddlens.data.splitting import left_out_clusters, split_groups, split_normals
from oddlens.errors import CalibrationError, DataError


def test_every_group_is_split_and_near_duplicates_stay_together(rng: np.random.Generator) -> None:
    images = rng.integers(0, 256, (340, 16, 16, 1), dtype=np.uint8)
    pixels = np.concatenate([images, images[:40]])  # 40 of them again, in the other group
    groups = ("left",) * 240 + ("right",) * 140
    train, standardization, calibration, _ = split_normals(
        pixels, DecisionSettings(), 0, standardize=True, groups=groups
    )
    assert np.array_equal(np.sort(np.concatenate([train, standardization, calibration])), np.arange(380))
    names = np.array(groups)
    assert min((names[calibration] == name).sum() for name in ("left", "right")) >= 30
    part = np.empty(380, dtype=int)
    part[train], part[standardization], part[calibration] = 0, 1, 2
    assert np.array_equal(part[:40], part[340:])
    with pytest.raises(CalibrationError, match="group right"):
        split_normals(pixels, DecisionSettings(false_alarm_rate=0.01), 0, groups=groups)
    one = np.concatenate([images[:100], np.repeat(images[100:101], 30, axis=0)])
    with pytest.raises(DataError, match="group right: none of its images can be held out"):
        split_normals(one, DecisionSettings(), 0, groups=("left",) * 100 + ("right",) * 30)


@st.composite
def groups_and_sizes(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    groups = draw(st.lists(st.integers(0, 12), max_size=60))
    cuts = sorted(draw(st.lists(st.integers(0, len(groups)), max_size=4)))
    return groups, [b - a for a, b in pairwise([0, *cuts, len(groups)])]


@given(groups_and_sizes(), st.integers(0, 2**32 - 1))
def test_a_split_is_a_partition_that_divides_no_group_and_nearly_meets_the_sizes(
    case: tuple[list[int], list[int]], seed: int
) -> None:
    groups, sizes = np.array(case[0], dtype=np.intp), case[1]
    parts = split_groups(groups, sizes, seed)
    assert len(parts) == len(sizes)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(len(groups)))
    part_of: dict[int, int] = {}
    for number, part in enumerate(parts):
        assert (np.diff(part) > 0).all()
        for group in groups[part].tolist():
            assert part_of.setdefault(group, number) == number
    largest = int(np.bincount(groups).max()) if len(groups) else 1
    assert all(abs(len(part) - size) < largest for part, size in zip(parts, sizes, strict=True))


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 2**32 - 1))
def test_without_duplicates_the_sizes_are_met_exactly(first: int, second: int, seed: int) -> None:
    parts = split_groups(np.arange(first + second), [first, second], seed)
    assert [len(part) for part in parts] == [first, second]


def test_the_split_depends_only_on_the_seed() -> None:
    groups = np.random.default_rng(12).integers(0, 150, 300)
    first, again, other = (split_groups(groups, [200, 100], seed) for seed in (1, 1, 2))
    assert [part.tolist() for part in first] == [part.tolist() for part in again]
    assert first[0].tolist() != other[0].tolist()


def test_a_large_group_goes_to_each_part_in_proportion_to_its_size() -> None:
    groups = np.concatenate([np.zeros(10, dtype=int), np.arange(1, 41)])
    count = sum(0 in split_groups(groups, [40, 10], seed)[1] for seed in range(500))
    assert 60 < count < 140  # binomial(500, 0.2): within 4.5 standardization deviations of 100


def test_sizes_that_do_not_add_up_are_refused() -> None:
    with pytest.raises(DataError, match=r"split of 3 images into parts of \[1, 1\] does not add up"):
        split_groups(np.arange(3), [1, 1], seed=0)
    with pytest.raises(DataError, match="does not add up"):
        split_groups(np.arange(3), [4, -1], seed=0)


def test_near_duplicates_stay_on_one_side_of_the_split(digit_pixels: Pixels) -> None:
    pixels = digit_pixels[np.repeat(np.arange(80), 3)]
    groups = near_duplicate_groups(thumbnails(pixels))
    train, _, calibration, _ = split_normals(pixels, DecisionSettings(), seed=0)
    assert not set(groups[train]) & set(groups[calibration])
    assert sorted([*train, *calibration]) == list(range(240))


def test_an_ensemble_gets_three_disjoint_parts_and_no_more_to_calibrate_than_it_needs(digit_pixels: Pixels) -> None:
    train, standardization, calibration, _ = split_normals(digit_pixels, DecisionSettings(), seed=0, standardize=True)
    assert sorted([*train, *standardization, *calibration]) == list(range(len(digit_pixels)))
    assert min(len(train), len(standardization), len(calibration)) > 0
    many = np.random.default_rng(0).integers(0, 256, (4000, 16, 16, 1), dtype=np.uint8)
    _, standardization, calibration, _ = split_normals(many, DecisionSettings(), seed=0, standardize=True)
    assert (len(standardization), len(calibration)) == (300, 500)


@pytest.mark.parametrize(("count", "held_out", "for_one_percent"), [(209, 62, 99), (267, 80, 99), (230, 69, 99)])
def test_without_a_requested_rate_at_most_three_tenths_calibrate(
    count: int, held_out: int, for_one_percent: int, rng: np.random.Generator
) -> None:
    pixels = rng.integers(0, 256, (count, 16, 16, 1), dtype=np.uint8)
    assert len(split_normals(pixels, DecisionSettings(), 0).calibration) == held_out
    assert len(split_normals(pixels, DecisionSettings(false_alarm_rate=0.01), 0).calibration) == for_one_percent
    assert len(split_normals(pixels, DecisionSettings(confidence=0.5), 0).calibration) == 69  # as that needs
    many = split_normals(pixels, DecisionSettings(), 0, standardize=True)
    assert (len(many.standardization), len(many.calibration)) == (round(count / 10), held_out)


def test_by_group_as_many_groups_are_held_out_as_the_rate_needs(rng: np.random.Generator) -> None:
    parts = rng.integers(0, 256, (220, 16, 16, 1), dtype=np.uint8)
    part = np.repeat(np.arange(220), rng.integers(1, 6, 220))
    pixels = parts[part]
    split = split_normals(pixels, DecisionSettings(false_alarm_rate=0.01), 0)
    assert len(np.unique(part[split.calibration])) == 99
    assert not set(part[split.calibration]) & set(part[split.train])
    assert len(np.unique(split.clusters)) == 220
    default = split_normals(pixels, DecisionSettings(), 0)
    assert len(np.unique(part[default.calibration])) == 66
    message = r"counted as 110 groups of near-duplicates\) can guarantee .* 0.5% needs 199 groups"
    with pytest.raises(CalibrationError, match=message):
        split_normals(pixels, DecisionSettings(false_alarm_rate=0.005), 0)
    by_image = split_normals(pixels, DecisionSettings(false_alarm_rate=0.005), 0, count_by="image")
    assert 199 <= len(by_image.calibration) <= 203


def test_a_part_with_most_of_the_images_is_always_trained_on(rng: np.random.Generator) -> None:
    parts = rng.integers(0, 256, (12, 16, 16, 1), dtype=np.uint8)
    pixels = parts[np.r_[np.zeros(50, dtype=int), 1:12]]
    for seed in range(20):
        split = split_normals(pixels, DecisionSettings(), seed)
        assert set(range(50)) <= set(split.train)
        assert len(split.calibration) == 3


def test_leave_one_out_holds_nothing_out_and_counts_groups(rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 256, (60, 16, 16, 1), dtype=np.uint8)[np.repeat(np.arange(60), 2)]
    rate = DecisionSettings(false_alarm_rate=0.01)
    assert len(np.unique(left_out_clusters(pixels, DecisionSettings(), "group"))) == 60
    assert len(np.unique(left_out_clusters(pixels, rate, "image"))) == 120
    with pytest.raises(CalibrationError, match=r"120 normal images \(leave-one-out, counted as 60 groups"):
        left_out_clusters(pixels, rate, "group")
    with pytest.raises(DataError, match="near-duplicates of each other, so that none can be compared with others"):
        left_out_clusters(pixels[:2], DecisionSettings(), "group")
