"""Gaussian distributions of features, one at each place, with covariances that are shrunk as the images ask for."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from oddlens.models.pretrained.base import without_light
from oddlens.models.ranks import ALONE, Ranks

PRIOR_IMAGES = (0.0, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # candidates for the weight of the prior covariance / dimensions
RIDGE = 0.01  # of the mean variance, added to all variances
MIN_IMAGES = 3  # from which leaving one out says something
MAX_LEFT_OUT = 300  # training images that are left out in turn
MAX_PART_NUMBERS = 2**24  # of the matrices of a part of the places
MIN_UNEXPLAINED = 1e-4  # share of a training image's distance that the other images do not explain, at least
MAX_SCALE_RATIO = 100.0  # of a channel that hardly varies, relative to the others
MIN_DISTANCE = 1e-6  # usual distance of images that are all the same
MIN_VARIANCE = 1e-3  # of scaled features, where all images are the same


class PlaceGaussians(nn.Module):
    """A Gaussian distribution of features (D,) at each place of a grid.

    Each covariance is shrunk towards the mean covariance of all places, or of a single place to its diagonal, with the
    weight under which the training images are most probable, each left out in turn. The share `mean_share` of the mean
    features of each image is subtracted first.
    """

    mean: Tensor  # (P, D)
    whitening: Tensor  # (P, D, D) the distance is the length of the whitened difference from the mean

    def __init__(self, dims: int, rows: int, columns: int, *, mean_share: float = 0.0) -> None:
        super().__init__()
        self.grid, self.mean_share = (rows, columns), mean_share
        self.ranks = ALONE  # as in `Model`
        self.register_buffer("mean", torch.zeros(rows * columns, dims))
        self.register_buffer("whitening", torch.zeros(rows * columns, dims, dims))

    def fit(self, features: Tensor, count: int) -> Tensor:
        """Fit to features (copies * count, D, rows, columns): those of all images, then those of each other copy.

        Of several processes, each has the features of its share of the images, and fits its share of the places.
        Returns the distances (n, P) of some of the images, each left out.
        """
        (n_places, dims), ranks = self.mean.shape, self.ranks if len(self.mean) >= self.ranks.size else ALONE
        rows, whitening = self.all_rows(features, count, ranks), self.whitening[ranks.share(n_places)]
        scale = 1 / deviation(rows, ranks).clamp_min(1e-6)
        scale = scale.clamp_max(MAX_SCALE_RATIO * scale.median())
        scatter, distances = PlaceScatter(rows, scale, count, ranks, n_places), []
        weight = max(PRIOR_IMAGES, key=scatter.likelihood) if count >= MIN_IMAGES else 1.0
        for part in scatter.parts():
            factor, left_out = scatter.factor(part, weight * dims)
            usual = left_out.mean(dim=1)
            distances.append(left_out / usual[:, None])
            identity = torch.eye(dims, device=rows.device)
            inverse = torch.linalg.solve_triangular(factor, identity.expand_as(factor), upper=False)
            whitening[part] = inverse * scale / usual[:, None, None]
        self.mean.copy_(ranks.gather(rows.mean(dim=1), n_places))
        if ranks.size > 1:
            self.whitening.copy_(ranks.gather(whitening, n_places))
        return ranks.gather(torch.cat(distances), n_places).T

    def all_rows(self, features: Tensor, count: int, ranks: Ranks) -> Tensor:
        """Rows (p, copies * count, D) of all images at the places of this process, from the features of its images.

        Where there are fewer places than processes, `ranks` is `ALONE`, and each has all places.
        """
        rows = self.rows(features)
        if self.ranks.size == 1:
            return rows
        images = self.ranks.share(count)
        by_copy = rows.reshape(len(rows), -1, images.stop - images.start, rows.shape[2])
        n_copies = by_copy.shape[1]
        by_image = by_copy.transpose(1, 2).flatten(2)  # (P, n, copies * D)
        if ranks.size > 1:
            every = ranks.exchange(by_image, count)
        else:
            every = self.ranks.gather(by_image.transpose(0, 1), count).transpose(0, 1)
        return every.reshape(len(every), count, n_copies, -1).transpose(1, 2).flatten(1, 2)

    def forward(self, features: Tensor) -> Tensor:
        """(N, D, rows, columns) -> (N, rows, columns): distance, about 1 for normal images."""
        difference = self.rows(features) - self.mean[:, None]
        whitened = difference @ self.whitening.transpose(1, 2)
        distance = whitened.square().sum(dim=2).sqrt()
        return distance.T.reshape(-1, *self.grid)

    def rows(self, features: Tensor) -> Tensor:
        """(N, D, rows, columns) -> (P, N, D): the features at each place."""
        return without_light(features, self.mean_share).flatten(2).permute(2, 0, 1)


def fit_gaussians(gaussians: Iterable[nn.Module], batches: Sequence[Sequence[Tensor]], count: int) -> list[Tensor]:
    """Fit one module of Gaussians for each kind of features, of which each batch has one tensor of each kind.

    Returns the distances (n, P) of some of the images, each left out, by each module.
    """
    return [
        cast(PlaceGaussians, gaussian).fit(torch.cat([batch[number] for batch in batches]), count)
        for number, gaussian in enumerate(gaussians)
    ]


def deviation(rows: Tensor, ranks: Ranks) -> Tensor:
    """Standard deviation (D,) of the rows (p, N, D) of all processes."""
    if ranks.size == 1:
        return rows.std(dim=(0, 1), correction=0)
    flat = rows.flatten(0, 1)
    count = ranks.sum(flat.new_tensor(float(len(flat))))
    mean = ranks.sum(flat.sum(dim=0)) / count
    return (ranks.sum((flat - mean).square().sum(dim=0)) / count).sqrt()


class PlaceScatter:
    """What the Gaussians of a grid of places are fitted from, and how probable left-out training images are.

    Args:
        rows: (P, copies * count, D) features at each place, of all images and then of each other copy of them.
        scale: (D,) by which features are multiplied to have about the same variance.
        count: number of images.
        ranks: the processes that have rows of other places.
        n_places: number of places of all processes; by default those of the rows.
    """

    def __init__(
        self, rows: Tensor, scale: Tensor, count: int, ranks: Ranks = ALONE, n_places: int | None = None
    ) -> None:
        self.ranks, self.n_places = ranks, n_places or len(rows)
        self.centered = (rows - rows.mean(dim=1, keepdim=True)) * scale
        self.count = count
        self.copies = rows.shape[1] // count
        flat = self.centered.flatten(0, 1)
        mean = ranks.sum(flat.T @ flat) / (self.n_places * rows.shape[1])  # (D, D) mean covariance of all places
        self.is_single = self.n_places == 1
        self.shared = mean.diagonal().diag() if self.is_single else mean
        variance = self.shared.diagonal().mean().clamp_min(MIN_VARIANCE)
        self.ridge = RIDGE * variance * torch.eye(len(self.shared), dtype=rows.dtype, device=rows.device)

    def parts(self) -> Iterator[slice]:
        """The places in parts whose matrices take little memory."""
        n_places, n_rows, dims = self.centered.shape
        size = max(1, MAX_PART_NUMBERS // (dims * (dims + n_rows)))
        return (slice(start, start + size) for start in range(0, n_places, size))

    def likelihood(self, weight: float) -> float:
        """Mean log likelihood of training images, each left out, up to a constant."""
        sums = [self.left_out(part, weight * len(self.shared))[0].sum() for part in self.parts()]
        return float(self.ranks.sum(torch.stack(sums).sum()))

    def factor(self, part: slice, prior: float) -> tuple[Tensor, Tensor]:
        """Cholesky factors (p, D, D) of the covariances at some places, and distances (p, n) of left-out images."""
        total = self.count + prior
        factor = self.cholesky(part, prior) / total**0.5
        if self.count < MIN_IMAGES:
            return factor, factor.new_full((len(factor), 1), len(self.shared) ** 0.5)
        return factor, self.left_out(part, prior)[1]

    def cholesky(self, part: slice, prior: float) -> Tensor:
        """Cholesky factors (p, D, D) of the sums of squares at some places, with the prior's."""
        rows = self.centered[part]
        total = rows.transpose(1, 2) @ rows / self.copies + prior * self.shared + (self.count + prior) * self.ridge
        factor: Tensor = torch.linalg.cholesky(total)
        return factor

    def left_out(self, part: slice, prior: float) -> tuple[Tensor, Tensor]:
        """Log likelihoods (p, n) of images under the Gaussians of the others, and distances (p, n) from them.

        Leaving an image with its c copies U (D, c) out subtracts U K U' from the sum of squares A, where K is
        I + 1 / (N - c), and more by the share that the prior has of the image at this place. By the Woodbury identity
        and the determinant lemma, both follow from G = U' A^-1 U.
        """
        factor = self.cholesky(part, prior)
        every, c = self.centered[part], self.copies
        rows = every.reshape(len(every), c, self.count, -1)  # (p, c, n, D)
        rows = rows[:, :, :: -(-self.count // MAX_LEFT_OUT)]
        n = rows.shape[2]
        whitened = torch.linalg.solve_triangular(factor, rows.flatten(1, 2).transpose(1, 2), upper=False)
        copies = whitened.reshape(*whitened.shape[:2], c, n).permute(0, 3, 1, 2).double() / c**0.5  # (p, n, D, c)
        gram = copies.transpose(2, 3) @ copies  # (p, n, c, c)
        others = c * (self.count - 1)
        identity = torch.eye(c, dtype=gram.dtype, device=gram.device)
        of_prior = 0.0 if self.is_single else prior / (self.n_places * self.count)
        k = (1 + of_prior) * identity + 1 / others
        rest = torch.linalg.inv(k) - gram + MIN_UNEXPLAINED * identity
        image = gram.new_full((c, 1), c**0.5 / others)
        image[0] += c**0.5
        projected = gram @ image  # (p, n, c, 1)
        squared = (image.T @ projected + projected.transpose(2, 3) @ torch.linalg.solve(rest, projected)).flatten(1)
        total = self.count - 1 + prior
        log_det = 2 * factor.diagonal(dim1=1, dim2=2).double().log().sum(dim=1, keepdim=True)
        log_det = log_det + torch.linalg.slogdet(k @ rest).logabsdet - len(self.shared) * math.log(total)
        return -0.5 * (log_det + total * squared), (total * squared).clamp_min(MIN_DISTANCE**2).sqrt().float()
