"""Small images inside an HTML file."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from oddlens.reporting import heatmaps
from oddlens.reporting.embedded_images import fit_within, heatmap_url, image_url, outline_url


def decode(url: str) -> Image.Image:
    kind, content = url.removeprefix("data:image/").split(";base64,")
    image = Image.open(io.BytesIO(base64.b64decode(content, validate=True)))
    assert image.format == kind.upper()
    return image


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("dtype", "value_max"), [(np.uint8, 255), (np.uint16, 4095), (np.uint16, 65535)])
def test_small_images_are_exact_and_deep_ones_are_scaled(
    channels: int, dtype: type[np.generic], value_max: int, rng: np.random.Generator
) -> None:
    pixels = rng.integers(0, value_max + 1, (8, 6, channels)).astype(dtype)
    image = np.asarray(decode(image_url(pixels, value_max, 100))).reshape(8, 6, channels)
    np.testing.assert_array_equal(image, np.round(pixels.astype(np.float32) * (255 / value_max)))


def test_large_images_are_photographs_that_are_shrunk_and_keep_their_shape(rng: np.random.Generator) -> None:
    pixels = np.full((300, 600, 3), 120, dtype=np.uint8)
    image = decode(image_url(pixels, 255, 200))
    assert (image.format, image.size) == ("JPEG", (200, 100))
    assert np.abs(np.asarray(image).astype(int) - 120).max() <= 2


def test_a_line_stays_a_line() -> None:
    assert fit_within((1, 5000, 3), 200) == (1, 200)


def test_a_heatmap_is_transparent_where_nothing_is_unusual_and_red_and_outlined_where_it_is() -> None:
    anomaly_map = np.zeros((32, 32), dtype=np.float32)
    anomaly_map[8:24, 8:24] = 5
    layer = np.asarray(decode(heatmap_url(anomaly_map, 1.0, 64)).convert("RGBA"))
    assert layer.shape == (128, 128, 4), "small maps are enlarged, so that their outline is smooth"
    assert (layer[:20, :, 3] == 0).all()
    np.testing.assert_array_equal(layer[64, 64], [220, 20, 30, round(255 * heatmaps.MAX_OPACITY)])
    opaque = layer[layer[..., 3] == 255][:, :3]
    assert {tuple(color) for color in opaque.tolist()} == {(0, 0, 0), (255, 255, 255)}


def test_the_layer_over_an_image_looks_like_the_heatmap_in_png_files(rng: np.random.Generator) -> None:
    image = rng.integers(0, 256, (128, 128, 1)).astype(np.uint8)
    anomaly_map = np.linspace(0, 2.5, 128, dtype=np.float32)[None].repeat(128, 0)
    layer = heatmaps.layer_palette()[heatmaps.layer(anomaly_map, 1.0, 128, 128)].astype(np.float64)
    opacity = layer[..., 3:] / 255
    laid_over = image * (1 - opacity) + layer[..., :3] * opacity
    assert np.abs(laid_over - heatmaps.overlay(image, anomaly_map, 1.0, 255)).max() <= 12, "of 29 levels"


def test_a_mask_is_an_outline_of_two_lines() -> None:
    mask = np.zeros((200, 100), dtype=bool)
    mask[50:100, 20:60] = True
    layer = np.asarray(decode(outline_url(mask, 200)).convert("RGBA"))
    assert layer.shape == (200, 100, 4)
    assert layer[75, 40, 3] == 0
    np.testing.assert_array_equal(layer[75, 20], [0, 255, 255, 255])
    np.testing.assert_array_equal(layer[75, 19], [0, 0, 0, 255])
