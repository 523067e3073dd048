"""Tests of the comparison of trained and exported detectors."""

from __future__ import annotations

import numpy as np
import parity
import pytest

from oddlens.config.base import TrainingSettings
from oddlens.config.detectors import FAMILIES, AutoencoderSettings
from oddlens.data.open import open_dataset
from oddlens.detector.detector import Detector


def test_exported_scores_differ_by_rounding_only() -> None:
    data = open_dataset("digits")
    settings = AutoencoderSettings(architecture="pooling", widths=(4,))
    detector = Detector(settings, training=TrainingSettings(epochs=1), device="cpu")
    detector.fit(data.train.subset(np.arange(200)))
    differences = parity.differences(detector, data.test.subset(np.arange(50)).load(detector.spec))
    assert differences["onnxruntime"] == pytest.approx(0, abs=1e-4)


def test_every_family_that_can_be_exported_is_compared() -> None:
    compared = {name if isinstance(model, str) else model.family for name, model in parity.FAMILIES.items()}
    assert compared >= set(FAMILIES) - {"transforms", "ensemble"}
