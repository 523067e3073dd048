"""What the families that compare a backbone's features have in common: features of places, light, regions."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from oddlens.config.backbones import OnnxBackbone
from oddlens.config.base import InputSpec
from oddlens.config.detectors import PretrainedSettings
from oddlens.config.manifest import Notice
from oddlens.errors import SettingsError
from oddlens.models.backbones.base import Backbone
from oddlens.models.backbones.efficientnet_lite import EFFICIENTNET_LITE0, LAST_DEPTH, EfficientNetLite0
from oddlens.models.backbones.onnx_backbone import OnnxModule
from oddlens.models.backbones.onnx_graph import OnnxGraph
from oddlens.models.base import Model

MAX_GAUSSIAN_NUMBERS = 2**24  # of covariances at one depth; features of grids that need more are averaged
MAX_FEATURE_BYTES = 2**31  # of the training features at all depths
MAX_IMAGES = 20_000  # training images whose features are compared
MAX_ALIKE = 2  # rows and columns of a grid whose places have the same features, averaged over their neighbours
MAX_BATCH = 8  # images whose features are computed at a time
MAX_SHIFT_SHARE = 1 / 64  # of the shorter side, by which copies are shifted, at most
MAX_LIGHT_CHANGE = 0.15  # by which copies of the training images are darker and brighter, at most, where light varies


class PretrainedModel(Model):
    """Base class of the families that compare the features of a frozen backbone at each place of an image.

    Where light varies, families subtract the mean features of an image, and the training images are joined by copies
    that are darker and brighter. These copies may be shifted, too.

    Args:
        settings: backbone and light.
        depths: the blocks of the backbone whose features are compared.
        scored: those of them by which images are scored, at the places of their finest grid.
        spec: the form of the pixels.
        side: longer side in pixels to which smaller images are enlarged for the backbone.
    """

    fits_together = True

    places: Tensor  # (rows, columns) 1 where a scored place has pixels of the region of interest

    def __init__(
        self,
        settings: PretrainedSettings,
        depths: Sequence[int],
        scored: Collection[int],
        spec: InputSpec,
        side: int,
    ) -> None:
        super().__init__(spec)
        self.light_varies = settings.light_varies
        self.learns_mirrored = False  # mirrored copies of the training images, too
        self.max_shift = 0  # pixels of the input by which copies are shifted, each way
        self.backbone = build_backbone(settings, depths)
        self.size = self.backbone.size or enlarged_size(spec, side)
        shapes = [self.backbone.shape(depth, *self.size) for depth in depths]
        self.strides = [grid_stride(*shape) for shape in shapes]
        self.shapes = [  # channels, rows and columns of the features of each depth
            (channels, -(-rows // stride), -(-columns // stride))
            for (channels, rows, columns), stride in zip(shapes, self.strides, strict=True)
        ]
        self.grid = max(shape[1:] for shape, depth in zip(self.shapes, depths, strict=True) if depth in scored)
        self.register_buffer("places", torch.ones(self.grid), persistent=False)
        self.n_places = self.grid[0] * self.grid[1]

    def set_roi(self, roi: npt.NDArray[np.bool_]) -> None:
        """Set the region of interest (H, W): only the pixels where it is true count."""
        super().set_roi(roi)
        self.places.copy_(F.adaptive_max_pool2d(self.roi[None, None], self.grid)[0, 0])
        self.n_places = int(self.places.sum())

    def set_graph(self, graph: OnnxGraph) -> None:
        """Set the graph of the user's own backbone."""
        super().set_graph(graph)
        if isinstance(self.backbone, OnnxModule):
            self.backbone.graph = graph

    def notices(self) -> tuple[Notice, ...]:
        """That of the backbone."""
        return (self.backbone.notice(),)

    def describe(self, batch: Tensor) -> list[Tensor]:
        """Features (N, D, rows, columns) of each depth of a batch (N, C, H, W), averaged over their neighbourhood."""
        features = self.backbone(self.enlarge(batch))
        return [smooth(values, stride) for values, stride in zip(features, self.strides, strict=True)]

    def enlarge(self, batch: Tensor) -> Tensor:
        """A batch (N, C, H, W) in the size that the backbone gets."""
        if self.size == tuple(batch.shape[2:]):
            return batch
        return F.interpolate(batch, size=self.size, mode="bilinear", align_corners=False)

    def describe_training(
        self, images: Tensor, seed: int, max_images: int = MAX_IMAGES
    ) -> tuple[Tensor, list[list[Tensor]]]:
        """Which of the training pixels (N, H, W, C) fit into memory, (n,), and `describe` of batches of this
        process's share of them.

        The batches of all images come first, then those of each copy: darker, brighter, shifted and mirrored ones.
        """
        image_bytes = 4 * len(self.copies) * sum(channels * rows * columns for channels, rows, columns in self.shapes)
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
        n_images = max(2, min(max_images, MAX_FEATURE_BYTES // image_bytes))
        index = order[:n_images].sort().values.to(images.device)
        self.fitting_remark = (
            f"{n_images:,} of {len(images):,} training images, drawn at random, are learned: more need too much memory"
            if n_images < len(images)
            else None
        )
        share, generator = self.ranks.share(len(index)), torch.Generator().manual_seed(seed)
        changes = MAX_LIGHT_CHANGE * torch.rand(len(index), generator=generator)
        max_shift = min(self.max_shift, int(min(images.shape[1:3]) * MAX_SHIFT_SHARE))
        sample, features = images[index[share]], []
        for number, (sign, is_mirrored) in enumerate(self.copies):
            gains = (1 + sign * changes[share]).to(images.device)[:, None, None, None]
            shifts = torch.randint(-max_shift, max_shift + 1, (len(index), 2), generator=generator)[share]
            start = 0
            for batch in self.batches(sample, MAX_BATCH):
                part = slice(start, start + len(batch))
                copy = (batch.flip(3) if is_mirrored else batch) * gains[part]
                if number and max_shift:
                    copy = shift_images(copy, shifts[part], max_shift)
                features.append(self.describe(copy.clamp(max=1.0)))
                start += len(batch)
        return index, features

    def gather_images(self, values: Tensor, count: int) -> Tensor:
        """Values of all `count` images in all copies, (copies * count, ...), from those of each process's images."""
        by_copy = values.reshape(len(self.copies), -1, *values.shape[1:])
        return self.ranks.gather(by_copy.transpose(0, 1), count).transpose(0, 1).flatten(0, 1)

    def gather_batches(self, batches: list[list[Tensor]], count: int) -> list[list[Tensor]]:
        """The features of all `count` images in batches, from those of each process's images."""
        if self.ranks.size == 1:
            return batches
        every = [self.ranks.gather(torch.cat(values), count) for values in zip(*batches, strict=True)]
        return [list(parts) for parts in zip(*(torch.split(values, MAX_BATCH) for values in every), strict=True)]

    @property
    def copies(self) -> list[tuple[int, bool]]:
        """The forms in which each training image is learned: as it is, darker or brighter (0, -1, 1), and mirrored.

        All but the first are shifted, if images are.
        """
        signs = (0, -1, 1) if self.light_varies else (0, 0) if self.max_shift else (0,)
        return [(sign, is_mirrored) for is_mirrored in (False, True)[: 1 + self.learns_mirrored] for sign in signs]

    def n_closed_form_images(self, count: int) -> int:
        """Number of images whose features are computed, each in all its copies."""
        return count * len(self.copies)

    def top_mean(self, values: Tensor, percent: float) -> Tensor:
        """Mean (N,) of the largest `percent` of a map (N, rows, columns) of the places that count."""
        count = max(1, round(self.n_places * percent / 100))
        return (values * self.places).flatten(1).topk(count, dim=1).values.mean(dim=1)

    def full_map(self, values: Tensor) -> Tensor:
        """A map (N, rows, columns) of places as one of pixels (N, H, W), 0 outside the region of interest."""
        return resize_maps(values, (self.spec.height, self.spec.width)) * self.roi


def build_backbone(settings: PretrainedSettings, depths: Sequence[int]) -> Backbone:
    """The backbone of a family, without its weights.

    Raises:
        SettingsError: the settings name a file, which fitting has not read yet, or a depth that does not exist.
    """
    if isinstance(settings.backbone, OnnxBackbone):
        return OnnxModule(settings.backbone, depths)
    if settings.backbone != EFFICIENTNET_LITE0.name:
        raise SettingsError(f"the backbone {settings.backbone} must be read before a model is built; use Detector.fit")
    if max(depths) > LAST_DEPTH:
        raise SettingsError(f"{settings.backbone}: has the depths 0 to {LAST_DEPTH}; choose among them")
    return EfficientNetLite0(depths, classifies=settings.compares_classes)


def shift_images(images: Tensor, shifts: Tensor, max_shift: int) -> Tensor:
    """Images (N, C, H, W), each shifted by its number of rows and columns (N, 2) of -max_shift..max_shift pixels.

    Pixels at the edge are repeated.
    """
    height, width = images.shape[2:]
    padded = F.pad(images, (max_shift,) * 4, mode="replicate")
    starts = (max_shift - shifts).tolist()
    return torch.stack([padded[i, :, y : y + height, x : x + width] for i, (y, x) in enumerate(starts)])


def smooth(features: Tensor, stride: int) -> Tensor:
    """Features (N, D, rows, columns) averaged over 3 x 3 places, and then over parts of `stride` x `stride`."""
    averaged = F.avg_pool2d(features, 3, 1, 1, count_include_pad=False)
    return F.avg_pool2d(averaged, stride, ceil_mode=True) if stride > 1 else averaged


def mean_features(features: Tensor) -> Tensor:
    """Mean (N, D, 1, 1) of the features (N, D, rows, columns) of each image, which light changes most."""
    return features.mean(dim=(2, 3), keepdim=True)


def without_light(features: Tensor, share: float = 1.0) -> Tensor:
    """Features (N, D, rows, columns) less a share of their mean in the image.

    On grids of up to 2 x 2 places, the averages over 3 x 3 places are all the same, and nothing would be left.
    """
    if share == 0 or max(features.shape[2:]) <= MAX_ALIKE:
        return features
    return features - (mean_features(features) if share == 1 else share * mean_features(features))


def enlarged_size(spec: InputSpec, side: int) -> tuple[int, int]:
    """Height and width in the aspect ratio of `spec`, with the longer side `side`, or its own if that is longer."""
    factor = max(1.0, side / max(spec.height, spec.width))
    return round(spec.height * factor), round(spec.width * factor)


def grid_stride(channels: int, rows: int, columns: int) -> int:
    """Places of a grid that are averaged each way, so that all covariances have at most `MAX_GAUSSIAN_NUMBERS`."""
    stride = 1
    while -(-rows // stride) * -(-columns // stride) * channels**2 > MAX_GAUSSIAN_NUMBERS:
        stride += 1
    return stride


def resize_maps(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize maps (N, h, w) bilinearly to (N, *size)."""
    return F.interpolate(maps[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
