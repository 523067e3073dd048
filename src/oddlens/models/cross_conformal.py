"""The crossfit family: a detector for each fold of the normal images, and a score that ranks among all of them.

With few normal images none need be kept from training: each fold is scored by the detector that did not learn it, and
a new image is compared, fold by fold, with what the same detector gave that fold (cross-conformal prediction: Vovk,
"Cross-conformal predictors", 2015). What that promises is in `calibration.promised_rank`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from oddlens.config.base import InputSpec
from oddlens.config.detectors import CrossfitSettings
from oddlens.models.base import ModelOutput
from oddlens.models.ensemble import CompositeModel, mean

MAX_FOLD_IMAGES = 100_000  # images in a fold
PADDING_SCORE = -1e30  # stands where a fold has fewer images than the largest one
WIDTH = 0.08  # of its distance from the median: how far beyond its own score an image counts as being as odd
TAIL = 0.4  # of one image: what all of them together count for far beyond their scores, and too much far before them


class CrossConformal(CompositeModel):
    """Detectors of one family, each of which left out one fold of the normal images.

    The anomaly score is minus how many of the normal images are at least as odd as this one, each by the detector that
    learned neither. A normal image counts fully up to its own score, and a little beyond: the score is smooth, never
    promises more than the plain number would, and orders what lies beyond all normal images, or before them.
    """

    settings: CrossfitSettings
    held_out: Tensor  # (M, K) the scores of each fold's images
    width: Tensor  # (M, K)
    peak: Tensor  # (K,) mean of the largest values of each fold's maps; 1 without maps

    def __init__(self, settings: CrossfitSettings, spec: InputSpec) -> None:
        super().__init__([settings.model] * settings.folds, spec)
        self.settings = settings
        self.banks |= {"held_out": MAX_FOLD_IMAGES, "width": MAX_FOLD_IMAGES}
        self.register_buffer("held_out", torch.full((1, settings.folds), PADDING_SCORE))
        self.register_buffer("width", torch.ones(1, settings.folds))
        self.register_buffer("peak", torch.ones(settings.folds))

    def rank_among(self, scores: Sequence[npt.NDArray[np.float64]], peaks: Sequence[npt.NDArray[np.float64]]) -> None:
        """Keep what each member gave the fold that it did not learn: scores (m,) and its maps' largest values."""
        most = max(len(fold) for fold in scores)
        self.held_out.resize_(most, len(scores)).fill_(PADDING_SCORE)
        self.width.resize_(most, len(scores)).fill_(1.0)
        for number, fold in enumerate(scores):
            ordered = torch.from_numpy(np.sort(fold)).float()
            away = (ordered - ordered.median()).abs() + ordered.std(correction=0)
            self.held_out[-len(fold) :, number] = ordered
            self.width[-len(fold) :, number] = (WIDTH * away).clamp_min(1e-6 * float(ordered.abs().max()) + 1e-12)
        self.peak.copy_(torch.tensor([float(fold.mean()) if len(fold) and fold.mean() > 0 else 1.0 for fold in peaks]))

    def forward(self, batch: Tensor) -> ModelOutput:
        """Score a batch (N, C, H, W) with every member."""
        found: list[ModelOutput] = [member(batch) for member in self.parts]
        scores = torch.stack([scored.anomaly_score for scored in found], dim=1)
        there = (self.held_out > 0.5 * PADDING_SCORE).float()
        away = (scores[:, None] - self.held_out) / self.width  # (N, M, K) in widths
        beyond, before = torch.relu(away), torch.relu(-away)
        tail = TAIL / there.sum()
        counted = torch.relu(1 - beyond) + tail * (beyond.clamp(max=1) * 2 / (1 + beyond) + before / (1 + before))
        maps = [scored.anomaly_map / self.peak[i] for i, scored in enumerate(found) if scored.anomaly_map is not None]
        rebuilt = [scored.reconstruction for scored in found if scored.reconstruction is not None]
        ones = [1.0] * len(found)
        return ModelOutput(
            -(counted * there).sum(dim=(1, 2)), mean(maps, ones[: len(maps)]), mean(rebuilt, ones[: len(rebuilt)])
        )
