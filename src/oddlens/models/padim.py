"""The families padim and features: how improbable a backbone's features are, by Gaussians in closed form.

`padim` has a Gaussian distribution at each place of the image, after Defard et al., "PaDiM: a patch distribution
modeling framework for anomaly detection and localization", 2021, with covariances that are shrunk as the training
images ask for, with light that may vary, and with a head that tells synthetic defects, if it is to have one. `features`
has a Gaussian of the whole image, after Rippel et al., "Modeling the distribution of normal data in pre-trained deep
features for anomaly detection", 2021.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oddlens.config.base import InputSpec
from oddlens.config.detectors import FeaturesSettings, PadimSettings
from oddlens.models.base import ModelOutput
from oddlens.models.defect_head import N_DEFECTIVE, DefectHead
from oddlens.models.layers import squareplus
from oddlens.models.pretrained import PretrainedModel, mean_features, resize_maps, without_light
from oddlens.models.registry import register_family

PRIOR_IMAGES = (0.0, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # candidates for the weight of the prior covariance / dimensions
RIDGE = 0.01  # of the mean variance, added to all variances
MIN_IMAGES = 3  # from which leaving one out says something
MAX_LEFT_OUT = 300  # training images that are left out in turn
MAX_PART_NUMBERS = 2**24  # of the matrices of a part of the places
MIN_UNEXPLAINED = 1e-4  # share of a training image's distance that the other images do not explain, at least
MAX_SCALE_RATIO = 100.0  # of a channel that hardly varies, relative to the others
MIN_DISTANCE = 1e-6  # usual distance of images that are all the same
MIN_VARIANCE = 1e-3  # of scaled features, where all images are the same
MIN_MAP = 1e-3  # added to distances, so that a distance of 0 has a logarithm
MIN_SPREAD = 1e-6  # of scores of normal images that are all the same
TOLERATED_LIGHT = 3.0  # distance of an image's mean features, relative to that of normal ones, from which it counts


@register_family(settings=PadimSettings)
class Padim(PretrainedModel):
    """A Gaussian distribution at each place and depth; see `PadimSettings`.

    At each depth, a place has its Mahalanobis distance, relative to that of training images which are left out. The
    score has the mean over its depths; the map has the geometric mean, which depths must agree on. A head adds its
    evidence to both, on one scale.
    """

    settings: PadimSettings
    light: PlaceGaussians | None

    def __init__(self, settings: PadimSettings, spec: InputSpec) -> None:
        depths = sorted({*settings.depths, *settings.map_depths})
        super().__init__(settings, depths, settings.depths, spec, settings.side)
        self.settings = settings
        self.gaussians = nn.ModuleList(PlaceGaussians(*shape, centres=self.light_varies) for shape in self.shapes)
        self.light = PlaceGaussians(self.shapes[-1][0], 1, 1) if self.light_varies else None
        self.scored = [depths.index(depth) for depth in settings.depths]
        self.mapped = [depths.index(depth) for depth in settings.map_depths]
        self.map_grid = max(self.shapes[i][1:] for i in self.mapped)
        self.head: DefectHead | None = None
        if settings.defect_weight:
            self.head = DefectHead(self.shapes, self.grid)
            self.distance_scale, self.map_scale, self.logit_scale, self.head_scale = map(Scale, (1.0, 1.0, 0.0, 0.0))

    def n_closed_form_images(self, count: int) -> int:
        """Number of images whose features are computed: each in all its copies, and those with synthetic defects."""
        return super().n_closed_form_images(count) + (0 if self.head is None else N_DEFECTIVE)

    def fit_closed_form(self, images: Tensor, seed: int) -> None:
        """Fit the Gaussians to the training pixels (N, H, W, C), or to as many as fit into memory."""
        self.backbone.load_pretrained(seed)
        index, features = self.describe_training(images, seed)
        left_out = fit_gaussians(self.gaussians, features, len(index))
        if self.light is not None:
            fit_gaussians([self.light], [[mean_features(batch[-1])] for batch in features], len(index))
        self.fit_head(images[index], index // self.tiles_per_image, features, left_out, seed)

    def fit_head(
        self, images: Tensor, photographs: Tensor, features: list[list[Tensor]], left_out: list[Tensor], seed: int
    ) -> None:
        """Train the head on synthetic defects in the images, and bring it to one scale with the Gaussians.

        The scales are those of images that the Gaussians or a network of the head left out. `photographs` (n,) says
        which photograph each image is a tile of.
        """
        if self.head is None:
            return
        logits = self.head.fit(self, images, photographs, features[: len(features) // len(self.copies)], seed)
        if logits is None:
            without = "too few images, or too small a region of interest, to learn from synthetic defects"
            self.fitting_remark = "; ".join(filter(None, (self.fitting_remark, without)))
            return
        distances = [values.reshape(-1, *shape[1:]) for values, shape in zip(left_out, self.shapes, strict=True)]
        score, anomaly_map = self.distance(distances)
        self.distance_scale.fit(score)
        self.map_scale.fit(anomaly_map[:, F.adaptive_max_pool2d(self.roi[None], self.map_grid)[0] > 0])
        self.logit_scale.fit(logits[:, self.places > 0])
        self.head_scale.fit(self.evidence_score(logits))

    def forward(self, batch: Tensor) -> ModelOutput:
        """Score a batch (N, C, H, W), and map how far each place is from normal."""
        features = self.describe(batch)
        maps = [gaussian(values) for gaussian, values in zip(self.gaussians, features, strict=True)]
        score, anomaly_map = self.distance(maps)
        if self.light is not None:
            score = score + F.relu(self.light(mean_features(features[-1]))[:, 0, 0] - TOLERATED_LIGHT)
        if self.head is not None:
            logits = self.head(features)
            of_head = self.head_scale(self.evidence_score(logits))
            score = squareplus(self.distance_scale(score) + self.settings.defect_weight * of_head)
            evidence = resize_maps(self.logit_scale(logits), self.map_grid)
            anomaly_map = squareplus(self.map_scale(anomaly_map) + evidence)
        return ModelOutput(score, self.full_map(anomaly_map), None)

    def distance(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Score (N,) and map (N, rows, columns) by the distances (N, rows_d, columns_d) at each depth."""
        scored = torch.stack([resize_maps(maps[i], self.grid) for i in self.scored]).mean(dim=0)
        logs = torch.stack([resize_maps((maps[i] + MIN_MAP).log(), self.map_grid) for i in self.mapped])
        return self.top_mean(scored, self.settings.top_percent), logs.mean(dim=0).exp()

    def evidence_score(self, logits: Tensor) -> Tensor:
        """Score (N,) by the logits (N, rows, columns) of defects, relative to their mean, which light changes."""
        mean = (logits * self.places).sum(dim=(1, 2), keepdim=True) / self.n_places
        return self.top_mean(squareplus((logits - mean) * self.logit_scale.gain), self.settings.top_percent)


