"""Settings are frozen, strict and consistent in themselves."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from oddlens.config.base import DecisionSettings, InputSpec, RuntimeSettings, Tiling, TrainingSettings, tile_starts
from oddlens.config.parse import parse
from oddlens.errors import SettingsError


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        TrainingSettings().epochs = 3  # type: ignore[misc]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(SettingsError, match="finite number"):
        TrainingSettings(learning_rate=value)


def test_values_are_not_converted_from_another_type() -> None:
    with pytest.raises(SettingsError, match="valid integer"):
        TrainingSettings(epochs="3")  # type: ignore[arg-type]


def test_a_constructor_names_every_wrong_setting_and_the_nearest_name() -> None:
    with pytest.raises(SettingsError) as caught:
        TrainingSettings(epochs=0, lerning_rate=0.1)  # type: ignore[call-arg]
    assert str(caught.value) == (
        "TrainingSettings: 'epochs': input should be greater than or equal to 1, got '0'; "
        "'lerning_rate' is not a setting (did you mean 'learning_rate'?)"
    )


def test_settings_that_exclude_each_other_are_refused_in_the_words_of_the_check() -> None:
    with pytest.raises(SettingsError, match=r"^RuntimeSettings: onnxruntime computes in fp32 only: use openvino for"):
        RuntimeSettings(engine="onnxruntime", precision="bf16")


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, 1.5])
def test_a_false_alarm_rate_lies_between_0_and_1(rate: float) -> None:
    with pytest.raises(SettingsError, match="than"):
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


@given(st.integers(4, 5000), st.integers(4, 5000), st.integers(0, 5000))
def test_tiles_cover_an_image_evenly_and_end_with_it(side: int, tile: int, overlap: int) -> None:
    side = max(side, tile)
    starts = tile_starts(side, tile, overlap)
    assert (starts[0], starts[-1] + tile) == (0, side)
    steps = {after - before for before, after in pairwise(starts)}
    assert max(steps, default=0) <= tile - min(overlap, tile // 2)
    assert max(steps, default=0) - min(steps, default=0) <= 1
    assert min(steps, default=1) >= 1


def test_there_are_no_more_tiles_than_the_overlap_needs() -> None:
    assert tile_starts(2048, 256, 64) == [i * 1792 // 10 for i in range(11)]
    assert tile_starts(256, 256, 64) == [0]
    assert tile_starts(257, 256, 0) == [0, 1]
    assert tile_starts(512, 256, 0) == [0, 256]


def test_tiles_fit_into_the_images_and_are_not_too_many() -> None:
    spec = InputSpec(height=32, width=2048, channels=1)
    tiling = Tiling(height=32, width=256, overlap=64)
    tiling.check(spec)
    assert (tiling.count(spec), tiling.tops(spec), len(tiling.lefts(spec))) == (11, [0], 11)
    assert tiling.describe(spec) == "11 of 256 x 32 that overlap by 64 pixels or more"
    with pytest.raises(ValueError, match="tiles of 256 x 64 do not fit into images of 2048 x 32"):
        Tiling(height=64, width=256, overlap=64).check(spec)
    with pytest.raises(ValueError, match="1,022,121 tiles an image are more than the limit"):
        Tiling(height=4, width=4, overlap=2).check(InputSpec(height=2024, width=2024, channels=1))
