"""The protocol of runtimes, which turn a batch of pixels into scores; each has a module of its own."""

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

INPUT = "pixels"  # name of the input of an exported graph
MAX_STREAMS = 8
OUTPUTS = ("anomaly_score", "anomaly_map", "reconstruction")  # the score is always there

Floats = npt.NDArray[np.float32]


class Predictions(NamedTuple):
    """The outputs of a detector for N images; what `Detector.iter_predictions` yields.

    Attributes:
        anomaly_score: (N,) float64, higher is more anomalous; raw, never clamped.
        anomaly_map: (N, H, W) float32, 0 outside the region of interest; None where the family has no maps.
        reconstruction: (N, H, W, C) float32 in 0..1; None where the family reconstructs nothing.

    Example: see `Detector.iter_predictions`.
    """

    anomaly_score: npt.NDArray[np.float64]
    anomaly_map: Floats | None
    reconstruction: Floats | None


class Backend(Protocol):
    """A runtime with one scoring graph."""

    @property
    def name(self) -> str:
        """Runtime and precision, as shown to the user."""

    @property
    def spec(self) -> InputSpec:
        """The form of the pixels that it scores."""

    @property
    def streams(self) -> int:
        """Number of calls of `score_single_threaded` to make at the same time; 1 where that is no faster."""

    def __call__(self, pixels: Pixels) -> Predictions:
        """Score pixels (N, H, W, C) of the spec's integer type, with all threads."""

    def score_single_threaded(self, pixels: Pixels) -> Predictions:
        """Score pixels in the calling thread alone; other threads may do so at the same time."""


def graph_outputs(inputs: list[str], outputs: list[str], source: Path) -> list[str]:
    """Names of the `OUTPUTS` that a graph has.

    Raises:
        ArtifactError: its inputs or outputs are not a detector's.
    """
    if inputs != [INPUT] or "anomaly_score" not in outputs or not set(outputs) <= set(OUTPUTS):
        raise ArtifactError(f"{source}: is not the graph of a detector (inputs {inputs}, outputs {sorted(outputs)})")
    return [name for name in OUTPUTS if name in outputs]


def to_predictions(values: Mapping[str, npt.NDArray[Any]]) -> Predictions:
    """Predictions from the outputs of a graph, by name."""
    reconstruction = values.get("reconstruction")
    return Predictions(
        values["anomaly_score"].astype(np.float64),
        values.get("anomaly_map"),
        None if reconstruction is None else reconstruction.transpose(0, 2, 3, 1),
    )


def count_streams(threads: int | None) -> int:
    """Number of batches to score concurrently on the CPU, one thread each; limited by what memory can hold."""
    return min(threads or os.cpu_count() or 1, MAX_STREAMS)
