"""How far each image lies from the others, by the features of a frozen backbone that never learned any of them."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from oddlens.data.image_io import Index
from oddlens.data.image_set import ImageSet
from oddlens.data.splitting import split_groups
from oddlens.data.training_images import PRETRAINED_SIDES, input_size
from oddlens.errors import DataError
from oddlens.evaluation.image_properties import Properties, image_properties
from oddlens.inference.frozen_features import FrozenFeatures

MIN_IMAGES = 3
MIN_SPREAD = 0.02  # of logarithms of distances; images that differ less are all alike
OBJECT_SIDE = 64  # longer side up to which an image shows one object, so that its features are averaged over the image
PLACE_DEPTHS, OBJECT_DEPTHS = (10, 14), (14, 15)  # blocks of the backbone
MAX_PIXELS = 2**26  # of all images together; more images are shrunk
MIN_SIDE, MAX_ENLARGED_SIDE = 64, 128  # longer side of images that are shrunk, or enlarged
BATCH_SIZE = 8
N_FOLDS = 4
TRIMMED_SHARE, N_TRIMS = 0.15, 1  # of the images, left out of the next Gaussians as the farthest
PRIOR_IMAGES = 0.3  # weight of the prior covariance / dimensions
RIDGE = 0.01  # of the mean variance, added to all variances
TOP_SHARE = 0.1  # of the places, whose mean distance is that of the image
WIDE_SHARE = 0.5  # of the places, which differ about as much as the most different one
MIN_FEATURE_SCALE = 1e-3  # features that vary less are not scaled up

Features = npt.NDArray[np.float16]  # (N, rows, columns, D)


@dataclass(frozen=True)
class Comparison:
    """How far images lie from the others.

    Attributes:
        index: (n,) the images that were compared: all of them, or a random sample where the time was too short.
        distance: (n,) of each image from the others, relative to that of the median image.
        places: (n, rows, columns) the same at each place.
        properties: brightness and the like of the n images.
    """

    index: Index
    distance: npt.NDArray[np.float64]
    places: npt.NDArray[np.float64]
    properties: Properties

    @property
    def deviations(self) -> npt.NDArray[np.float64]:
        """(n,) logarithms of the distances, in robust standard deviations."""
        logs = np.log(self.distance)
        spread = max(MIN_SPREAD, float(1.4826 * np.median(np.abs(logs))))
        return np.asarray(logs / spread, dtype=np.float64)

    def reason(self, i: int) -> str:
        """What sets the i-th of the compared images apart: its properties, or where its content differs most."""
        remarks = self.properties.remarks(i)
        return ", ".join(remarks) if remarks else where_different(self.places[i])


def compare_images(images: ImageSet, groups: Index, budget: float = math.inf, seed: int = 0) -> Comparison:
    """Compare each image with the others by a frozen backbone, without near-duplicates of itself (`groups`, (N,)).

    At each place of the images and each depth of the backbone, an image has its Mahalanobis distance from a Gaussian of
    the other folds (after Defard et al., "PaDiM", 2021). The farthest images are left out of the second Gaussians, as
    anomalies would be among them. After `budget` seconds, images whose features are not computed yet are left out.

    Raises:
        DataError: there are too few images, or all are near-duplicates of each other.
        ImageError: an image cannot be read.
        MissingExtraError: the backbone is not installed.
    """
    if len(np.unique(groups)) < MIN_IMAGES:
        raise DataError(
            f"{len(images)} images show only {len(np.unique(groups))} parts (others are near-duplicates), too few to "
            "compare; add images of other parts"
        )
    order = np.random.default_rng(seed).permutation(len(images))
    features, properties = describe_images(images.subset(order), time.perf_counter() + budget)
    order = order[: len(properties)]
    index, ranks = np.sort(order), np.argsort(order)
    if len(np.unique(groups[index])) < MIN_IMAGES:
        raise DataError(f"the features of {len(index)} images were computed in {budget:g} s; give a longer --budget")
    folds = split_into_folds(groups[index], seed)
    places = relative_distances([values[ranks] for values in features], folds)
    distance = top_mean(places)
    return Comparison(index, distance / np.median(distance), places, properties.at(ranks))


def describe_images(images: ImageSet, deadline: float) -> tuple[list[Features], Properties]:
    """Features of the images at each depth, and their properties, of as many as the time until `deadline` allows."""
    infos = images.infos()
    longer = input_size(infos, None, PRETRAINED_SIDES)
    spec = images.choose_spec(longer, infos)
    pooled = max(spec.height, spec.width) <= OBJECT_SIDE
    size = affordable_size(spec.height, spec.width, len(images))
    if max(size) < max(spec.height, spec.width):
        spec = spec.model_copy(update={"height": size[0], "width": size[1]})
    backbone = FrozenFeatures(OBJECT_DEPTHS if pooled else PLACE_DEPTHS, pooled=pooled)
    batches: list[list[Features]] = []
    properties: list[npt.NDArray[np.float64]] = []
    for pixels in images.batches(spec, BATCH_SIZE):
        batches.append(backbone(pixels, spec.value_max, size))
        start = len(properties) * BATCH_SIZE
        properties.append(image_properties(pixels, infos[start : start + len(pixels)], spec.value_max))
        if time.perf_counter() > deadline:
            break
    return [np.concatenate(parts) for parts in zip(*batches, strict=True)], Properties(np.concatenate(properties))


def affordable_size(height: int, width: int, count: int) -> tuple[int, int]:
    """Height and width at which the features of `count` images are computed: enlarged if small, shrunk if too many."""
    longer = max(height, width)
    affordable = math.sqrt(MAX_PIXELS / (count * height * width)) * longer
    side = max(MIN_SIDE, min(max(longer, MAX_ENLARGED_SIDE), affordable))
    return max(1, round(height * side / longer)), max(1, round(width * side / longer))


def split_into_folds(groups: Index, seed: int) -> Index:
    """The fold (N,) of each image; images of one group are in one fold."""
    n_folds = min(N_FOLDS, len(np.unique(groups)))
    sizes = [(len(groups) + number) // n_folds for number in range(n_folds)]
    folds = np.zeros(len(groups), dtype=np.intp)
    for number, rows in enumerate(split_groups(groups, sizes, seed)):
        folds[rows] = number
    return folds


def relative_distances(features: Sequence[Features], folds: Index) -> npt.NDArray[np.float64]:
    """(N, rows, columns): mean over the depths of the distances at each place, relative to the median image's."""
    is_reference = np.ones(len(folds), dtype=bool)
    for _ in range(N_TRIMS):
        order = np.argsort(top_mean(place_distances(features, folds, is_reference)), kind="stable")
        is_reference = np.ones(len(folds), dtype=bool)
        is_reference[order[len(order) - round(TRIMMED_SHARE * len(order)) :]] = False
    return place_distances(features, folds, is_reference)


