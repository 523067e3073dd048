"""The user's own backbone inside a model: scaled and projected features, whatever the layout of its outputs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from own_backbones import ConvNet, TokenNet, write_onnx
from torch import Tensor, nn

from oddlens.config.backbones import OnnxBackbone
from oddlens.errors import ArtifactError, SettingsError, StateError
from oddlens.models.backbones import onnx_backbone
from oddlens.models.backbones.onnx_backbone import N_REFERENCE_IMAGES, OnnxModule
from oddlens.models.backbones.onnx_graph import BackboneFile, read_backbone
from oddlens.models.backbones.onnx_outputs import describe_backbone
from oddlens.models.backbones.reference_images import reference_images


def own_module(path: Path, network: nn.Module, depths: tuple[int, ...], seed: int = 0) -> OnnxModule:
    """A loaded module for images of 32 x 48."""
    file = read_backbone(write_onnx(path / "own.onnx", network))
    module = OnnxModule(describe_backbone(file, 32, 48), depths)
    module.graph = file.graph
    module.load_pretrained(seed)
    return module


def normalized(images: Tensor) -> Tensor:
    mean, std = (torch.tensor(values)[:, None, None] for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return (images - mean) / std


@torch.no_grad()
def test_features_are_those_of_the_network_for_images_normalized_as_for_imagenet(tmp_path: Path) -> None:
    network, images = ConvNet(), torch.rand(3, 3, 32, 48)
    module = own_module(tmp_path, network, (0, 2))
    for depth, features in zip((0, 2), module(images), strict=True):
        scale = module.get_buffer(f"scale_{depth}")[:, None, None]
        torch.testing.assert_close(features, network(normalized(images))[depth] * scale, rtol=1e-4, atol=1e-5)
        assert tuple(features.shape[1:]) == module.shape(depth, 32, 48)


@torch.no_grad()
def test_tokens_of_patches_are_maps_without_the_tokens_before_them(tmp_path: Path) -> None:
    network, images = TokenNet(8, prefix=5), torch.rand(2, 3, 32, 48)
    module = own_module(tmp_path, network, (0,))
    tokens = network(normalized(images))[:, 5:] * module.get_buffer("scale_0")
    (features,) = module(images)
    assert features.shape == (2, 12, 4, 6)
    torch.testing.assert_close(features[:, :, 1, 2], tokens[:, 6 + 2], rtol=1e-4, atol=1e-5)


class ChannelsLast(nn.Module):
    """A network with one map, channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.network = ConvNet()

    def forward(self, images: Tensor) -> Tensor:
        values: Tensor = self.network(images)[1]
        return values.permute(0, 2, 3, 1)


@torch.no_grad()
def test_maps_with_channels_last_are_turned_around(tmp_path: Path) -> None:
    network, images = ChannelsLast(), torch.rand(2, 3, 32, 48)
    module = own_module(tmp_path, network, (0,))
    (features,) = module(images)
    expected = network(normalized(images)).permute(0, 3, 1, 2) * module.get_buffer("scale_0")[:, None, None]
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)


def test_grey_images_count_as_colourless_ones(tmp_path: Path) -> None:
    module, grey = own_module(tmp_path, ConvNet(), (1,)), torch.rand(2, 1, 32, 48)
    torch.testing.assert_close(module(grey)[0], module(grey.repeat(1, 3, 1, 1))[0])


def test_channels_have_a_deviation_of_1_on_the_reference_images(tmp_path: Path) -> None:
    module = own_module(tmp_path, ConvNet(), (2,))
    (features,) = module(torch.from_numpy(reference_images(N_REFERENCE_IMAGES, 32, 48)))
    deviation = features.transpose(0, 1).flatten(1).std(dim=1)
    assert float(deviation.median()) == pytest.approx(1, abs=0.05)
    assert float(deviation.max()) <= 1.05


class DeadNet(ConvNet):
    """A network most of whose channels are 0 or another constant for all images."""

    def __init__(self, n_alive: int) -> None:
        super().__init__()
        self.alive = (torch.arange(8) < n_alive).float()[:, None, None]

    def forward(self, images: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(images)[0] * self.alive + 0.3 * (torch.arange(8) == 7)[:, None, None]


def test_channels_that_do_not_vary_do_not_count_more_than_others(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = own_module(tmp_path, DeadNet(3), (0,))
    scale = module.get_buffer("scale_0")
    assert 0 < float(scale[3:].min()) == float(scale[3:].max()) < 101 * float(scale[:3].max())


def test_an_output_that_does_not_vary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"own\.onnx: its output 'features' is the same at all places"):
        own_module(tmp_path, DeadNet(0), (0,))


def test_deviations_are_those_of_all_reference_images_together(tmp_path: Path) -> None:
    module = own_module(tmp_path, ConvNet(), (0, 2))
    features = module.run_graph(torch.from_numpy(reference_images(N_REFERENCE_IMAGES, 32, 48)))
    for deviation, values in zip(module.reference_deviations(), features, strict=True):
        expected = values.double().transpose(0, 1).flatten(1).std(dim=1, correction=0)
        torch.testing.assert_close(deviation, expected, rtol=1e-9, atol=1e-12)


def test_the_reference_images_are_run_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, sizes, run = own_module(tmp_path, ConvNet(), (0,)), list[int](), OnnxModule.run_graph

    def count(self: OnnxModule, batch: Tensor) -> list[Tensor]:
        sizes.append(len(batch))
        return run(self, batch)

    monkeypatch.setattr(OnnxModule, "run_graph", count)
    module.load_pretrained()
    assert sizes == [1] * N_REFERENCE_IMAGES


def test_many_channels_are_projected_onto_fewer_with_distances_preserved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, images = ConvNet(40), torch.rand(8, 3, 32, 48)
    (before,) = own_module(tmp_path, network, (2,))(images)
    monkeypatch.setattr(onnx_backbone, "MAX_COVARIANCE_NUMBERS", 24 * 64**2)  # 24 places
    module, other = (own_module(tmp_path, network, (2,), seed) for seed in (0, 1))
    assert module.shape(2, 32, 48) == (64, 4, 6)
    assert module.deviations()[0].shape == (64,)
    (after,) = module(images)
    ratio = (after[1:] - after[:-1]).norm(dim=1) / (before[1:] - before[:-1]).norm(dim=1)
    assert float((ratio - 1).abs().mean()) < 0.2
    assert not torch.equal(after, other(images)[0])


def test_a_depth_that_is_no_output_is_refused(tmp_path: Path) -> None:
    settings = own_module(tmp_path, ConvNet(), (0,)).settings
    with pytest.raises(SettingsError, match=r"own\.onnx: has the depths 0 to 2, and depth 14 is set"):
        OnnxModule(settings, (2, 14))


def test_without_its_graph_nothing_is_computed(tmp_path: Path) -> None:
    settings: OnnxBackbone = own_module(tmp_path, ConvNet(), (0,)).settings
    with pytest.raises(StateError, match=r"the graph of own\.onnx is not set"):
        OnnxModule(settings, (0,))(torch.zeros(1, 3, 32, 48))


def test_the_notice_has_the_digest_and_says_that_the_licence_is_not_known(tmp_path: Path) -> None:
    module = own_module(tmp_path, ConvNet(), (0,))
    file: BackboneFile = read_backbone(tmp_path / "own.onnx")
    notice = module.notice()
    assert (notice.name, notice.sha256) == ("own.onnx", file.graph.sha256)
    assert notice.source == "the file own.onnx"
    assert notice.licence == "oddlens does not know the licence; check it before you share the file"
