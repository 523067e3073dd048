"""Golden scores: a file that scores its built-in test images otherwise than when it was written is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from detector_files import negate_onnx_weight

from oddlens.artifact import onnx_file
from oddlens.config.base import InputSpec
from oddlens.detector.detector import Detector
from oddlens.errors import ArtifactError
from oddlens.inference.golden import check_golden, golden_pixels, golden_scores


@pytest.mark.parametrize("value_max", [255, 4095, 65535])
def test_golden_images_are_synthetic_and_fill_the_value_range(value_max: int) -> None:
    spec = InputSpec(height=16, width=12, channels=3, value_max=value_max)  # type: ignore[arg-type]
    pixels = golden_pixels(spec)
    assert pixels.shape == (4, 16, 12, 3)
    assert pixels.dtype == spec.dtype
    assert pixels.min() == 0
    assert pixels.max() == value_max
    assert len(np.unique(pixels[3])) > 250


def test_the_manifest_has_the_golden_scores_of_its_detector(digits_detector: Detector) -> None:
    scores = golden_scores(digits_detector.backend)
    assert digits_detector.manifest.golden == scores
    assert len(set(scores)) == 4


@pytest.mark.parametrize(("change", "accepted"), [(1.0005, True), (1.01, False)])
def test_golden_scores_may_differ_by_rounding_only(digits_detector: Detector, change: float, accepted: bool) -> None:
    golden = tuple(change * score for score in digits_detector.manifest.golden)
    manifest = digits_detector.manifest.model_copy(update={"golden": golden})
    if accepted:
        check_golden(Path("part"), digits_detector.backend, manifest)
        return
    with pytest.raises(ArtifactError, match=r"part: scores the built-in test images \[.*\], but gave"):
        check_golden(Path("part"), digits_detector.backend, manifest)


def test_another_number_of_golden_scores_is_refused(digits_detector: Detector) -> None:
    manifest = digits_detector.manifest.model_copy(update={"golden": digits_detector.manifest.golden[:3]})
    with pytest.raises(ArtifactError, match="built-in test images"):
        check_golden(Path("part"), digits_detector.backend, manifest)


def test_a_changed_graph_with_a_matching_digest_fails_its_golden_test(exported: Path, tmp_path: Path) -> None:
    graph, manifest, tensors = onnx_file.read_onnx(exported)
    onnx_file.save_onnx(tmp_path / "part.onnx", negate_onnx_weight(graph), manifest, tensors)
    with pytest.raises(ArtifactError, match="built-in test images"):
        Detector.load(tmp_path / "part.onnx")
