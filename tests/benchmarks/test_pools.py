"""Tests of the pools of scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pools
import pytest

from oddlens.config.base import InputSpec
from oddlens.data.image_set import ImageSet

SPEC = InputSpec(height=8, width=8, channels=1, value_max=255)


@pytest.mark.parametrize("kind", pools.CHANGES)
def test_a_stronger_change_alters_images_more(kind: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 1), dtype=np.uint8)
    changes = [
        float(np.abs(pools.altered(kind, pixels, strength, SPEC, 0).astype(int) - pixels).mean())
        for strength in (0.0, 0.2, 0.8)
    ]
    assert changes[0] == 0
    assert changes[0] < changes[1] < changes[2]
    assert pools.altered(kind, pixels, 1.0, SPEC, 0).dtype == np.uint8


def test_images_of_one_part_share_a_group() -> None:
    images = ImageSet.from_array(np.zeros((3, 8, 8, 1), dtype=np.uint8))
    assert pools.groups_of(images, None).tolist() == [0, 1, 2]
    parts = dict(zip((Path(name).name for name in images.names), ("b", "a", "b"), strict=True))
    assert pools.groups_of(images, parts).tolist() == [1, 0, 1]


def test_a_pool_is_computed_once_and_read_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def compute(*arguments: object) -> pools.Pool:
        calls.append(arguments)
        scores = np.arange(3.0)
        return pools.Pool(scores, scores + 1, np.arange(3), np.array([True, False, True]), scores + 2, {"blur": scores})

    monkeypatch.setattr(pools, "compute_pool", compute)
    for _ in range(2):
        pool = pools.load_pool(tmp_path, None, "digits", "0", "auto", 0, "30s")
    assert len(calls) == 1
    assert pool.anomalous.tolist() == [2.0, 3.0, 4.0]
    assert pool.tested.tolist() == [True, False, True]
    assert pool.changed["blur"].tolist() == [0.0, 1.0, 2.0]