class Scale(nn.Module):
    """Values in deviations from their mean on normal images, or times `gain` where it is not fitted."""

    mean: Tensor  # (1,)
    gain: Tensor  # (1,) 1 / the standard deviation

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(1))
        self.register_buffer("gain", torch.tensor([gain]))

    def fit(self, values: Tensor) -> None:
        """Estimate mean and deviation of the values of normal images."""
        self.mean.copy_(values.mean())
        self.gain.copy_(1 / values.std().clamp_min(MIN_SPREAD))

    def forward(self, values: Tensor) -> Tensor:
        """Values of any shape, in deviations."""
        return (values - self.mean) * self.gain


@register_family(settings=FeaturesSettings)
class PooledFeatures(PretrainedModel):
    """Gaussian distributions of the mean features of an image, for each depth; see `FeaturesSettings`.

    The score is the mean of the Mahalanobis distances, each relative to that of training images which are left out.
    The map has those at the places of the first depth.
    """

    settings: FeaturesSettings
    map: PlaceGaussians

    def __init__(self, settings: FeaturesSettings, spec: InputSpec) -> None:
        super().__init__(settings, settings.depths, settings.depths, spec, settings.side)
        self.settings = settings
        self.learns_mirrored = settings.mirror
        self.images = nn.ModuleList(PlaceGaussians(shape[0], 1, 1) for shape in self.shapes)
        self.map = PlaceGaussians(*self.shapes[0])

    def fit_closed_form(self, images: Tensor, seed: int) -> None:
        """Fit the Gaussians to the training pixels (N, H, W, C), or to as many as fit into memory."""
        self.backbone.load_pretrained(seed)
        index, batches = self.describe_training(images, seed)
        fit_gaussians(self.images, [[mean_features(part) for part in parts] for parts in batches], len(index))
        fit_gaussians([self.map], batches, len(index))

    def forward(self, batch: Tensor) -> ModelOutput:
        """Score a batch (N, C, H, W), and map which places are unusual."""
        features = self.describe(batch)
        distances = [
            gaussian(mean_features(values)).flatten() for gaussian, values in zip(self.images, features, strict=True)
        ]
        return ModelOutput(torch.stack(distances).mean(dim=0), self.full_map(self.map(features[0])), None)


