"""The base classes of all families of detectors, and the graph that scores pixels."""

from __future__ import annotations

import contextlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from oddlens.config.base import InputSpec
from oddlens.config.detectors import FamilySettings
from oddlens.config.manifest import Notice
from oddlens.errors import SettingsError
from oddlens.models.backbones.onnx_graph import OnnxGraph
from oddlens.models.ranks import ALONE


class ModelOutput(NamedTuple):
    """Output of a model for a batch of N images."""

    anomaly_score: Tensor  # (N,) higher is more anomalous; raw, never clamped
    anomaly_map: Tensor | None  # (N, H, W) evidence at each pixel; 0 outside the region of interest
    reconstruction: Tensor | None  # (N, C, H, W) in 0..1


class LeftOut(NamedTuple):
    """What leave-one-out scoring ignores: in the banks, the training images of the same group as the scored image."""

    training_groups: Tensor  # (M,) the group of each training image, in the order of `fit_closed_form`
    groups: Tensor  # (N,) the group of each image of the batch

    def ignores(self, row_images: Tensor) -> Tensor:
        """Whether each image of the batch ignores each row of a bank: (R,) training images of the rows -> (N, R)."""
        return self.groups[:, None] == self.training_groups[row_images][None, :]


class Model(nn.Module, ABC):
    """Base class of all families.

    Fitting has up to three steps, and a family implements those that it needs: `prepare` uses the images before
    gradient training, `loss(batch)` of a `GradientModel` is minimized, and `fit_closed_form` fits what has a closed
    form once the network is trained. `forward(batch)` scores, using only operations that export to ONNX with a
    dynamic batch size. Batches are (N, C, H, W) floats, with 1.0 the end of the value range; pixels outside the region
    of interest are 0.
    """

    pretext_task: ClassVar[str] = ""  # what `pretext_accuracy` measures: "rotations ... are classified"
    # Whether all training images calibrate, each scored without its group (`left_out`), so that none is held out. For
    # the guarantee, a score may only fall when rows are added to a bank, the rows of an image may depend on that image
    # alone, and nothing else in the score may depend on the training images.
    supports_leave_one_out: ClassVar[bool] = False
    # Whether all processes of a distributed training take part in `fit_closed_form`; otherwise the first one does it.
    fits_together: ClassVar[bool] = False

    settings: FamilySettings
    roi: Tensor  # (H, W) 1 in the region of interest, 0 elsewhere

    def __init__(self, spec: InputSpec) -> None:
        super().__init__()
        self.spec = spec
        self.banks: dict[str, int] = {}  # buffers whose number of rows depends on the training images: name -> maximum
        self.fitting_remark: str | None = None  # for the user: what fitting in closed form left out
        self.excludes_self = False  # whether an image in a bank is excluded from its own neighbours
        self.left_out: LeftOut | None = None  # which rows of the banks the images of a batch ignore; None: none
        self.ranks = ALONE  # the processes that train this model (`over_ranks`)
        self.graph: OnnxGraph | None = None  # of the user's own backbone, where it has one
        self.tiles_per_image = 1  # set before fitting: pixels i are a tile of the image i // tiles_per_image
        self.register_buffer("roi", torch.ones(spec.height, spec.width), persistent=False)
        self.roi_pixels = spec.height * spec.width

    def set_roi(self, roi: npt.NDArray[np.bool_]) -> None:
        """Set the region of interest (H, W): only the pixels where it is true count."""
        self.roi.copy_(torch.from_numpy(roi.astype(np.float32)))
        self.roi_pixels = int(roi.sum())

    def set_graph(self, graph: OnnxGraph) -> None:
        """Set the graph of the user's own backbone, which the model runs."""
        self.graph = graph

    @property
    def covers_whole_image(self) -> bool:
        """Whether the region of interest is the whole image."""
        return self.roi_pixels == self.roi.numel()

    def prepare(self, images: Tensor, seed: int) -> None:
        """Fit what the network needs before gradient training, from the training pixels (N, H, W, C)."""

    def fit_closed_form(self, images: Tensor, seed: int) -> None:
        """Fit what has a closed form, from the training pixels (N, H, W, C); the network is trained by then."""

    def n_closed_form_images(self, count: int) -> int:
        """Number of images that `fit_closed_form` passes through the trained network, for `count` training images."""
        return 0

    @classmethod
    def check_training(cls, family: str, changes: Mapping[str, object]) -> None:
        """Refuse training settings, by name and value, that the family cannot follow; the seed is always allowed.

        Raises:
            SettingsError: names them.
        """
        others = sorted(changes.keys() - {"seed"})
        if others:
            raise SettingsError(f"{', '.join(others)} cannot be set for the {family}, which is fitted in one step")

    @abstractmethod
    def forward(self, batch: Tensor) -> ModelOutput:
        """Score a batch (N, C, H, W)."""

    def scale(self, pixels: Tensor) -> Tensor:
        """Scale pixels (N, H, W, C) in 0..value_max to (N, C, H, W) floats in 0..1; 0 outside the region."""
        factor = 1.0 / self.spec.value_max
        return pixels.permute(0, 3, 1, 2).to(torch.float32) * (factor if self.covers_whole_image else self.roi * factor)

    def batches(self, images: Tensor, max_images: int = 64) -> Iterator[Tensor]:
        """Iterate over pixels (N, H, W, C) in scaled batches of `max_images` images, fewer if they are large."""
        size = max(1, min(max_images, 2**20 // (self.spec.height * self.spec.width)))
        for start in range(0, len(images), size):
            yield self.scale(images[start : start + size])

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """Load the tensors of a detector file; banks get the number of rows that the file has."""
        for name in self.banks.keys() & weights.keys():
            self.get_buffer(name).resize_(weights[name].shape)
        self.load_state_dict(weights)

    @property
    def uses_all_threads(self) -> bool:
        """Whether scoring on a CPU already divides each batch between all threads."""
        return False

    def pretext_accuracy(self, images: Tensor) -> tuple[float, float] | None:
        """Accuracy on normal pixels (N, H, W, C) of the task that the network was trained on, and that of chance.

        None where training has no such task.
        """
        return None

    def remark(self, images: Tensor) -> str | None:
        """Remark for the user on how well this model suits the data, judged on held-out normal pixels (N, H, W, C)."""
        return None

    def notices(self) -> tuple[Notice, ...]:
        """What the licences of the weights of others, which the model contains, require to be passed on."""
        return ()

    def mean_over_roi(self, values: Tensor) -> Tensor:
        """Mean (N,) of values (N, H, W) over the region of interest."""
        counted = values if self.covers_whole_image else values * self.roi
        return counted.sum(dim=(1, 2)) * (1.0 / self.roi_pixels)

    def top_mean_over_roi(self, values: Tensor, percent: float) -> Tensor:
        """Mean (N,) of the largest `percent` of non-negative values (N, H, W) in the region of interest."""
        count = max(1, math.ceil(self.roi_pixels * percent / 100))
        return (values * self.roi).flatten(1).topk(count, dim=1).values.mean(dim=1)


@contextlib.contextmanager
def leave_one_out(model: Model) -> Iterator[None]:
    """Context in which the score of a training image ignores the image itself in the banks."""
    parts = [part for part in model.modules() if hasattr(part, "excludes_self")]
    for part in parts:
        part.excludes_self = True  # type: ignore[assignment]  # torch types every attribute as a tensor or module
    try:
        yield
    finally:
        for part in parts:
            part.excludes_self = False  # type: ignore[assignment]


@contextlib.contextmanager
def leave_groups_out(model: Model, training_groups: Tensor, groups: Tensor) -> Iterator[None]:
    """Context in which the score of each image of one batch (N,) ignores all training images of its group.

    Only for a model that `supports_leave_one_out`. `training_groups` (M,) and `groups` (N,) number the groups.
    """
    parts = [part for part in model.modules() if hasattr(part, "left_out")]
    for part in parts:
        part.left_out = LeftOut(training_groups, groups)  # type: ignore[assignment]  # as above
    try:
        yield
    finally:
        for part in parts:
            part.left_out = None  # type: ignore[assignment]


class GradientModel(Model):
    """Base class of the families that train by gradients."""

    @classmethod
    def check_training(cls, family: str, changes: Mapping[str, object]) -> None:
        """Accept all training settings."""

    def loss(self, batch: Tensor) -> Tensor:
        """Mean training loss of a batch (N, C, H, W), a scalar."""
        return self.augmented_loss(self.augment(batch))

    def augment(self, batch: Tensor) -> tuple[Tensor, ...]:
        """What the loss is computed from: tensors (N, ...), drawn at random for a batch (N, C, H, W).

        Each process of a distributed training draws them for the whole batch, as one process would, and computes the
        loss of its share.
        """
        return (batch,)

    @abstractmethod
    def augmented_loss(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Mean training loss, a scalar, of what `augment` drew; nothing in it is random.

        It is a mean over images: where it divides by more than their number, it does so over `ranks`.
        """


class ScoringGraph(nn.Module):
    """The graph from pixels to score, map and reconstruction, for scoring and for export."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> ModelOutput:
        """Score pixels (N, H, W, C) of the integer type of the input spec."""
        scored: ModelOutput = self.model(self.model.scale(pixels))
        return scored
