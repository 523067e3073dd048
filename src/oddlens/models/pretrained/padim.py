"""The padim family: how improbable a backbone's features are at each place of an image; fitted in closed form.

After Defard et al., "PaDiM: a patch distribution modeling framework for anomaly detection and localization", 2021, with
covariances that are shrunk as the training images ask for, with light that may vary, and with a head that tells
synthetic defects, if it is to have one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oddlens.config.base import InputSpec
from oddlens.config.detectors import PadimSettings
from oddlens.models.base import ModelOutput
from oddlens.models.layers import squareplus
from oddlens.models.pretrained.base import PretrainedModel, mean_features, resize_maps
from oddlens.models.pretrained.defect_head import N_DEFECTIVE, DefectHead
from oddlens.models.pretrained.gaussians import PlaceGaussians, fit_gaussians
from oddlens.models.pretrained.scale import Scale
from oddlens.models.registry import register_family

MIN_MAP = 1e-3  # added to distances, so that a distance of 0 has a logarithm
FINE_PERCENT = 1.0  # of the places, whose mean is the score of finer defects
FINE_WEIGHT, FINE_MARGIN = (
    0.6,
    0.2,
)  # of its deviations, which vary more, and by how much it must exceed the other score
TOLERATED_LIGHT = 3.0  # distance of an image's mean features, relative to that of normal ones, from which it counts


@register_family(settings=PadimSettings)
class Padim(PretrainedModel):
    """A Gaussian distribution at each place and depth; see `PadimSettings`.

    At each depth, a place has its Mahalanobis distance, relative to that of training images which are left out. The
    score has the mean over its depths, or that over depths for finer defects if it is larger; the map has the geometric
    mean, which depths must agree on. A head adds its evidence to both, on one scale.
    """

    settings: PadimSettings
    light: PlaceGaussians | None

    def __init__(self, settings: PadimSettings, spec: InputSpec) -> None:
        depths = sorted({*settings.depths, *settings.map_depths, *settings.fine_depths})
        super().__init__(settings, depths, settings.depths, spec, settings.side)
        self.settings, self.max_shift = settings, settings.shift
        shares = [1.0 if depth in settings.depths else settings.map_mean_share for depth in depths]
        self.gaussians = nn.ModuleList(
            PlaceGaussians(*shape, mean_share=share if self.light_varies else 0.0)
            for shape, share in zip(self.shapes, shares, strict=True)
        )
        self.light = PlaceGaussians(self.shapes[-1][0], 1, 1) if self.light_varies else None
        self.scored, self.mapped, self.fine = (
            [depths.index(depth) for depth in used]
            for used in (settings.depths, settings.map_depths, settings.fine_depths)
        )
        self.map_grid = max(self.shapes[i][1:] for i in self.mapped)
        self.head: DefectHead | None = None
        self.distance_scale = Scale(1.0) if self.fine or settings.defect_weight else None
        self.fine_scale = Scale(1.0) if self.fine else None
        if settings.defect_weight:
            self.head = DefectHead(self.shapes, self.grid)
            self.map_scale, self.logit_scale, self.head_scale = map(Scale, (1.0, 0.0, 0.0))

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
        distances = [values.reshape(-1, *shape[1:]) for values, shape in zip(left_out, self.shapes, strict=True)]
        if len(distances[0]) > 1:
            self.fit_scales(distances)
        self.fit_head(images[index], index // self.tiles_per_image, features, distances, seed)

    def fit_scales(self, distances: Sequence[Tensor]) -> None:
        """Bring the scores to the scale of left-out images, by their distances (n, rows_d, columns_d) at each depth."""
        if self.distance_scale is not None:
            self.distance_scale.fit(self.top_distance(distances, self.scored, self.settings.top_percent))
        if self.fine_scale is not None:
            self.fine_scale.fit(self.top_distance(distances, self.fine, FINE_PERCENT))

    def fit_head(
        self, images: Tensor, photographs: Tensor, features: list[list[Tensor]], distances: list[Tensor], seed: int
    ) -> None:
        """Train the head on synthetic defects in the images, and bring it to one scale with the Gaussians.

        The scales are those of images that a network of the head left out, and of the `distances` (n, rows_d,
        columns_d) of images that the Gaussians did. `photographs` (n,) says which photograph each image is a tile of.
        """
        if self.head is None:
            return
        normal = self.gather_batches(features[: len(features) // len(self.copies)], len(images))
        if not self.ranks.is_first:
            return
        logits = self.head.fit(self, images, photographs, normal, seed)
        if logits is None:
            without = "too few images, or too small a region of interest, to learn from synthetic defects"
            self.fitting_remark = "; ".join(filter(None, (self.fitting_remark, without)))
            return
        self.map_scale.fit(self.distance_map(distances)[:, F.adaptive_max_pool2d(self.roi[None], self.map_grid)[0] > 0])
        self.logit_scale.fit(logits[:, self.places > 0])
        self.head_scale.fit(self.evidence_score(logits))

    def forward(self, batch: Tensor) -> ModelOutput:
        """Score a batch (N, C, H, W), and map how far each place is from normal."""
        features = self.describe(batch)
        maps = [gaussian(values) for gaussian, values in zip(self.gaussians, features, strict=True)]
        score, anomaly_map = self.top_distance(maps, self.scored, self.settings.top_percent), self.distance_map(maps)
        if self.light is not None:
            score = score + F.relu(self.light(mean_features(features[-1]))[:, 0, 0] - TOLERATED_LIGHT)
        if self.distance_scale is not None:
            score = self.distance_scale(score)
        if self.fine_scale is not None:
            fine = self.fine_scale(self.top_distance(maps, self.fine, FINE_PERCENT))
            score = torch.maximum(score, FINE_WEIGHT * fine - FINE_MARGIN)
        if self.head is not None:
            logits = self.head(features)
            score = score + self.settings.defect_weight * self.head_scale(self.evidence_score(logits))
            evidence = resize_maps(self.logit_scale(logits), self.map_grid)
            anomaly_map = squareplus(self.map_scale(anomaly_map) + evidence)
        if self.distance_scale is not None:
            score = squareplus(score)
        return ModelOutput(score, self.full_map(anomaly_map), None)

    def top_distance(self, maps: Sequence[Tensor], depths: Sequence[int], percent: float) -> Tensor:
        """Score (N,) by the largest `percent` of the mean of the distances (N, rows_d, columns_d) at some depths."""
        return self.top_mean(torch.stack([resize_maps(maps[i], self.grid) for i in depths]).mean(dim=0), percent)

    def distance_map(self, maps: Sequence[Tensor]) -> Tensor:
        """Map (N, rows, columns) by the distances (N, rows_d, columns_d) at each depth."""
        logs = torch.stack([resize_maps((maps[i] + MIN_MAP).log(), self.map_grid) for i in self.mapped])
        return logs.mean(dim=0).exp()

    def evidence_score(self, logits: Tensor) -> Tensor:
        """Score (N,) by the logits (N, rows, columns) of defects, relative to their mean, which light changes."""
        mean = (logits * self.places).sum(dim=(1, 2), keepdim=True) / self.n_places
        return self.top_mean(squareplus((logits - mean) * self.logit_scale.gain), self.settings.top_percent)
