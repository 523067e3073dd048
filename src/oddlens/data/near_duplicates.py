"""Which images are near-duplicates of each other, and splits that never divide them.

A part photographed six times, or a frame of a film next to its neighbour, must not be learnt from
and tested on: the thumbnail alone would then recognise it.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from oddlens.data.image_io import Pixels

SIDE = 16  # of a thumbnail
MAX_NEIGHBOURS = 32  # the most similar images that are considered for each image
MIN_RARITY = 10  # a near-duplicate is this many times nearer to perfect correlation than a usual pair
GROUP_SLACK = 3  # within a group images may be this many times further from it than the pair that joins two groups
BLOCK = 512  # images compared with all others at a time
MAX_SAMPLED = 1000  # images whose pairs say what is usual
CHUNK = 64  # images made small at a time

_FLAT = 1e-4  # share of the value range below which a thumbnail's deviation is no picture

Thumbs = npt.NDArray[np.float32]  # (N, SIDE * SIDE), rows of unit length
Index = npt.NDArray[np.intp]


def thumbnails(images: Iterable[Pixels]) -> Thumbs:
    """Tiny grey pictures whose products are correlations; brightness and contrast do not matter.

    Takes images (H, W, C) of any sizes, or an array of them, and gives (N, 256) float32: area means on
    a 16 x 16 grid, centred and scaled to unit length. All flat images get one and the same row, at
    right angles to every picture.
    """
    if isinstance(images, np.ndarray):
        parts = [_thumbnails(images[i : i + CHUNK]) for i in range(0, len(images), CHUNK)]
    else:
        parts = [_thumbnails(image[None]) for image in images]
    return np.concatenate([np.empty((0, SIDE * SIDE), dtype=np.float32), *parts])


def _thumbnails(images: Pixels) -> Thumbs:
    """(N, H, W, C) -> (N, SIDE * SIDE)."""
    _, height, width, _ = images.shape
    grey = images.mean(axis=3, dtype=np.float32)
    thumbs = (_area_means(height) @ grey @ _area_means(width).T).reshape(len(images), -1)
    thumbs -= thumbs.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(thumbs, axis=1, keepdims=True)
    flat = lengths <= _FLAT * SIDE * float(np.iinfo(images.dtype).max)
    rows: Thumbs = np.where(flat, np.float32(1 / SIDE), thumbs / np.where(flat, np.float32(1), lengths))
    return rows


@functools.lru_cache(maxsize=64)
def _area_means(side: int) -> npt.NDArray[np.float32]:
    """(SIDE, side): how much of each pixel falls into each cell; a cell wider or narrower than a pixel."""
    cells = np.arange(SIDE)[:, None] * side / SIDE
    pixels = np.arange(side)[None, :]
    shared = np.minimum(cells + side / SIDE, pixels + 1) - np.maximum(cells, pixels)
    means: npt.NDArray[np.float32] = (np.clip(shared, 0, None) * SIDE / side).astype(np.float32)
    return means


def near_duplicate_groups(thumbs: Thumbs, threshold: float = 0.97) -> Index:
    """Number the groups of near-duplicates: (N,) integers, 0 for the first image's group and so on.

    A pair of near-duplicates correlates by more than `threshold`, and is ten times nearer to 1 than the
    set's usual (median) pair: pictures of aligned parts all correlate by 0.98 and are not the same part.
    Such pairs, the most similar first, join their groups if every image of the one is nearly as similar
    to every image of the other (complete linkage, three times as far from 1), so a chain of small steps
    from a picture to a quite different one does not make a group. Equal thumbnails always do.

    Compares all pairs, block by block: N x N products, but not N x N numbers kept.
    """
    if len(thumbs) == 0:
        return np.empty(0, dtype=np.intp)
    distinct, copies = np.unique(thumbs, axis=0, return_inverse=True)
    threshold = max(threshold, 1 - (1 - _usual_similarity(distinct)) / MIN_RARITY)
    within = 1 - GROUP_SLACK * (1 - threshold)
    group = np.arange(len(distinct))
    members = {i: [i] for i in range(len(distinct))}
    for first, second in _similar_pairs(distinct, threshold):
        one, other = group[first], group[second]
        if one == other or float((distinct[members[one]] @ distinct[members[other]].T).min()) <= within:
            continue
        if len(members[one]) < len(members[other]):
            one, other = other, one
        group[members[other]] = one
        members[one] += members.pop(other)
    return _numbered(group[copies.ravel()])


def _usual_similarity(thumbs: Thumbs) -> float:
    """The median correlation of two of the images, from at most SAMPLE of them; -1 for a single image."""
    some = thumbs[:: -(-len(thumbs) // MAX_SAMPLED)]
    return float(np.median((some @ some.T)[np.triu_indices(len(some), 1)])) if len(some) > 1 else -1.0


def _similar_pairs(thumbs: Thumbs, threshold: float) -> Iterator[tuple[int, int]]:
    """Pairs above the threshold by falling correlation; of each image its nearest neighbours only."""
    found = [_pairs_of_block(thumbs, start, threshold) for start in range(0, len(thumbs), BLOCK)]
    first, second, similar = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.lexsort((second, first, -similar))
    return zip(first[order].tolist(), second[order].tolist(), strict=True)


def _pairs_of_block(thumbs: Thumbs, start: int, threshold: float) -> tuple[Index, Index, npt.NDArray[np.float32]]:
    """Pairs of an image in the block with a later image: of each image in the block at most NEIGHBOURS."""
    similar = thumbs[start : start + BLOCK] @ thumbs[start:].T
    similar[np.tril_indices(len(similar))] = -1
    rows, columns = np.divmod(np.flatnonzero(similar > threshold), similar.shape[1])
    found = similar[rows, columns]
    order = np.lexsort((-found, rows))
    rows, columns, found = rows[order], columns[order], found[order]
    near = np.arange(len(rows)) - np.searchsorted(rows, rows) < MAX_NEIGHBOURS
    return rows[near] + start, columns[near] + start, found[near]


def _numbered(group: npt.NDArray[Any]) -> Index:
    """Numbers 0, 1, ... in the order in which the groups appear."""
    _, first, inverse = np.unique(group, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.intp)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse.ravel()]


def fingerprints(pixels: Pixels) -> npt.NDArray[np.uint64]:
    """(N, H, W, C) -> (N,): 8 bytes a picture, to know it again; not a secret and no protection."""
    digests = b"".join(hashlib.blake2b(image.tobytes(), digest_size=8).digest() for image in pixels)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)
