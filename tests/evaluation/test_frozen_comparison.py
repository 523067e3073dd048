"""How far each image lies from the others, by the frozen backbone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from wave_images import wave_images

from oddlens.data.image_set import ImageSet, concatenate
from oddlens.errors import DataError
from oddlens.evaluation import frozen_comparison
from oddlens.evaluation.contamination import has_backbone
from oddlens.evaluation.frozen_comparison import (
    affordable_size,
    compare_images,
    mahalanobis,
    relative_distances,
    split_into_folds,
    top_mean,
    where_different,
)

needs_weights = pytest.mark.skipif(not has_backbone(), reason="the extra 'pretrained' is not installed")


def gaussian_features(count: int, n_anomalous: int, shift: float, side: int = 2) -> npt.NDArray[np.float16]:
    """(count, side, side, 6) normal features, of which the last images are shifted at the first place."""
    values = np.random.default_rng(0).normal(size=(count, side, side, 6))
    values[count - n_anomalous :, 0, 0] += shift
    return values.astype(np.float16)


def test_distance_is_that_of_a_gaussian_where_there_are_many_images() -> None:
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(3, 3))
    rest = (rng.normal(size=(1, 20_000, 3)) @ mixing).astype(np.float32)
    values = (rng.normal(size=(1, 50, 3)) @ mixing).astype(np.float32)
    precise = np.linalg.inv(mixing.T @ mixing)
    expected = np.sqrt(np.einsum("nd,de,ne->n", values[0], precise, values[0]))
    assert mahalanobis(values, rest)[0] == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("n_anomalous", [1, 5, 20])
def test_anomalies_are_farthest_even_where_a_tenth_of_the_images_is_alike(n_anomalous: int) -> None:
    features = gaussian_features(200, n_anomalous, 10)
    distances = top_mean(relative_distances([features], split_into_folds(np.arange(200), 0)))
    assert set(np.argsort(-distances)[:n_anomalous]) == set(range(200 - n_anomalous, 200))


def test_near_duplicates_of_an_anomaly_do_not_make_it_look_normal() -> None:
    """Its nine copies are in its own fold: it is compared with the others alone."""
    features = gaussian_features(60, 1, 4)
    features = np.concatenate([features, np.repeat(features[-1:], 9, axis=0)])
    alone, as_group = np.arange(69), np.append(np.arange(60), [59] * 9)
    ratios = []
    for groups in (alone, as_group):
        distances = top_mean(relative_distances([features], split_into_folds(groups, 0)))
        ratios.append(distances[59] / np.median(distances))
    assert ratios[1] > 1.2 * ratios[0]


def test_images_of_one_group_are_in_one_fold() -> None:
    groups = np.random.default_rng(0).integers(0, 30, 200)
    folds = split_into_folds(groups, 0)
    assert all(len(set(folds[groups == group])) == 1 for group in range(30))
    assert len(set(folds)) == frozen_comparison.N_FOLDS


def test_equal_features_are_not_divided_by_zero() -> None:
    equal = np.zeros((8, 2, 2, 5), dtype=np.float16)
    assert np.isfinite(relative_distances([equal], split_into_folds(np.arange(8), 0))).all()


@pytest.mark.parametrize(
    ("shape", "count", "size"),
    [
        ((28, 28), 100, (128, 128)),  # enlarged
        ((256, 200), 100, (256, 200)),
        ((256, 256), 4096, (128, 128)),  # half the side: a quarter of 2**28 pixels
        ((256, 256), 10**6, (64, 64)),
        ((8, 512), 100, (8, 512)),
    ],
)
def test_many_images_are_compared_at_a_smaller_size(shape: tuple[int, int], count: int, size: tuple[int, int]) -> None:
    assert affordable_size(*shape, count) == size


def test_the_place_of_a_difference_is_told_in_words() -> None:
    places = np.ones((4, 4))
    assert where_different(places) == "differs all over"
    places[0, 3] = 9
    assert where_different(places) == "differs most at 88% across, 12% down"


@needs_weights
def test_foreign_images_are_farthest_and_named_with_their_reason() -> None:
    images = wave_images(60, 120, 0)
    images[20] = 255 - images[20] // 8
    images[41] = np.random.default_rng(1).integers(0, 256, images[41].shape)
    comparison = compare_images(ImageSet.from_array(images), np.arange(60))
    assert comparison.index.tolist() == list(range(60))
    assert set(np.argsort(-comparison.deviations)[:2]) == {20, 41}
    assert "brighter" in comparison.reason(20)
    again = compare_images(ImageSet.from_array(images), np.arange(60))
    assert np.array_equal(again.distance, comparison.distance)


@needs_weights
@pytest.mark.parametrize("count", [3, 10])
def test_few_images_of_many_shapes_and_modes_are_compared(count: int) -> None:
    shapes = [(40, 90, 3), (300, 20, 1), (64, 64, 3)]
    rng = np.random.default_rng(0)
    parts = [rng.integers(0, 256, (1, *shapes[i % 3]), dtype=np.uint8) for i in range(count)]
    images = concatenate([ImageSet.from_array(part, name=str(i)) for i, part in enumerate(parts)])
    comparison = compare_images(images, np.arange(count))
    assert np.isfinite(comparison.deviations).all()
    assert all(comparison.reason(i) for i in range(count))


@needs_weights
def test_images_are_a_random_sample_where_the_time_is_short() -> None:
    comparison = compare_images(ImageSet.from_array(wave_images(60, 120, 0)), np.arange(60), budget=1e-9)
    assert len(comparison.index) == len(comparison.distance) == frozen_comparison.BATCH_SIZE
    assert comparison.index.tolist() == sorted(set(comparison.index.tolist())) != list(range(8))


def test_images_that_are_copies_of_each_other_cannot_be_compared() -> None:
    copies = ImageSet.from_array(np.repeat(wave_images(1, 120, 0), 50, axis=0))
    with pytest.raises(DataError, match=r"50 images .* too few to compare"):
        compare_images(copies, np.zeros(50, dtype=np.intp))
