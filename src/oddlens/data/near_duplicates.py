"""Group near-duplicate images, so that a split never divides them.

Photographs of one part, or neighbouring frames of a video, must not be in both the training and the test set: a
nearest thumbnail alone would then recognize the part.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from oddlens.data.image_io import Index, Pixels

THUMBNAIL_SIDE = 16  # pixels
MAX_NEIGHBOURS = 32  # most similar images that are compared with each image
MIN_RARITY = 10  # 1 - correlation is this many times smaller for near-duplicates than for a median pair
GROUP_SLACK = 3  # 1 - correlation within a group may be this many times that at the near-duplicate threshold
BLOCK_SIZE = 512  # images compared with all others at a time
MAX_SAMPLED = 1000  # images from whose pairs the median correlation is computed
CHUNK_SIZE = 64  # images downscaled at a time

_MAX_FLAT_STD = 1e-4  # share of the value range up to which the standard deviation of a thumbnail counts as 0

Thumbnails = npt.NDArray[np.float32]  # (N, THUMBNAIL_SIDE ** 2), rows of unit length


def thumbnails(images: Iterable[Pixels]) -> Thumbnails:
    """Compute grey thumbnails whose inner products are correlations, independent of brightness and contrast.

    Takes images (H, W, C) of any sizes, or an array (N, H, W, C), and returns (N, 256) float32: area means on a
    16 x 16 grid, centred and scaled to unit length. All flat images share one row, which is orthogonal to the rows of
    all other images.
    """
    if isinstance(images, np.ndarray):
        parts = [_thumbnails(images[i : i + CHUNK_SIZE]) for i in range(0, len(images), CHUNK_SIZE)]
    else:
        parts = [_thumbnails(image[None]) for image in images]
    return np.concatenate([np.empty((0, THUMBNAIL_SIDE * THUMBNAIL_SIDE), dtype=np.float32), *parts])


def _thumbnails(images: Pixels) -> Thumbnails:
    """(N, H, W, C) -> (N, THUMBNAIL_SIDE ** 2)."""
    _, height, width, _ = images.shape
    grey = images.mean(axis=3, dtype=np.float32)
    thumbs = (_area_means(height) @ grey @ _area_means(width).T).reshape(len(images), -1)
    thumbs -= thumbs.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(thumbs, axis=1, keepdims=True)
    flat = lengths <= _MAX_FLAT_STD * THUMBNAIL_SIDE * float(np.iinfo(images.dtype).max)
    rows: Thumbnails = np.where(flat, np.float32(1 / THUMBNAIL_SIDE), thumbs / np.where(flat, np.float32(1), lengths))
    return rows


@functools.lru_cache(maxsize=64)
def _area_means(side: int) -> npt.NDArray[np.float32]:
    """(THUMBNAIL_SIDE, side): the weight of each pixel in each cell; a cell may be wider or narrower than a pixel."""
    cells = np.arange(THUMBNAIL_SIDE)[:, None] * side / THUMBNAIL_SIDE
    pixels = np.arange(side)[None, :]
    overlap = np.minimum(cells + side / THUMBNAIL_SIDE, pixels + 1) - np.maximum(cells, pixels)
    means: npt.NDArray[np.float32] = (np.clip(overlap, 0, None) * THUMBNAIL_SIDE / side).astype(np.float32)
    return means


def near_duplicate_groups(thumbs: Thumbnails, threshold: float = 0.97) -> Index:
    """Number the groups of near-duplicates: (N,) integers, 0 for the first image's group and so on.

    A pair are near-duplicates if they correlate by more than `threshold` and are ten times nearer to 1 than the
    median pair: images of different parts in one alignment may all correlate by 0.98. Such pairs, the most similar
    first, merge their groups if all pairs of images across the two are nearly as similar (complete linkage, up to
    three times as far from 1), so a chain of small steps does not put two dissimilar images into one group. Equal
    thumbnails are always in one group.

    All pairs are compared block by block, so the N x N products are never in memory at once.
    """
    if len(thumbs) == 0:
        return np.empty(0, dtype=np.intp)
    distinct, copies = np.unique(thumbs, axis=0, return_inverse=True)
    threshold = max(threshold, 1 - (1 - _median_similarity(distinct)) / MIN_RARITY)
    min_similarity = 1 - GROUP_SLACK * (1 - threshold)
    group = np.arange(len(distinct))
    members = {i: [i] for i in range(len(distinct))}
    for first, second in _similar_pairs(distinct, threshold):
        a, b = group[first], group[second]
        if a == b or float((distinct[members[a]] @ distinct[members[b]].T).min()) <= min_similarity:
            continue
        if len(members[a]) < len(members[b]):
            a, b = b, a
        group[members[b]] = a
        members[a] += members.pop(b)
    return _renumber(group[copies.ravel()])


def _median_similarity(thumbs: Thumbnails) -> float:
    """The median correlation of pairs among at most MAX_SAMPLED of the images; -1 for a single image."""
    sample = thumbs[:: -(-len(thumbs) // MAX_SAMPLED)]
    return float(np.median((sample @ sample.T)[np.triu_indices(len(sample), 1)])) if len(sample) > 1 else -1.0


def _similar_pairs(thumbs: Thumbnails, threshold: float) -> Iterator[tuple[int, int]]:
    """Pairs above the threshold, in order of decreasing correlation; only the nearest neighbours of each image."""
    blocks = [_pairs_of_block(thumbs, start, threshold) for start in range(0, len(thumbs), BLOCK_SIZE)]
    first, second, similarity = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    order = np.lexsort((second, first, -similarity))
    return zip(first[order].tolist(), second[order].tolist(), strict=True)


def _pairs_of_block(thumbs: Thumbnails, start: int, threshold: float) -> tuple[Index, Index, npt.NDArray[np.float32]]:
    """Pairs of an image in the block with a later image, at most MAX_NEIGHBOURS for each image of the block."""
    products = thumbs[start : start + BLOCK_SIZE] @ thumbs[start:].T
    products[np.tril_indices(len(products))] = -1
    rows, columns = np.divmod(np.flatnonzero(products > threshold), products.shape[1])
    similarity = products[rows, columns]
    order = np.lexsort((-similarity, rows))
    rows, columns, similarity = rows[order], columns[order], similarity[order]
    nearest = np.arange(len(rows)) - np.searchsorted(rows, rows) < MAX_NEIGHBOURS
    return rows[nearest] + start, columns[nearest] + start, similarity[nearest]


def _renumber(group: npt.NDArray[Any]) -> Index:
    """Number the groups 0, 1, ... in the order of their first appearance."""
    _, first, inverse = np.unique(group, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.intp)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse.ravel()]


def fingerprints(pixels: Pixels) -> npt.NDArray[np.uint64]:
    """Hash images (N, H, W, C) to (N,) uint64, to recognize them later; the hashes give no protection."""
    digests = b"".join(hashlib.blake2b(image.tobytes(), digest_size=8).digest() for image in pixels)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)
