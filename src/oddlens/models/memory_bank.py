"""Components of the dictionary family: learned dictionaries of patches, and memory banks of normal descriptors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oddlens.models.layers import covariance_eigh, drop_self_distance

CONTRAST_EPSILON = 1e-3  # added to a patch's variance: patches of less count as flat
WHITENING_EPSILON = 0.1  # added to the eigenvalues of the patches' covariance
SOFT_THRESHOLD = 0.25  # responses are shrunk towards 0 by it
KMEANS_ITERATIONS = 10
DISTANCE_EPSILON = 1e-3  # added, so that an image that is in the bank has a logarithm


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

    def forward(self, batch: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, atoms, rows, columns): soft-thresholded similarity of each patch to each atom."""
        contrast = (patch_variance(batch, self.size, self.stride) + CONTRAST_EPSILON).rsqrt()
        response = F.conv2d(batch, self.filters, stride=self.stride) * contrast - self.offset
        return response - response.clamp(-SOFT_THRESHOLD, SOFT_THRESHOLD)


class MemoryBank(nn.Module):
    """Memory bank of normal descriptors, projected on their principal axes.

    Args:
        features: length of a descriptor.
        dims: number of principal axes, at most `features`.
        neighbours: number of nearest rows whose distances are averaged.
        extra_dims: number of coordinates appended to the projected ones.
    """

    centre: Tensor  # (features,)
    axes: Tensor  # (features, dims) applied to features divided by their standard deviations
    rows: Tensor  # (M, dims + extra_dims)

    def __init__(self, features: int, dims: int, neighbours: int, extra_dims: int = 0) -> None:
        super().__init__()
        dims = min(dims, features)
        self.neighbours = neighbours
        self.excludes_self = False  # as in `Model`
        self.register_buffer("centre", torch.zeros(features))
        self.register_buffer("axes", torch.zeros(features, dims))
        self.register_buffer("rows", torch.zeros(1, dims + extra_dims))

    def fit_axes(self, descriptors: Tensor) -> None:
        """Estimate mean, scale and principal axes from descriptors (M, features)."""
        self.centre.copy_(descriptors.mean(dim=0))
        centered = descriptors - self.centre
        deviation = centered.square().mean(dim=0).sqrt()
        scale = 1 / (deviation + 1e-3 * deviation.mean() + 1e-6)
        scaled = centered * scale
        _, eigenvectors = covariance_eigh(scaled, torch.float64)
        axes = eigenvectors.flip(1)[:, : self.axes.shape[1]]
        self.axes.copy_(scale[:, None] * axes.float())

    def store(self, rows: Tensor) -> None:
        """Store projected descriptors (M, dims + extra_dims)."""
        self.rows.resize_(rows.shape).copy_(rows)

    def project(self, descriptors: Tensor) -> Tensor:
        """Project descriptors (..., features) on the axes: (..., dims)."""
        return (descriptors - self.centre) @ self.axes

    def forward(self, projected: Tensor, skip: int = 0) -> Tensor:
        """(M, dims + extra_dims) -> (M,): log of the mean distance to the nearest rows, without the `skip` nearest.

        A matrix product selects the neighbours; their distances are then computed again, because cancellation in the
        product would make a score depend on the batch.
        """
        skip = max(skip, int(self.excludes_self))
        count = min(self.neighbours + skip, self.rows.shape[0])
        similarity = projected @ self.rows.T - 0.5 * self.rows.square().sum(dim=1)
        neighbour_rows = self.rows[similarity.topk(count, dim=1).indices]
        distances = (neighbour_rows - projected[:, None]).square().sum(dim=2).sqrt()
        if self.excludes_self and count > 1:
            distances = drop_self_distance(distances.sort(dim=1).values)
        elif skip:
            distances = distances.sort(dim=1).values[:, min(skip, count - 1) :]
        return (distances.mean(dim=1) + DISTANCE_EPSILON).log()


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
