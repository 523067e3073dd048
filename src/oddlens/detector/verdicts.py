"""Verdicts of a detector on N images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from oddlens.conformal.ranks import Scores


@dataclass(frozen=True)
class Verdicts:
    """Verdicts on N images, in their order."""

    files: tuple[str, ...]
    anomaly_score: Scores  # (N,) higher is more anomalous
    p_value: Scores  # (N,) share of normal images expected to score at least as high; nan if not calibrated
    threshold: Scores  # (N,) the same for all, or for all of a group
    label: npt.NDArray[np.int8]  # (N,) 1 where the score is above the threshold

    @property
    def verdict(self) -> list[str]:
        """For each image "anomaly" or "normal"."""
        return ["anomaly" if label else "normal" for label in self.label]

    def __len__(self) -> int:
        return len(self.files)
