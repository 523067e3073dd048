"""Where a batch of pixels becomes scores: one small protocol, one file a runtime."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from oddlens.config.base import InputSpec
from oddlens.data.image_io import Pixels
from oddlens.errors import ArtifactError

INPUT = "pixels"  # of an exported graph
MAX_STREAMS = 8
OUTPUTS = ("anomaly_score", "anomaly_map", "reconstruction")  # the score is always there

Floats = npt.NDArray[np.float32]


class Predictions(NamedTuple):
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

    @property
    def streams(self) -> int:
        """How many calls of `alone` at a time are faster than one call after the other; 1 where none are."""

    def __call__(self, pixels: Pixels) -> Predictions:
        """Score pixels (N, H, W, C) of the spec's integer type, with all threads."""

    def alone(self, pixels: Pixels) -> Predictions:
        """The same in the caller's thread alone, while others may do the same."""


def graph_outputs(inputs: list[str], outputs: list[str], source: Path) -> list[str]:
    """Those of `OUTPUTS` that a graph gives.

    Raises:
        ArtifactError: its inputs or outputs are not a detector's.
    """
    if inputs != [INPUT] or "anomaly_score" not in outputs or not set(outputs) <= set(OUTPUTS):
        raise ArtifactError(f"{source}: is not a detector's graph (it takes {inputs}, gives {sorted(outputs)})")
    return [name for name in OUTPUTS if name in outputs]


def to_predictions(values: Mapping[str, npt.NDArray[Any]]) -> Predictions:
    """What a graph's outputs, by name, say about N images."""
    reconstruction = values.get("reconstruction")
    return Predictions(
        values["anomaly_score"].astype(np.float64),
        values.get("anomaly_map"),
        None if reconstruction is None else reconstruction.transpose(0, 2, 3, 1),
    )


def first_line(error: Exception) -> str:
    """Of a runtime's error, as much as fits into one of ours."""
    return str(error).strip().partition("\n")[0][:200]


def streams() -> int:
    """How many batches are scored side by side on the CPU, in one thread each; not more than memory bears."""
    return min(threads() or os.cpu_count() or 1, MAX_STREAMS)


def threads() -> int:
    """The number of threads that --threads (or the user, for OpenMP) asks for; 0 leaves it to the runtime."""
    asked = os.environ.get("OMP_NUM_THREADS", "")  # may be a list, meant for OpenMP alone
    return int(asked) if asked.isdecimal() else 0
