"""The patchcore family: nearest neighbours of a backbone's features at each place; fitted in closed form.

After Roth et al., "Towards total recall in industrial anomaly detection", 2022. The coreset is selected image by image
and features are scaled by the backbone alone, so that each training image can be scored as if it had been left out.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from oddlens.config.base import InputSpec
from oddlens.config.detectors import PatchcoreSettings
from oddlens.models.base import ModelOutput
from oddlens.models.pretrained.base import PretrainedModel, mean_features, without_light
from oddlens.models.registry import register_family

PROJECTED_DIMS = 64  # of the random projections by which places of the bank are selected
MAX_LIGHT_ROWS = 30_000  # of the bank of mean features
TOLERATED_LIGHT = 0.5  # distance of an image's mean features from normal ones from which it counts
ROWS_AT_ONCE = 2048  # rows of a bank that are compared at a time, which bounds the memory
FAR = 1e9  # distance of an image without which the bank has no rows


@register_family(settings=PatchcoreSettings)
class Patchcore(PretrainedModel):
    """Distance of the features at each place to the nearest ones of normal images; see `PatchcoreSettings`."""

    supports_leave_one_out = True

    settings: PatchcoreSettings
    rows: Tensor  # (M, D) features of normal images
    light_rows: Tensor  # (L, E) mean features of normal images and of their darker and brighter copies

    def __init__(self, settings: PatchcoreSettings, spec: InputSpec) -> None:
        super().__init__(settings, settings.depths, settings.depths, spec, settings.side)
        self.settings = settings
        dims, light_dims = sum(shape[0] for shape in self.shapes), self.shapes[-1][0]
        self.max_rows = max(2, int(settings.bank_megabytes * 2**20) // (4 * dims))
        self.banks = {"rows": self.max_rows}
        self.register_buffer("rows", torch.zeros(1, dims))
        self.row_images: Tensor | None = None  # (M,) the training image of each row, while fitting
        self.light_images: Tensor | None = None
        if self.light_varies:
            self.banks["light_rows"] = MAX_LIGHT_ROWS
            self.register_buffer("light_rows", torch.zeros(1, light_dims))

    # -- fitting ----------------------------------------------------------------------------------

    def fit_closed_form(self, images: Tensor, seed: int) -> None:
        """Fill the banks from the training pixels (N, H, W, C), or from as many as fit into memory."""
        self.backbone.load_pretrained(seed)
        generator = torch.Generator().manual_seed(seed)
        copies = len(self.copies)
        max_images = min(self.max_rows, MAX_LIGHT_ROWS // copies)
        index, features = self.describe_training(images, seed, max_images)
        places = torch.cat([self.join(batch) for batch in features])
        places = places.reshape(copies, -1, *places.shape[1:])
        places = places.transpose(0, 1).flatten(1, 2)  # (n, copies * P, D)
        count = min(places.shape[1], self.max_rows // len(index))
        projection = torch.randn(places.shape[2], PROJECTED_DIMS, generator=generator).to(places.device)
        selected = spread_rows(places @ projection, count)
        rows = places[torch.arange(len(places), device=places.device)[:, None], selected]
        rows = self.ranks.gather(rows, len(index))
        self.rows.resize_(rows.flatten(0, 1).shape).copy_(rows.flatten(0, 1))
        self.row_images = index.repeat_interleave(count)
        if self.light_varies:
            light = self.gather_images(torch.cat([self.light(batch) for batch in features]), len(index))
            self.light_rows.resize_(light.shape).copy_(light)
            self.light_images = index.repeat(copies)

    def join(self, features: list[Tensor]) -> Tensor:
        """(N, P, D): features of all depths at each place of the finest grid, of about unit length."""
        centred = [without_light(values) if self.light_varies else values for values in features]
        scaled = [
            F.interpolate(values / deviation[:, None, None], size=self.grid, mode="bilinear", align_corners=False)
            for values, deviation in zip(centred, self.backbone.deviations(), strict=True)
        ]
        flat = torch.cat(scaled, dim=1).flatten(2).transpose(1, 2)
        return flat / math.sqrt(flat.shape[2])

    def light(self, features: list[Tensor]) -> Tensor:
        """(N, D): mean features at the last depth, of about unit length."""
        light = mean_features(features[-1])
        return light.flatten(1) / self.backbone.deviations()[-1] / math.sqrt(light.shape[1])

    # -- scoring ----------------------------------------------------------------------------------

    def forward(self, batch: Tensor) -> ModelOutput:
        """Score a batch (N, C, H, W), and map how far each place is from normal."""
        features = self.describe(batch)
        descriptors = self.join(features)
        distances = nearest_distance(descriptors, self.rows, self.ignored(self.row_images))
        total = distances.reshape(-1, *self.grid)
        score = self.top_mean(total, self.settings.top_percent)
        if self.light_varies:
            light = self.light(features)[:, None]
            distance = nearest_distance(light, self.light_rows, self.ignored(self.light_images))[:, 0]
            score = score + F.relu(distance - TOLERATED_LIGHT)
        return ModelOutput(score, self.full_map(total), None)

    def ignored(self, row_images: Tensor | None) -> Tensor | None:
        """Which rows of a bank each image of the batch ignores, (N, M); None: none."""
        return None if self.left_out is None or row_images is None else self.left_out.ignores(row_images)


def nearest_distance(descriptors: Tensor, rows: Tensor, ignored: Tensor | None) -> Tensor:
    """Distance (N, P) of descriptors (N, P, D) to the nearest row (M, D) that is not ignored, (N, M), for their image.

    A matrix product finds the row, part by part; its distance is then computed again, because cancellation in the
    product would make a score depend on the batch. It is `FAR` where all rows are ignored.
    """
    best = descriptors.new_full(descriptors.shape[:2], -torch.inf)
    nearest = torch.zeros_like(best, dtype=torch.long)
    for start in range(0, rows.shape[0], ROWS_AT_ONCE):
        part = rows[start : start + ROWS_AT_ONCE]
        similarity = descriptors @ part.T - 0.5 * part.square().sum(dim=1)
        if ignored is not None:
            similarity = similarity.masked_fill(ignored[:, None, start : start + ROWS_AT_ONCE], -torch.inf)
        values, index = similarity.max(dim=2)
        nearest = torch.where(values > best, index + start, nearest)
        best = torch.maximum(values, best)
    distance = (descriptors - rows[nearest]).square().sum(dim=2).sqrt()
    return distance if ignored is None else distance.masked_fill(best == -torch.inf, FAR)


def spread_rows(descriptors: Tensor, count: int) -> Tensor:
    """Indices (n, count) of descriptors (n, P, D) of each image that are far from each other.

    Greedy: each is the one farthest from those selected before it; the first is the one farthest from the mean.
    """
    index = torch.arange(len(descriptors), device=descriptors.device)
    distance = (descriptors - descriptors.mean(dim=1, keepdim=True)).square().sum(dim=2)
    selected = []
    for step in range(count):
        farthest = distance.argmax(dim=1)
        selected.append(farthest)
        to_last = (descriptors - descriptors[index, farthest][:, None]).square().sum(dim=2)
        distance = to_last if step == 0 else torch.minimum(distance, to_last)
    return torch.stack(selected, dim=1)
