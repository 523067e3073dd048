"""The base class of backbones."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from oddlens.config.manifest import Notice
from oddlens.errors import SettingsError


class Backbone(nn.Module, ABC):
    """A frozen network with the features of images at several depths. Nothing in it depends on training images."""

    size: tuple[int, int] | None = None  # height and width of its images; None: they may have any
    n_classes = 0  # that it tells apart; 0 without a classifier

    @abstractmethod
    def shape(self, depth: int, height: int, width: int) -> tuple[int, int, int]:
        """Channels, rows and columns of the features at a depth, for images of height x width."""

    @abstractmethod
    def deviations(self) -> list[Tensor]:
        """Usual standard deviation (C,) of each channel, at each depth."""

    @abstractmethod
    def load_pretrained(self, seed: int = 0) -> None:
        """Load the weights, or with `seed` compute what is missing beside them.

        Raises:
            MissingExtraError, ArtifactError: they are not installed, or not usable.
        """

    @abstractmethod
    def notice(self) -> Notice:
        """What the licence of the weights requires to be passed on."""

    def classify(self, means: Tensor) -> Tensor:
        """Logits (N, n_classes) from the mean (N, D) of the features of the last depth over its places.

        Raises:
            SettingsError: it has no classifier.
        """
        raise SettingsError(f"{self.notice().name}: has no classifier; set class_weight to 0")

    @abstractmethod
    def forward(self, batch: Tensor) -> list[Tensor]:
        """Features (N, C_d, rows_d, columns_d) at each depth, of images (N, 1 or 3, H, W) in 0..1."""
