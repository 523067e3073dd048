"""Comparison of detectors with baselines on one data set, with failures and suspected leaks."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.text import Text

from oddlens.config.detectors import FAMILIES
from oddlens.data.image_io import Pixels
from oddlens.data.image_set import DataSet, ImageSet
from oddlens.errors import CalibrationError, DataError, MissingExtraError, OddlensError, SettingsError, TrainingError
from oddlens.evaluation.compare import (
    check_detector_name,
    comparable_detectors,
    compare,
    installed_detectors,
    row_or_error,
    without_repetitions,
)
from oddlens.reporting.leaderboard import draw_leaderboard, leaderboard_table
from oddlens.training.history import TrainingStep

BASELINES = ("thumbnails-8", "thumbnails-32", "thumbnails-8-normalised", "thumbnails-32-normalised")


def stripes(count: int, seed: int) -> Pixels:
    """Stripes of random pitch and phase, with noise: (N, 16, 16, 1)."""
    rng = np.random.default_rng(seed)
    pitch, phase = rng.uniform(0.3, 1.2, (count, 1, 1)), rng.uniform(0, 6, (count, 1, 1))
    waves = 110 + 60 * np.sin(np.arange(16)[None, None] * pitch + phase) + rng.normal(0, 10, (count, 16, 16))
    pixels: Pixels = waves.clip(0, 255).astype(np.uint8)[..., None]
    return pixels


def spotted(count: int, seed: int) -> tuple[Pixels, list[np.ndarray]]:
    """Stripes with a bright square, and their masks."""
    pixels, mask = stripes(count, seed), np.zeros((16, 16), dtype=bool)
    mask[5:9, 6:10] = True
    pixels[:, mask] = 250
    return pixels, [mask] * count


@pytest.fixture(scope="module")
def data() -> DataSet:
    anomalous, masks = spotted(20, 2)
    good = [None] * 30
    test = ImageSet.from_array(
        np.concatenate([stripes(30, 1), anomalous]),
        kind=["good"] * 30 + ["spot"] * 20,
        label=[0] * 30 + [1] * 20,
        masks=[*good, *masks],
    )
    return DataSet("stripes", ImageSet.from_array(stripes(140, 0)), test, "good")


def test_rows_of_detectors_and_baselines_are_sorted_by_auroc(data: DataSet) -> None:
    lines: list[str] = []
    result = compare(data, ["autoencoder", "autoencoder"], seed=3, log=lines.append)
    rows = result["leaderboard"]
    assert {row["detector"]: row["baseline"] for row in rows} == {"autoencoder": False} | dict.fromkeys(BASELINES, True)
    areas = [row["image_auroc"] for row in rows]
    assert areas == sorted(areas, reverse=True)
    for row in rows:
        low, high = row["image_auroc_ci"]
        assert low <= row["image_auroc"] <= high
        assert (row["n_normal"], row["n_anomalous"], row["error"]) == (30, 20, None)
        assert row["n_training"] + row["n_calibration"] == 140
        assert 0 <= row["false_alarm_rate_measured"] <= 1
        assert row["seconds"]["fit"] > 0
        assert row["score_ms"] > 0
        assert row["model_bytes"] > 0
    (autoencoder_row,) = (row for row in rows if not row["baseline"])
    assert autoencoder_row["pixel_auroc"] > 0.8
    assert len(lines) == 5
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    repeated = compare(data, ["autoencoder"], seed=3)["leaderboard"]
    assert [row["image_auroc"] for row in repeated] == areas


def test_a_detector_that_fails_is_the_last_row_with_its_error(data: DataSet) -> None:
    def stop(step: TrainingStep) -> None:  # called by gradient training, which the dictionary has none of
        raise TrainingError(f"{step.family}: stopped by its user")

    result = compare(data, ["autoencoder", "dictionary"], progress=stop)
    *successful, last = result["leaderboard"]
    assert last["detector"] == "autoencoder"
    assert last["error"] == "autoencoder: stopped by its user"
    assert {row["detector"] for row in successful} == {"dictionary", *BASELINES}
    table = leaderboard_table(result)
    assert table.rows[-1][:3] == ("autoencoder", "failed", None)
    assert {len(row) for row in table.rows} == {len(table.columns)}
    figure = draw_leaderboard(result)
    texts = [text.get_text() for text in figure.findobj(Text)]
    assert any(text.startswith("failed: auto") for text in texts)
    assert {row["detector"] for row in successful} <= set(texts)  # no name is shortened
    for row in successful:
        low, high = row["image_auroc_ci"]
        assert f"{row['image_auroc']:.3f} ({low:.3f}–{high:.3f})" in texts


def test_unexpected_errors_are_reported_with_their_type() -> None:
    def broken() -> dict[str, object]:
        raise ZeroDivisionError("division\nby zero")

    def refused() -> dict[str, object]:
        raise CalibrationError("too few images")

    def bare() -> dict[str, object]:
        raise MissingExtraError("fitting a detector", "train")

    assert row_or_error(broken) == {"error": "ZeroDivisionError: division"}
    assert row_or_error(refused) == {"error": "too few images"}
    with pytest.raises(MissingExtraError):
        row_or_error(bare)


def test_a_comparison_in_which_every_detector_fails_is_an_error(data: DataSet) -> None:
    lines: list[str] = []
    with pytest.raises(OddlensError, match=r"stripes: nothing was compared.* the first: the budget of -1 s leaves no"):
        compare(data, ["autoencoder", "dictionary"], budget=-1.0, log=lines.append)
    assert [line.startswith(f"{name}: caught ") for line, name in zip(lines, BASELINES, strict=False)] == [True] * 4
    assert [line.split(": failed: ")[0] for line in lines[4:]] == ["autoencoder", "dictionary"]


def test_training_images_that_are_copies_of_one_image_are_an_error(data: DataSet) -> None:
    same = DataSet("copies", ImageSet.from_array(np.repeat(stripes(1, 0), 50, axis=0)), data.test, "good")
    with pytest.raises(OddlensError, match=r"copies: nothing was compared.* near-duplicates"):
        compare(same, ["autoencoder"])


@pytest.mark.parametrize(("name", "hint"), [("autoencodr", "choose from auto, padim"), ("ensemble", "a plan")])
def test_an_unknown_detector_is_rejected_before_any_is_fitted(name: str, hint: str, data: DataSet) -> None:
    lines: list[str] = []
    with pytest.raises(SettingsError, match=hint):
        compare(data, ["autoencoder", name], log=lines.append)
    assert lines == []


def test_every_family_without_a_plan_or_folds_can_be_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(comparable_detectors()) == {"auto", *FAMILIES} - {"ensemble", "crossfit"}
    monkeypatch.setattr("oddlens.models.backbones.efficientnet_lite.is_installed", lambda: True)
    for name in comparable_detectors():
        check_detector_name(name)


def test_by_default_all_are_compared_under_one_name_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oddlens.models.backbones.efficientnet_lite.is_installed", lambda: True)
    pretrained, others = ["padim", "patchcore", "features"], ["autoencoder", "dictionary", "rotation", "defects"]
    assert installed_detectors() == (["auto", *pretrained, *others], [])
    monkeypatch.setattr("oddlens.models.backbones.efficientnet_lite.is_installed", lambda: False)
    names, (line,) = installed_detectors()
    assert names == ["auto", *others]
    assert "they need the extra 'pretrained'" in line
    assert line.endswith(": padim, patchcore, features")


def test_what_is_left_out_by_default_is_noted(data: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "oddlens.evaluation.compare.installed_detectors", lambda: (["autoencoder"], ["left out: padim"])
    )
    result = compare(data)
    assert [row["detector"] for row in result["leaderboard"] if not row["baseline"]] == ["autoencoder"]
    assert result["notes"][0] == "left out: padim"


def test_a_detector_that_is_named_and_not_installed_is_refused_before_any_is_fitted(
    data: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oddlens.models.backbones.efficientnet_lite.is_installed", lambda: False)
    lines: list[str] = []
    with pytest.raises(MissingExtraError, match=r"the detector padim needs packages .*oddlens\[pretrained\]"):
        compare(data, ["autoencoder", "padim"], log=lines.append)
    assert lines == []


def test_two_names_of_one_family_are_one_detector() -> None:
    lines: list[str] = []
    names = without_repetitions(["transforms", "auto", "rotation", "auto"], lines.append)
    assert names == ["transforms", "auto"]
    assert lines == ["rotation is another name of transforms; compared once"]


def test_data_without_training_or_test_images_is_rejected(data: DataSet) -> None:
    with pytest.raises(DataError, match="test set has no images"):
        compare(DataSet("stripes", data.train, data.test.subset([]), "good"), ["autoencoder"])
    with pytest.raises(DataError, match="no normal training images"):
        compare(DataSet("stripes", data.train.subset([]), data.test, "good"), ["autoencoder"])


@pytest.mark.parametrize("label", [0, 1])
def test_test_images_of_one_label_are_ranked_by_their_rate(data: DataSet, label: int) -> None:
    name, other = "false_alarm_rate_measured", "detection_rate"
    if label:
        name, other = other, name
    lines: list[str] = []
    test = data.test.subset(data.test.labels == label)
    result = compare(DataSet("stripes", data.train, test, "good"), ["autoencoder"], log=lines.append)
    rows = result["leaderboard"]
    rates = [row[name] for row in rows]
    assert rates == sorted(rates, reverse=label == 1)
    assert {row[missing] for row in rows for missing in ("image_auroc", "image_auroc_ci", "image_ap", other)} == {None}
    assert "so there is no" in result["notes"][0]
    assert len(lines) == 5
    table = leaderboard_table(result)
    assert {cells[table.columns.index("AUROC")] for cells in table.rows} == {None}
    assert draw_leaderboard(result).axes[0].get_xlim()[0] < 0.5
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_training_images_in_the_test_set_are_left_out(data: DataSet) -> None:
    whole = np.concatenate([stripes(140, 0), stripes(30, 1), spotted(20, 2)[0]])
    test = ImageSet.from_array(whole, kind=["good"] * 170 + ["spot"] * 20, label=[0] * 170 + [1] * 20)
    result = compare(DataSet("folders", data.train, test, "good"), ["autoencoder"])
    rows = result["leaderboard"]
    assert len({row["n_training"] for row in rows}) == 1
    assert result["leak_auroc"] is not None
    for row in rows:
        assert row["n_left_out_trained"] == row["n_training"]
        assert row["n_normal_rates"] == 30
        assert row["n_normal"] == 30 + row["n_calibration"]


def test_masks_that_are_not_used_are_noted(data: DataSet) -> None:
    masks = (*data.test.masks[:-1], np.zeros((16, 16), bool))
    data = replace(data, test=replace(data.test, masks=masks), unused_masks={"a reason": ("x.png",)})
    assert compare(data, [])["notes"][:2] == [
        "masks not used, as a reason: x.png",
        f"masks not used, as they mark no pixel of anomalous images: {data.test.names[-1]}",
    ]


def test_near_duplicates_across_the_split_are_reported_as_a_leak() -> None:
    rng = np.random.default_rng(0)
    train = rng.integers(0, 256, (80, 16, 16, 1), dtype=np.uint8)  # unrelated images
    copies = (train[::2].astype(np.int16) + rng.integers(-3, 4, (40, 16, 16, 1))).clip(0, 255).astype(np.uint8)
    anomalous = rng.integers(0, 256, (40, 16, 16, 1), dtype=np.uint8)
    labels = [0] * 40 + [1] * 40
    leaking = ImageSet.from_array(
        np.concatenate([copies, anomalous]), kind=["good"] * 40 + ["anomaly"] * 40, label=labels
    )
    unrelated = rng.integers(0, 256, (40, 16, 16, 1), dtype=np.uint8)
    fair = ImageSet.from_array(
        np.concatenate([unrelated, anomalous]), kind=["good"] * 40 + ["anomaly"] * 40, label=labels
    )
    results = [compare(DataSet("noise", ImageSet.from_array(train), test, "good"), []) for test in (leaking, fair)]
    assert results[0]["leak_auroc"] == 1
    assert results[1]["leak_auroc"] < 0.7
    assert "reach an AUROC of 1.000" in results[0]["notes"][0]
    assert "near-duplicates" in results[0]["notes"][0]
    assert "oddlens check" in results[0]["notes"][0]
    assert results[1]["notes"] == []
