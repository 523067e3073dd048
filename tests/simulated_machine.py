"""A simulated machine: detectors whose work advances a clock that tests control, instead of taking time."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from oddlens.config.base import InputSpec, TrainingSettings
from oddlens.config.detectors import FAMILIES, FamilySettings
from oddlens.data.image_io import Pixels
from oddlens.models import registry
from oddlens.models.base import GradientModel, ModelOutput


class Machine:
    """A clock that work advances: by its seconds on a quiet machine, times `slowness` at that moment."""

    def __init__(self, slowness: Callable[[float], float] = lambda now: 1.0) -> None:
        self.now, self.slowness = 0.0, slowness

    def work(self, seconds: float) -> None:
        """Do work that takes so many seconds on a quiet machine, in parts as long as the slowness may change."""
        for _ in range(8):
            self.now += seconds / 8 * self.slowness(self.now)


class SlowSettings(FamilySettings):
    """What the work of a detector takes, in seconds on a quiet machine."""

    family: Literal["slow"] = "slow"
    name: str = "slow"
    step: float = 1.0  # of gradient training
    image: float = 0.01  # scored
    closed_form: float = 1.0

    @property
    def title(self) -> str:
        """Its name."""
        return self.name


del FAMILIES["slow"]  # it is there only where the machine is simulated


@contextlib.contextmanager
def simulated_machine(machine: Machine, training: TrainingSettings) -> Iterator[Machine]:
    """Let the simulated machine's clock be the clock, and register the family `slow` with a default training."""

    class Slow(GradientModel):
        """The squared difference of an image's mean to a learned number."""

        settings: SlowSettings

        def __init__(self, settings: SlowSettings, spec: InputSpec) -> None:
            super().__init__(spec)
            self.settings = settings
            self.level = nn.Parameter(torch.rand(1))

        def augmented_loss(self, inputs: tuple[Tensor, ...]) -> Tensor:
            (batch,) = inputs
            machine.work(self.settings.step if self.training else self.settings.image * len(batch))
            return 1 + (batch.mean(dim=(1, 2, 3)) - self.level + 0.1 * torch.rand(len(batch))).square().mean()

        def fit_closed_form(self, images: Tensor, seed: int) -> None:
            machine.work(self.settings.closed_form)

        def forward(self, batch: Tensor) -> ModelOutput:
            machine.work(self.settings.image * len(batch))
            return ModelOutput((batch.mean(dim=(1, 2, 3)) - self.level).square(), None, None)

    FAMILIES["slow"] = SlowSettings
    registry.register_family(settings=SlowSettings, default_training=training)(Slow)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(time, "perf_counter", lambda: machine.now)
            yield machine
    finally:
        del FAMILIES["slow"], registry._REGISTRY[SlowSettings]


def grey_images(count: int) -> Pixels:
    """Different grey images (N, 8, 8, 1)."""
    return np.random.default_rng(0).integers(0, 255, (count, 8, 8, 1), dtype=np.uint8)