class PlaceGaussians(nn.Module):
    """A Gaussian distribution of features (D,) at each place of a grid.

    Each covariance is shrunk towards the mean covariance of all places, or of a single place to its diagonal, with the
    weight under which the training images are most probable, each left out in turn. With `centres`, the mean features
    of each image are subtracted first.
    """

    mean: Tensor  # (P, D)
    whitening: Tensor  # (P, D, D) the distance is the length of the whitened difference from the mean

    def __init__(self, dims: int, rows: int, columns: int, *, centres: bool = False) -> None:
        super().__init__()
        self.grid, self.centres = (rows, columns), centres
        self.register_buffer("mean", torch.zeros(rows * columns, dims))
        self.register_buffer("whitening", torch.zeros(rows * columns, dims, dims))

    def fit(self, features: Tensor, count: int) -> Tensor:
        """Fit to features (copies * count, D, rows, columns): those of all images, then those of each other copy.

        Returns the distances (n, P) of some of the images, each left out.
        """
        dims = self.mean.shape[1]
        rows = self.rows(features)  # (P, copies * count, D)
        scale = 1 / rows.std(dim=(0, 1), correction=0).clamp_min(1e-6)
        scale = scale.clamp_max(MAX_SCALE_RATIO * scale.median())
        scatter, distances = PlaceScatter(rows, scale, count), []
        weight = max(PRIOR_IMAGES, key=scatter.likelihood) if count >= MIN_IMAGES else 1.0
        for part in scatter.parts():
            factor, left_out = scatter.factor(part, weight * dims)
            usual = left_out.mean(dim=1)
            distances.append(left_out / usual[:, None])
            identity = torch.eye(dims, device=rows.device)
            inverse = torch.linalg.solve_triangular(factor, identity.expand_as(factor), upper=False)
            self.whitening[part] = inverse * scale / usual[:, None, None]
        self.mean.copy_(rows.mean(dim=1))
        return torch.cat(distances).T

    def forward(self, features: Tensor) -> Tensor:
        """(N, D, rows, columns) -> (N, rows, columns): distance, about 1 for normal images."""
        difference = self.rows(features) - self.mean[:, None]
        whitened = difference @ self.whitening.transpose(1, 2)
        distance = whitened.square().sum(dim=2).sqrt()
        return distance.T.reshape(-1, *self.grid)

    def rows(self, features: Tensor) -> Tensor:
        """(N, D, rows, columns) -> (P, N, D): the features at each place."""
        centred = without_light(features) if self.centres else features
        return centred.flatten(2).permute(2, 0, 1)


def fit_gaussians(gaussians: Iterable[nn.Module], batches: Sequence[Sequence[Tensor]], count: int) -> list[Tensor]:
    """Fit one module of Gaussians for each kind of features, of which each batch has one tensor of each kind.

    Returns the distances (n, P) of some of the images, each left out, by each module.
    """
    return [
        cast(PlaceGaussians, gaussian).fit(torch.cat([batch[number] for batch in batches]), count)
        for number, gaussian in enumerate(gaussians)
    ]


class PlaceScatter:
    """What the Gaussians of a grid of places are fitted from, and how probable left-out training images are.

    Args:
        rows: (P, copies * count, D) features at each place, of all images and then of each other copy of them.
        scale: (D,) by which features are multiplied to have about the same variance.
        count: number of images.
    """

    def __init__(self, rows: Tensor, scale: Tensor, count: int) -> None:
        self.centered = (rows - rows.mean(dim=1, keepdim=True)) * scale
        self.count = count
        self.copies = rows.shape[1] // count
        flat = self.centered.flatten(0, 1)
        mean = flat.T @ flat / len(flat)  # (D, D) mean covariance of all places
        self.is_single = len(self.centered) == 1
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
        return float(torch.stack(sums).sum())

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
        of_prior = 0.0 if self.is_single else prior / (len(self.centered) * self.count)
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
