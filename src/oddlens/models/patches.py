"""Image patches: dictionaries of atoms learned by spherical k-means, and the contrast of patches."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oddlens.models.layers import covariance_eigh

CONTRAST_EPSILON = 1e-3  # added to a patch's variance: patches of less count as flat
WHITENING_EPSILON = 0.1  # added to the eigenvalues of the patches' covariance
SOFT_THRESHOLD = 0.25  # responses are shrunk towards 0 by it
KMEANS_ITERATIONS = 10


class PatchDictionary(nn.Module):
    """A dictionary of image patches, applied as one convolution."""

    filters: Tensor  # (atoms, C, size, size)
    offset: Tensor  # (atoms, 1, 1)

    def __init__(self, count: int, channels: int, size: int, stride: int) -> None:
        super().__init__()
        self.size, self.stride = size, stride
        self.register_buffer("filters", torch.zeros(count, channels, size, size))
        self.register_buffer("offset", torch.zeros(count, 1, 1))

    def fit(self, patches: Tensor, generator: torch.Generator) -> None:
        """Learn the atoms from raw patches (P, C * size * size)."""
        patches = patches - patches.mean(dim=1, keepdim=True)
        patches = patches / (patches.square().mean(dim=1, keepdim=True) + CONTRAST_EPSILON).sqrt()
        mean = patches.mean(dim=0)
        centered = patches - mean
        eigenvalues, eigenvectors = covariance_eigh(centered.double())
        whitening = ((eigenvectors * (eigenvalues.clamp_min(0) + WHITENING_EPSILON).rsqrt()) @ eigenvectors.T).float()
        atoms = spherical_kmeans(centered @ whitening, len(self.filters), generator)
        filters = atoms @ whitening
        self.offset.copy_((filters @ mean)[:, None, None])
        self.filters.copy_((filters - filters.mean(dim=1, keepdim=True)).reshape(self.filters.shape))

    def forward(self, batch: Tensor, gain: Tensor | None = None) -> Tensor:
        """(N, C, H, W) -> (N, atoms, rows, columns): soft-thresholded similarity of each patch to each atom.

        With a `gain` (N,), as if each image were brighter by it: atoms have a mean of 0, so that it cancels out except
        beside `CONTRAST_EPSILON`. Multiplying the pixels would round them differently in each runtime.
        """
        epsilon = CONTRAST_EPSILON if gain is None else CONTRAST_EPSILON / gain[:, None, None, None].square()
        contrast = (patch_variance(batch, self.size, self.stride) + epsilon).rsqrt()
        response = F.conv2d(batch, self.filters, stride=self.stride) * contrast - self.offset
        return response - response.clamp(-SOFT_THRESHOLD, SOFT_THRESHOLD)


def patch_variance(batch: Tensor, size: int, stride: int) -> Tensor:
    """(N, C, H, W) -> (N, 1, rows, columns): variance of all values of each patch."""
    mean = F.avg_pool2d(batch.mean(dim=1, keepdim=True), size, stride)
    return F.relu(F.avg_pool2d(batch.square().mean(dim=1, keepdim=True), size, stride) - mean.square())


def spherical_kmeans(points: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Spherical k-means: points (P, D) -> unit centroids (count, D); a point and its negative count as the same."""
    order = torch.randperm(len(points), generator=generator)
    centroids = F.normalize(points[order.repeat(-(-count // len(points)))[:count]])
    for _ in range(KMEANS_ITERATIONS):
        similarity = points @ centroids.T
        nearest = similarity.abs().argmax(dim=1)
        sums = torch.zeros_like(centroids).index_add_(0, nearest, points * similarity.gather(1, nearest[:, None]))
        non_empty = sums.norm(dim=1, keepdim=True) > 1e-6
        centroids = torch.where(non_empty, F.normalize(sums), centroids)
    return centroids