def place_distances(
    features: Sequence[Features], folds: Index, is_reference: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    """As `relative_distances`, with Gaussians fitted to some of the images; each fold has those of the other folds."""
    depths = []
    for values in features:
        n, rows, columns, dims = values.shape
        flat = values.reshape(n, rows * columns, dims).transpose(1, 0, 2).astype(np.float32)
        flat /= np.maximum(flat.std(axis=(0, 1)), MIN_FEATURE_SCALE)
        distances = np.empty((n, rows * columns))
        for fold in np.unique(folds):
            others = folds != fold
            references = others & is_reference
            rest = flat[:, references if references.any() else others]
            distances[~others] = mahalanobis(flat[:, ~others], rest).T
        median = np.median(distances, axis=0)
        depths.append((distances / np.where(median > 0, median, 1)).reshape(n, rows, columns))
    return np.asarray(np.mean(depths, axis=0), dtype=np.float64)


def mahalanobis(values: npt.NDArray[np.float32], rest: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """(P, n): distances of features (P, n, D) from the Gaussians of other images (P, m, D), at each place.

    Each covariance is shrunk towards the mean one of all places, or of a single place to its diagonal.
    """
    n_places, count, dims = rest.shape
    mean = rest.mean(axis=1, keepdims=True)
    centered = rest - mean
    squares = (centered.transpose(0, 2, 1) @ centered).astype(np.float64)
    shared = squares.mean(axis=0) / count
    if n_places == 1:
        shared = np.diag(shared.diagonal())
    prior = PRIOR_IMAGES * dims
    ridge = RIDGE * max(shared.diagonal().mean(), RIDGE) * np.eye(dims)
    covariance = (squares + prior * shared) / (count + prior) + ridge
    difference = values - mean
    projected = difference @ np.linalg.inv(covariance).astype(np.float32)
    return np.asarray(np.sqrt(np.maximum((projected * difference).sum(axis=2), 0)), dtype=np.float64)


def top_mean(places: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(N,) mean of the largest distances of a map (N, rows, columns)."""
    flat = np.sort(places.reshape(len(places), -1), axis=1)
    count = max(1, round(TOP_SHARE * flat.shape[1]))
    return np.asarray(np.maximum(flat[:, -count:].mean(axis=1), 1e-6), dtype=np.float64)


def where_different(places: npt.NDArray[np.float64]) -> str:
    """Where in the image the distances (rows, columns) are large, in words."""
    rows, columns = places.shape
    limit = 1 + (places.max() - 1) / 2
    if places.size == 1 or (places >= limit).mean() >= WIDE_SHARE:
        return "differs all over"
    row, column = np.unravel_index(int(places.argmax()), places.shape)
    return f"differs most at {(column + 0.5) / columns:.0%} across, {(row + 0.5) / rows:.0%} down"
