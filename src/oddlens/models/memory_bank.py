"""What the dictionary family is made of: atoms that say what patches are like, and banks of normal descriptors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oddlens.models.layers import drop_self_distance

CONTRAST = 1e-3  # variance below which a patch counts as flat
WHITENING = 0.1  # added to the patches' eigenvalues
DEADZONE = 0.25  # responses below it are nothing
KMEANS_ROUNDS = 10  # of k-means
MIN_DISTANCE = 1e-3  # added, so that a picture of the bank has a logarithm


class PatchDictionary(nn.Module):
    """A dictionary of patches as one convolution."""

    filters: Tensor  # (atoms, C, size, size)
    offset: Tensor  # (atoms, 1, 1)

    def __init__(self, count: int, channels: int, size: int, stride: int) -> None:
        super().__init__()
        self.size, self.stride = size, stride
        self.register_buffer("filters", torch.zeros(count, channels, size, size))
        self.register_buffer("offset", torch.zeros(count, 1, 1))

    def fit(self, patches: Tensor, generator: torch.Generator) -> None:
        """Learn from raw patches (P, C * size * size)."""
        patches = patches - patches.mean(dim=1, keepdim=True)
        patches = patches / (patches.square().mean(dim=1, keepdim=True) + CONTRAST).sqrt()
        mean = patches.mean(dim=0)
        centred = patches - mean
        values, vectors = torch.linalg.eigh(centred.T.double() @ centred.double() / len(centred))
        whitening = ((vectors * (values.clamp_min(0) + WHITENING).rsqrt()) @ vectors.T).float()
        atoms = spherical_kmeans(centred @ whitening, len(self.filters), generator)
        filters = atoms @ whitening
        self.offset.copy_((filters @ mean)[:, None, None])
        self.filters.copy_((filters - filters.mean(dim=1, keepdim=True)).reshape(self.filters.shape))

    def forward(self, batch: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, atoms, rows, columns): how much more than a little each patch is like each atom."""
        contrast = (patch_variance(batch, self.size, self.stride) + CONTRAST).rsqrt()
        response = F.conv2d(batch, self.filters, stride=self.stride) * contrast - self.offset
        return response - response.clamp(-DEADZONE, DEADZONE)


class MemoryBank(nn.Module):
    """What normal descriptors look like: their principal axes, and many of them along those axes.

    `beside` is the number of further coordinates that stand beside the projected ones.
    """

    centre: Tensor  # (features,)
    axes: Tensor  # (features, dims) of the features divided by their standard deviations
    rows: Tensor  # (M, dims + beside)

    def __init__(self, features: int, dims: int, neighbours: int, beside: int = 0) -> None:
        super().__init__()
        dims = min(dims, features)
        self.neighbours = neighbours
        self.excludes_self = False  # as `Model`
        self.register_buffer("centre", torch.zeros(features))
        self.register_buffer("axes", torch.zeros(features, dims))
        self.register_buffer("rows", torch.zeros(1, dims + beside))

    def fit_axes(self, descriptors: Tensor) -> None:
        """Take mean, scale and principal axes from (M, features)."""
        self.centre.copy_(descriptors.mean(dim=0))
        centred = descriptors - self.centre
        deviation = centred.square().mean(dim=0).sqrt()
        scale = 1 / (deviation + 1e-3 * deviation.mean() + 1e-6)
        scaled = centred * scale
        covariance = (scaled.T @ scaled / len(scaled)).double()
        axes = torch.linalg.eigh(covariance).eigenvectors.flip(1)[:, : self.axes.shape[1]]
        self.axes.copy_(scale[:, None] * axes.float())

    def keep(self, rows: Tensor) -> None:
        """Remember these projected descriptors (M, dims + beside)."""
        self.rows.resize_(rows.shape).copy_(rows)

    def project(self, descriptors: Tensor) -> Tensor:
        """(..., features) -> (..., dims)."""
        return (descriptors - self.centre) @ self.axes

    def forward(self, projected: Tensor, skip: int = 0) -> Tensor:
        """(M, dims + beside) -> (M,): log of the mean distance to the nearest rows, after the `skip` nearest.

        Neighbours are found by a matrix product; their distances are computed anew, since the product's
        cancellation would let a score depend on the batch.
        """
        skip = max(skip, int(self.excludes_self))
        count = min(self.neighbours + skip, self.rows.shape[0])
        nearness = projected @ self.rows.T - 0.5 * self.rows.square().sum(dim=1)
        near = self.rows[nearness.topk(count, dim=1).indices]
        distances = (near - projected[:, None]).square().sum(dim=2).sqrt()
        if self.excludes_self and count > 1:
            distances = drop_self_distance(distances.sort(dim=1).values)
        elif skip:
            distances = distances.sort(dim=1).values[:, min(skip, count - 1) :]
        return (distances.mean(dim=1) + MIN_DISTANCE).log()


def patch_variance(batch: Tensor, size: int, stride: int) -> Tensor:
    """(N, C, H, W) -> (N, 1, rows, columns): variance of all values of each patch."""
    mean = F.avg_pool2d(batch.mean(dim=1, keepdim=True), size, stride)
    return F.relu(F.avg_pool2d(batch.square().mean(dim=1, keepdim=True), size, stride) - mean.square())


def spherical_kmeans(points: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """(P, D) -> (count, D): unit directions, each the mean of the points that it (or its negative) fits best."""
    order = torch.randperm(len(points), generator=generator)
    centres = F.normalize(points[order.repeat(-(-count // len(points)))[:count]])
    for _ in range(KMEANS_ROUNDS):
        likeness = points @ centres.T
        nearest = likeness.abs().argmax(dim=1)
        sums = torch.zeros_like(centres).index_add_(0, nearest, points * likeness.gather(1, nearest[:, None]))
        taken = sums.norm(dim=1, keepdim=True) > 1e-6
        centres = torch.where(taken, F.normalize(sums), centres)
    return centres
