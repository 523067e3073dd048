"""Faster ways to run an autoencoder on a CPU, which distributions of their own may offer.

Each is an entry point in the group `oddlens.accelerators` that names an `Accelerator`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import Literal, Protocol

from torch import Tensor, nn

from oddlens.errors import PluginError

GROUP = "oddlens.accelerators"


class AcceleratedNetwork(Protocol):
    """The layers of an autoencoder, from images to logits; their outputs are those of PyTorch up to rounding.

    Each call uses the parameters that the layers have at that moment. Several threads may call at once.
    """

    def logits(self, batch: Tensor) -> Tensor:
        """Logits of a batch (N, C, H, W), of its shape and in float32; multiplied in bfloat16, differentiable once."""

    def errors(self, batch: Tensor, kind: Literal["l1", "mse"], *, bf16: bool) -> tuple[Tensor, Tensor]:
        """Reconstructions of a batch (N, C, H, W) and their errors (N, H, W), averaged over the channels.

        There are no gradients. All threads of PyTorch are used.
        """

    def release(self) -> None:
        """Free the memory that later calls would reuse."""


class Accelerator(Protocol):
    """Builds accelerated networks; raises an `OddlensError` where it cannot be used as it is set up."""

    def __call__(
        self, layers: Sequence[nn.Module], height: int, width: int, channels: int
    ) -> AcceleratedNetwork | None:
        """A network of these layers for images of this size; None where the layers or the machine are not supported."""


def accelerate(layers: Sequence[nn.Module], height: int, width: int, channels: int) -> AcceleratedNetwork | None:
    """The first network that an installed accelerator offers, in the order of their names; None if there is none.

    Raises:
        PluginError: an accelerator is installed but cannot be loaded.
    """
    offers = (accelerator(layers, height, width, channels) for accelerator in installed())
    return next((network for network in offers if network is not None), None)


@functools.cache
def installed() -> tuple[Accelerator, ...]:
    """The accelerators that are installed, in the order of their names.

    Raises:
        PluginError: one of them cannot be loaded; names its distribution.
    """
    accelerators: list[Accelerator] = []
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        try:
            accelerators.append(entry.load())
        except Exception as error:
            name = entry.dist.name if entry.dist else entry.value
            raise PluginError(
                f"the accelerator {name} is installed but cannot be loaded ({type(error).__name__}: {error}): install "
                f"it again, or remove it (pip uninstall {name}) and PyTorch's layers are used"
            ) from error
    return tuple(accelerators)
