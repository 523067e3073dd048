"""Where a batch of pixels becomes scores: one small protocol, one file a runtime."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from oddlens.config import InputSpec
from oddlens.images import Pixels

Floats = npt.NDArray[np.float32]


class Outputs(NamedTuple):
    """What a runtime says about N images."""

    anomaly_score: npt.NDArray[np.float64]  # (N,) higher is more anomalous; raw, never clamped
    anomaly_map: Floats | None  # (N, H, W), 0 outside the region of interest
    reconstruction: Floats | None  # (N, H, W, C) in 0..1


class Backend(Protocol):
    """A runtime holding one scoring graph."""

    @property
    def name(self) -> str:
        """Runtime and precision, as shown to the user."""

    @property
    def spec(self) -> InputSpec:
        """The pixels that it takes."""

    def __call__(self, pixels: Pixels) -> Outputs:
        """Score pixels (N, H, W, C) of the spec's integer type."""
