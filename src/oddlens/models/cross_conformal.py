"""The crossfit family: one detector for each fold of the normal images, and a score that is a rank among all of them.

All normal images can be used for training: each fold is scored by the detector that was trained without it, and a new
image is compared, fold by fold, with the scores that the same detector gave that fold (cross-conformal prediction:
Vovk, "Cross-conformal predictors", 2015). `conformal.ranks.threshold_rank` has the guarantee.
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
from oddlens.models.ensemble import CompositeModel, weighted_mean
from oddlens.models.registry import register_family

MAX_FOLD_IMAGES = 100_000  # images in a fold
PADDING_SCORE = -1e30  # fills the rows of folds that are smaller than the largest one
WIDTH_RATIO = 0.08  # width of the range in which a score partly counts, by its distance from the median
# The most, in images, that all held-out scores together add to the count of images. Each one's share falls the further
# it is exceeded and rises the further it is from being reached, so that scores beyond all of them are ordered, too.
TAIL_COUNT = 0.4


@register_family(settings=CrossfitSettings)
class CrossConformal(CompositeModel):
    """Detectors of one family, each trained without one fold of the normal images.

    The anomaly score is minus the number of normal images that are at least as anomalous as this one, each judged by
    the detector that was trained on neither. A normal image counts fully up to its own score and partly a little above:
    the score is smooth, never claims more than the plain count, and orders images above or below all normal ones.
    """

    settings: CrossfitSettings
    held_out: Tensor  # (M, K) scores of each fold's images
    width: Tensor  # (M, K) of the range above each score in which its count falls to 0
    peak: Tensor  # (K,) mean of the maxima of each fold's maps; 1 without maps

    def __init__(self, settings: CrossfitSettings, spec: InputSpec) -> None:
        super().__init__([settings.model] * settings.folds, spec)
        self.settings = settings
        self.banks |= {"held_out": MAX_FOLD_IMAGES, "width": MAX_FOLD_IMAGES}
        self.register_buffer("held_out", torch.full((1, settings.folds), PADDING_SCORE))
        self.register_buffer("width", torch.ones(1, settings.folds))
        self.register_buffer("peak", torch.ones(settings.folds))

    def set_held_out_scores(
        self, scores: Sequence[npt.NDArray[np.float64]], peaks: Sequence[npt.NDArray[np.float64]]
    ) -> None:
        """Store the scores (m,) of each fold, by the member trained without it, and the maxima of its maps."""
        max_fold_size = max(len(fold) for fold in scores)
        self.held_out.resize_(max_fold_size, len(scores)).fill_(PADDING_SCORE)
        self.width.resize_(max_fold_size, len(scores)).fill_(1.0)
        for k, fold in enumerate(scores):
            sorted_scores = torch.from_numpy(np.sort(fold)).float()
            deviation = (sorted_scores - sorted_scores.median()).abs() + sorted_scores.std(correction=0)
            self.held_out[-len(fold) :, k] = sorted_scores
            self.width[-len(fold) :, k] = (WIDTH_RATIO * deviation).clamp_min(
                1e-6 * float(sorted_scores.abs().max()) + 1e-12
            )
        self.peak.copy_(torch.tensor([float(fold.mean()) if len(fold) and fold.mean() > 0 else 1.0 for fold in peaks]))

    def forward(self, batch: Tensor) -> ModelOutput:
        """Score a batch (N, C, H, W) with every member."""
        outputs: list[ModelOutput] = [member(batch) for member in self.parts]
        scores = torch.stack([output.anomaly_score for output in outputs], dim=1)
        is_score = (self.held_out > 0.5 * PADDING_SCORE).float()
        deviation = (scores[:, None] - self.held_out) / self.width  # (N, M, K), in widths
        above, below = torch.relu(deviation), torch.relu(-deviation)
        tail = TAIL_COUNT / is_score.sum()
        counts = torch.relu(1 - above) + tail * (above.clamp(max=1) * 2 / (1 + above) + below / (1 + below))
        maps = [output.anomaly_map / self.peak[i] for i, output in enumerate(outputs) if output.anomaly_map is not None]
        reconstructions = [output.reconstruction for output in outputs if output.reconstruction is not None]
        return ModelOutput(
            -(counts * is_score).sum(dim=(1, 2)),
            weighted_mean(maps, [1.0] * len(maps)) if maps else None,
            weighted_mean(reconstructions, [1.0] * len(reconstructions)) if reconstructions else None,
        )
