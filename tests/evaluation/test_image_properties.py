"""What sets an image apart, in words."""

from __future__ import annotations

import numpy as np
import pytest
from wave_images import wave_images

from oddlens.data.image_header import ImageInfo
from oddlens.evaluation.image_properties import Properties, image_properties


def properties_of(pixels: np.ndarray, widths: list[int] | None = None) -> Properties:
    widths = widths or [24] * len(pixels)
    return Properties(image_properties(pixels, [ImageInfo(24, width, 1, 8) for width in widths], 255))


@pytest.mark.parametrize(
    ("change", "remark"),
    [
        (lambda image: image // 3, "darker"),
        (lambda image: image // 3 + 170, "brighter"),
        (lambda image: np.full_like(image, image.mean()), "less contrast"),
        (lambda image: image * np.array([1, 0.5, 0.5]), "more colour"),
    ],
)
def test_the_property_that_differs_is_named(change: object, remark: str) -> None:
    pixels = wave_images(30, 120, 0).repeat(3, axis=3)
    pixels[7] = change(pixels[7])  # type: ignore[operator]
    properties = properties_of(pixels)
    assert remark in properties.remarks(7)
    assert properties.remarks(3) == []


def test_a_blurred_image_is_named() -> None:
    pixels = np.random.default_rng(0).integers(60, 200, (20, 24, 24, 1), dtype=np.uint8)
    pixels[3] = pixels[3, ::6, ::6].repeat(6, axis=0).repeat(6, axis=1)
    assert properties_of(pixels).remarks(3) == ["blurred"]


def test_another_shape_is_named() -> None:
    properties = properties_of(wave_images(10, 120, 0), [24] * 9 + [60])
    assert properties.remarks(9) == ["wider"]
    assert properties.remarks(0) == []


def test_equal_images_have_no_remarks() -> None:
    properties = properties_of(np.zeros((4, 24, 24, 1), dtype=np.uint8))
    assert [properties.remarks(i) for i in range(4)] == [[]] * 4
