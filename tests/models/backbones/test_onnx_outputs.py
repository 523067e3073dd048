"""What the outputs of a graph are, by their shapes, and at which size of images."""

from __future__ import annotations

from pathlib import Path

import pytest
from own_backbones import BATCH, ConvNet, TokenNet, write_onnx
from torch import Tensor, nn

from oddlens.config.backbones import BackboneOutput
from oddlens.errors import ArtifactError
from oddlens.models.backbones.onnx_graph import read_backbone
from oddlens.models.backbones.onnx_outputs import classify_output, describe_backbone, token_grid


@pytest.mark.parametrize(
    ("count", "size", "grid"),
    [
        (256, (224, 224), (16, 16)),  # no class token
        (257, (224, 224), (16, 16)),  # DINOv2
        (261, (224, 224), (16, 16)),  # DINOv2 with four registers
        (197, (224, 224), (14, 14)),  # ViT with patches of 16 pixels
        (198, (224, 224), (14, 14)),  # DeiT, distilled
        (50, (224, 224), (7, 7)),
        (1 + 37 * 37, (518, 518), (37, 37)),
        (1 + 16 * 32, (224, 448), (16, 32)),
        (300, (224, 224), None),
        (326, (256, 256), None),  # patches of 14 pixels leave pixels out
    ],
)
def test_tokens_lie_on_the_grid_of_patches(count: int, size: tuple[int, int], grid: tuple[int, int] | None) -> None:
    assert token_grid(count, *size) == grid


@pytest.mark.parametrize(
    ("shape", "layout", "channels", "places"),
    [
        ((64, 56, 56), "channels_first", 64, (56, 56)),
        ((56, 56, 64), "channels_last", 64, (56, 56)),  # Swin
        ((7, 7, 7), "channels_first", 7, (7, 7)),
        ((512, 1, 1), "channels_first", 512, (1, 1)),
        ((512,), "pooled", 512, (1, 1)),
        ((257, 384), "tokens", 384, (16, 16)),
        ((300, 384), None, 0, (0, 0)),
        ((8, 5, 40), None, 0, (0, 0)),
        ((2, 8, 5, 40), None, 0, (0, 0)),
        ((), None, 0, (0, 0)),
        ((0,), None, 0, (0, 0)),
        ((20_000,), None, 0, (0, 0)),
        ((8, 0, 0), None, 0, (0, 0)),
    ],
)
def test_an_output_is_known_by_its_shape(
    shape: tuple[int, ...], layout: str | None, channels: int, places: tuple[int, int]
) -> None:
    output = classify_output("y", shape, 224, 224)
    if layout is None:
        assert output is None
        return
    assert output is not None
    assert (output.layout, output.channels, (output.rows, output.columns)) == (layout, channels, places)
    assert output.shape == shape


class Reversed(nn.Module):
    """A network whose outputs go from the deepest to the shallowest."""

    def __init__(self) -> None:
        super().__init__()
        self.network = ConvNet(pooled=True)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(reversed(self.network(images)))


def test_maps_go_from_fine_to_coarse_and_pooled_outputs_are_left_out_beside_them(tmp_path: Path) -> None:
    backbone = describe_backbone(read_backbone(write_onnx(tmp_path / "own.onnx", Reversed())), 40, 48)
    assert (backbone.height, backbone.width) == (40, 48)
    assert [(output.channels, output.rows, output.columns) for output in backbone.outputs] == [
        (8, 20, 24),
        (16, 10, 12),
        (24, 5, 6),
    ]


def test_sides_are_rounded_up_to_whole_patches(tmp_path: Path) -> None:
    network = TokenNet(14, prefix=5)
    backbone = describe_backbone(read_backbone(write_onnx(tmp_path / "own.onnx", network, (2, 3, 56, 28))), 100, 50)
    assert (backbone.height, backbone.width) == (112, 56)
    assert backbone.outputs == (
        BackboneOutput(name="features", layout="tokens", channels=12, rows=8, columns=4, prefix=5),
    )


def test_a_size_that_the_graph_prescribes_is_used(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "own.onnx", ConvNet(), (2, 3, 24, 16), BATCH)
    backbone = describe_backbone(read_backbone(path), 200, 100)
    assert (backbone.height, backbone.width) == (24, 16)


class Mixed(nn.Module):
    """A network that gives maps, and what is no features of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.network = ConvNet()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        first, *_, last = self.network(images)
        pooled = last.mean(dim=(2, 3), keepdim=True)
        return first, first.sum(), first.argmax(dim=1), last.flatten(0, 1), pooled


def test_outputs_that_are_of_no_use_are_left_out(tmp_path: Path) -> None:
    """A number, integers, and rows that are no images; pooled maps of one place count as pooled."""
    file = read_backbone(write_onnx(tmp_path / "own.onnx", Mixed()))
    backbone = describe_backbone(file, 32, 32)
    assert [output.name for output in backbone.outputs] == ["map0"]
    assert file.graph.outputs == ["map0", "map1", "map3", "map4"]
    assert file.graph.other_outputs == ["map2"]


class Nothing(nn.Module):
    """A network without features."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=1).repeat(1, 4, 1)[:, :100, :7]


def test_a_graph_without_features_is_refused_with_its_outputs(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "own.onnx", Nothing())
    with pytest.raises(ArtifactError, match=r"has no features of images .* 'features' \(1, 100, 7\)"):
        describe_backbone(read_backbone(path), 32, 32)
