"""Memory banks of normal descriptors, to which the distance of new ones is measured."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from oddlens.models.layers import covariance_eigh, drop_self_distance


class MemoryBank(nn.Module):
    """Memory bank of normal descriptors, projected on their principal axes.

    Args:
        features: length of a descriptor.
        dims: number of principal axes, at most `features`.
        neighbours: number of nearest rows whose distances are averaged.
        extra_dims: number of coordinates appended to the projected ones.
        floor: added to distances, so that a distance of 0 has a logarithm.
    """

    centre: Tensor  # (features,)
    axes: Tensor  # (features, dims) applied to features divided by their standard deviations
    rows: Tensor  # (M, dims + extra_dims)

    def __init__(self, features: int, dims: int, neighbours: int, extra_dims: int = 0, floor: float = 1e-3) -> None:
        super().__init__()
        dims = min(dims, features)
        self.neighbours, self.floor = neighbours, floor
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
        return (distances.mean(dim=1) + self.floor).log()
