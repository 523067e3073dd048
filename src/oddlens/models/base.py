"""The contract that every family of detectors keeps, and the one graph that scores pixels."""

from __future__ import annotations

import contextlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from oddlens.config.base import InputSpec
from oddlens.config.detectors import ModelSettings


class ModelOutput(NamedTuple):
    """What a model says about a batch of N images."""

    anomaly_score: Tensor  # (N,) higher is more anomalous; raw, never clamped
    anomaly_map: Tensor | None  # (N, H, W) evidence at each pixel, 0 outside the region of interest
    reconstruction: Tensor | None  # (N, C, H, W) in 0..1


class Model(nn.Module, ABC):
    """Base of all families.

    Fitting goes through three steps, of which a family has those that it needs: `prepare` looks at the images
    before any gradient; the `loss(batch)` of a `Learner` trains by gradients; `fit_closed_form` takes from the
    images what has a closed form once the network stands. `forward(batch)` scores, written only in operations that
    export to ONNX with a dynamic batch. Batches are (N, C, H, W) floats, 1.0 being the value range's end; pixels
    outside the region of interest are 0.
    """

    settings: ModelSettings
    roi: Tensor  # (H, W) 1 where an image counts, 0 elsewhere

    def __init__(self, spec: InputSpec) -> None:
        super().__init__()
        self.spec = spec
        self.banks: dict[str, int] = {}  # buffers with as many rows as the training images gave: name -> most rows
        self.excludes_self = False  # whether a picture that is in a bank counts as its own neighbour no more
        self.register_buffer("roi", torch.ones(spec.height, spec.width), persistent=False)
        self.roi_pixels = spec.height * spec.width

    def set_roi(self, roi: npt.NDArray[np.bool_]) -> None:
        """Let only the pixels count where `roi` (H, W) is true."""
        self.roi.copy_(torch.from_numpy(roi.astype(np.float32)))
        self.roi_pixels = int(roi.sum())

    @property
    def covers_whole_image(self) -> bool:
        """Whether the region of interest is the whole image."""
        return self.roi_pixels == self.roi.numel()

    def prepare(self, images: Tensor, seed: int) -> None:
        """Take from the training pixels (N, H, W, C) what the network needs before it learns."""

    def fit_closed_form(self, images: Tensor, seed: int) -> None:
        """Take from the training pixels (N, H, W, C) what has a closed form; the network stands by then."""

    def n_closed_form_images(self, count: int) -> int:
        """How many of `count` training images the closed form looks at through the trained network."""
        return 0

    @abstractmethod
    def forward(self, batch: Tensor) -> ModelOutput:
        """Score a batch (N, C, H, W)."""

    def scale(self, pixels: Tensor) -> Tensor:
        """(N, H, W, C) integers in 0..value_max -> (N, C, H, W) floats, 0 outside the region."""
        factor = 1.0 / self.spec.value_max
        return pixels.permute(0, 3, 1, 2).to(torch.float32) * (factor if self.covers_whole_image else self.roi * factor)

    def batches(self, images: Tensor, most: int = 64) -> Iterator[Tensor]:
        """Pixels (N, H, W, C), a few at a time, as batches of floats: what the closed-form steps go through."""
        size = max(1, min(most, 2**20 // (self.spec.height * self.spec.width)))
        for start in range(0, len(images), size):
            yield self.scale(images[start : start + size])

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """Put a detector file's tensors in place; banks take the number of rows that the file has."""
        for name in self.banks.keys() & weights.keys():
            self.get_buffer(name).resize_(weights[name].shape)
        self.load_state_dict(weights)

    @property
    def uses_all_threads(self) -> bool:
        """Whether scoring on a CPU divides a batch between the threads so that none waits for long."""
        return False

    def remark(self, images: Tensor) -> str | None:
        """What this model has to say of itself, judged on normal pixels (N, H, W, C) that it did not learn."""
        return None

    def mean_over_roi(self, values: Tensor) -> Tensor:
        """(N, H, W) -> (N,): the mean over the region of interest."""
        counted = values if self.covers_whole_image else values * self.roi
        return counted.sum(dim=(1, 2)) * (1.0 / self.roi_pixels)

    def top_mean_over_roi(self, values: Tensor, percent: float) -> Tensor:
        """(N, H, W) non-negative -> (N,): the mean of the largest `percent` of the region's values."""
        count = max(1, math.ceil(self.roi_pixels * percent / 100))
        return (values * self.roi).flatten(1).topk(count, dim=1).values.mean(dim=1)


@contextlib.contextmanager
def leave_one_out(model: Model) -> Iterator[None]:
    """While this lasts, a training image's score does not profit from its being in a bank of normal ones itself."""
    parts = [part for part in model.modules() if hasattr(part, "excludes_self")]
    for part in parts:
        part.excludes_self = True  # type: ignore[assignment]  # torch takes every attribute for a tensor or module
    try:
        yield
    finally:
        for part in parts:
            part.excludes_self = False  # type: ignore[assignment]


class GradientModel(Model):
    """Base of the families that train by gradients."""

    @abstractmethod
    def loss(self, batch: Tensor) -> Tensor:
        """Mean training loss of a batch (N, C, H, W); a scalar."""


class ScoringGraph(nn.Module):
    """Pixels to score, map and reconstruction: what scores, and what is exported."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> ModelOutput:
        """Score pixels (N, H, W, C) of the spec's integer type."""
        scored: ModelOutput = self.model(self.model.scale(pixels))
        return scored
