"""The directions in which features of normal images lie from their mean, to which those of new ones are compared."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oddlens.models.pretrained.gaussians import MAX_LEFT_OUT

NEIGHBOURS = 2  # nearest directions whose distances are averaged


class DirectionBank(nn.Module):
    """A memory bank of unit vectors: features of normal images, of unit length, less their mean, of unit length again.

    Normal images form several clusters, which a Gaussian does not know apart. Cosines from the mean are after Reiss and
    Hoshen, "Mean-shifted contrastive loss for anomaly detection", 2023.

    Args:
        dims: length of the features.
    """

    centre: Tensor  # (D,)
    rows: Tensor  # (M, D)

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(dims))
        self.register_buffer("rows", torch.zeros(1, dims))

    def fit(self, features: Tensor, count: int, max_images: int) -> Tensor:
        """Store features (copies * count, D): those of all images, then those of each other copy.

        At most `max_images` images with their copies are stored, evenly spaced. Returns the distances (n,) of some
        images from the others; of a single image, its own.
        """
        self.centre.copy_(F.normalize(features, dim=1).mean(dim=0))
        copies = len(features) // count
        images = torch.arange(count, device=features.device)[:: -(-count // max_images)]
        numbers = images.repeat(copies)
        offsets = torch.arange(copies, device=features.device).repeat_interleave(len(images)) * count
        rows = self.directions(features[numbers + offsets])
        self.rows.resize_(rows.shape).copy_(rows)
        sample = images[:: -(-len(images) // MAX_LEFT_OUT)]
        others = numbers != sample[:, None] if len(images) > 1 else None
        return self.distance(self.directions(features[sample]), others)

    def forward(self, features: Tensor) -> Tensor:
        """(N, D) -> (N,): mean squared distance of the directions to the nearest ones of normal images."""
        return self.distance(self.directions(features), None)

    def distance(self, directions: Tensor, counts: Tensor | None) -> Tensor:
        """Distances (N,) of directions (N, D) to the rows that count for them (N, M); to all rows where that is None.

        A matrix product selects the neighbours; their distances are then computed again, without cancellation.
        """
        similarity = directions @ self.rows.T
        if counts is not None:
            similarity = similarity.masked_fill(~counts, -2.0)
        nearest = similarity.topk(min(NEIGHBOURS, len(self.rows)), dim=1).indices
        return (self.rows[nearest] - directions[:, None]).square().sum(dim=2).mean(dim=1)

    def directions(self, features: Tensor) -> Tensor:
        """Unit vectors (N, D) from the mean of the features (N, D)."""
        return F.normalize(F.normalize(features, dim=1) - self.centre, dim=1)
