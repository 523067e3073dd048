"""Verdicts of a detector on N images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from oddlens.conformal.ranks import Scores


@dataclass(frozen=True)
class Verdicts:
    """Verdicts on N images, in their order; what `Detector.predict` returns.

    Attributes:
        files: paths of files, or names like "array[3]" of images in memory.
        anomaly_score: (N,) float64, raw; higher is more anomalous.
        p_value: (N,) share of normal images expected to score at least as high; NaN if the detector is not calibrated.
        threshold: (N,) the same for all images, or for all of a group.
        label: (N,) int8, 1 where the score is above the threshold; an equal score is normal.

    Example:
        >>> import numpy as np
        >>> from oddlens import Verdicts
        >>> scores, p_values, thresholds = np.array([0.2, 0.9]), np.array([0.4, 0.01]), np.array([0.5, 0.5])
        >>> labels = (scores > thresholds).astype(np.int8)
        >>> verdicts = Verdicts(("a.png", "b.png"), scores, p_values, thresholds, labels)
        >>> len(verdicts), verdicts.verdict
        (2, ['normal', 'anomaly'])
    """

    files: tuple[str, ...]
    anomaly_score: Scores
    p_value: Scores
    threshold: Scores
    label: npt.NDArray[np.int8]

    @property
    def verdict(self) -> list[str]:
        """For each image "anomaly" or "normal"."""
        return ["anomaly" if label else "normal" for label in self.label]

    def __len__(self) -> int:
        return len(self.files)
