"""Features of images by the frozen backbone, as arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from oddlens.data.image_io import Pixels
from oddlens.inference.torch_threads import fork_safe
from oddlens.models.backbones.efficientnet_lite import EfficientNetLite0

STRIDE = 32  # pixels from one place to the next


class FrozenFeatures:
    """The backbone's features at the places of a grid, one for each 32 x 32 pixels.

    Args:
        depths: blocks of the backbone.
        pooled: one place, the mean over the image, instead of the grid.

    Raises:
        MissingExtraError, ArtifactError: the weights are not installed, or are not the expected ones.
    """

    def __init__(self, depths: Sequence[int], *, pooled: bool) -> None:
        self.backbone = EfficientNetLite0(depths)
        self.backbone.load_pretrained()
        self.pooled = pooled

    def __call__(self, pixels: Pixels, value_max: int, size: tuple[int, int]) -> list[npt.NDArray[np.float16]]:
        """Features (N, rows, columns, D) at each depth of pixels (N, H, W, C), which are resized to `size` before."""
        grid = (1, 1) if self.pooled else (-(-size[0] // STRIDE), -(-size[1] // STRIDE))
        with torch.inference_mode(), fork_safe():
            batch = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float() / value_max
            batch = batch.clamp(max=1)
            if tuple(batch.shape[2:]) != size:
                batch = F.interpolate(batch, size=size, mode="bilinear", align_corners=False)
            maps = zip(self.backbone(batch), self.backbone.deviations(), strict=True)
            features = [F.adaptive_avg_pool2d(values / scale[:, None, None], grid) for values, scale in maps]
            return [values.permute(0, 2, 3, 1).half().numpy() for values in features]
