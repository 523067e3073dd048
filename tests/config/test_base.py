"""Settings are frozen, strict and consistent in themselves."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from oddlens.config.base import DecisionSettings, InputSpec, RuntimeSettings, TrainingSettings
from oddlens.config.parse import parse
from oddlens.errors import SettingsError


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        TrainingSettings().epochs = 3  # type: ignore[misc]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(ValidationError):
        TrainingSettings(learning_rate=value)


def test_values_are_not_converted_from_another_type() -> None:
    with pytest.raises(ValidationError):
        TrainingSettings(epochs="3")  # type: ignore[arg-type]


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, 1.5])
def test_a_false_alarm_rate_lies_between_0_and_1(rate: float) -> None:
    with pytest.raises(ValidationError):
        DecisionSettings(false_alarm_rate=rate)


@pytest.mark.parametrize(("value_max", "dtype"), [(255, "uint8"), (4095, "uint16"), (65535, "uint16")])
def test_the_value_range_determines_the_type_of_the_pixels(value_max: int, dtype: str) -> None:
    assert InputSpec(height=8, width=8, channels=1, value_max=value_max).dtype == dtype  # type: ignore[arg-type]


@pytest.mark.parametrize("pace", [(0.5, 0.5), (0.7, 0.2, 1.0)])
def test_a_pace_must_rise(pace: tuple[float, ...]) -> None:
    with pytest.raises(SettingsError, match="rise"):
        parse(TrainingSettings, {"pace": pace}, "test")


def test_each_epoch_of_a_pace_has_a_share_or_none_has() -> None:
    assert TrainingSettings(pace=(0.5, 1.0), pace_shares=(1.0, 0.25)).pace_shares == (1.0, 0.25)
    with pytest.raises(SettingsError, match="one value for each epoch"):
        parse(TrainingSettings, {"pace": (0.5, 1.0), "pace_shares": (0.5,)}, "test")


def test_muon_takes_no_weight_decay() -> None:
    with pytest.raises(SettingsError, match="takes no weight_decay"):
        parse(TrainingSettings, {"optimizer": "muon", "weight_decay": 0.1}, "test")


def test_onnxruntime_has_no_bf16() -> None:
    with pytest.raises(SettingsError, match="onnxruntime computes in fp32 only"):
        parse(RuntimeSettings, {"engine": "onnxruntime", "precision": "bf16"}, "options")
