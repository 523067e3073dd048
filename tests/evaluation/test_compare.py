"""The leaderboard: every detector beside a baseline, on one data set, with failures shown and leaks named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

from oddlens.config.detectors import FAMILIES
from oddlens.data.image_io import Pixels
from oddlens.data.image_set import DataSet, ImageSet
from oddlens.errors import CalibrationError, DataError, MissingExtraError, OddlensError, SettingsError, TrainingError
from oddlens.evaluation.compare import DETECTORS, check_detector_name, compare, row_or_error
from oddlens.reporting import figures
from oddlens.reporting.leaderboard import leaderboard, table
from oddlens.training.history import TrainingStep

BASELINES = ("thumbnails-8", "thumbnails-32", "thumbnails-8-normalised", "thumbnails-32-normalised")


def stripes(count: int, seed: int) -> Pixels:
    """Stripes of any pitch and phase, with noise: (N, 16, 16, 1)."""
    rng = np.random.default_rng(seed)
    pitch, phase = rng.uniform(0.3, 1.2, (count, 1, 1)), rng.uniform(0, 6, (count, 1, 1))
    waves = 110 + 60 * np.sin(np.arange(16)[None, None] * pitch + phase) + rng.normal(0, 10, (count, 16, 16))
    pixels: Pixels = waves.clip(0, 255).astype(np.uint8)[..., None]
    return pixels


def spotted(count: int, seed: int) -> tuple[Pixels, list[np.ndarray]]:
    """The same with a bright square, and where it is."""
    pixels, mask = stripes(count, seed), np.zeros((16, 16), dtype=bool)
    mask[5:9, 6:10] = True
    pixels[:, mask] = 250
    return pixels, [mask] * count


@pytest.fixture(scope="module")
def data() -> DataSet:
    odd, masks = spotted(20, 2)
    good = [None] * 30
    test = ImageSet.from_array(
        np.concatenate([stripes(30, 1), odd]),
        kind=["good"] * 30 + ["spot"] * 20,
        label=[0] * 30 + [1] * 20,
        masks=[*good, *masks],
    )
    return DataSet("stripes", ImageSet.from_array(stripes(140, 0)), test, "good")


def test_every_detector_stands_beside_the_baselines_the_best_first(data: DataSet, tmp_path: Path) -> None:
    said: list[str] = []
    result = compare(data, ["autoencoder", "autoencoder"], seed=3, say=said.append)
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
    (trained,) = (row for row in rows if not row["baseline"])
    assert trained["pixel_auroc"] > 0.8
    assert len(said) == 5
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    again = compare(data, ["autoencoder"], seed=3)["leaderboard"]
    assert [row["image_auroc"] for row in again] == areas


def test_a_detector_that_fails_is_a_row_with_its_error(data: DataSet, tmp_path: Path) -> None:
    def impatient(step: TrainingStep) -> None:  # called by what learns by gradients, which the dictionary does not
        raise TrainingError(f"{step.family}: stopped by its user")

    result = compare(data, ["autoencoder", "dictionary"], progress=impatient)
    *judged, last = result["leaderboard"]
    assert last["detector"] == "autoencoder"
    assert last["error"] == "autoencoder: stopped by its user"
    assert {row["detector"] for row in judged} == {"dictionary", *BASELINES}
    shown = table(result)
    assert shown.rows[-1][:3] == ("autoencoder", None, "failed")
    assert {len(row) for row in shown.rows} == {len(shown.columns)}
    figure = leaderboard(result)
    texts = [text.get_text() for text in figure.findobj(Text)]
    assert any(text.startswith("failed: auto") for text in texts)
    assert {row["detector"] for row in judged} <= set(texts)  # none is cut short
    for row in judged:
        low, high = row["image_auroc_ci"]
        assert f"{row['image_auroc']:.3f} ({low:.3f}–{high:.3f})" in texts
    with Image.open(figures.save_figure(figure, tmp_path / "board.png")) as image:
        assert np.asarray(image.convert("L")).std() > 5


def test_unforeseen_errors_are_named_by_their_kind() -> None:
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


def test_where_every_detector_fails_the_baselines_are_no_result(data: DataSet) -> None:
    said: list[str] = []
    with pytest.raises(OddlensError, match=r"stripes: nothing was compared.* the first: the budget of -1 s leaves no"):
        compare(data, ["autoencoder", "dictionary"], budget=-1.0, say=said.append)
    assert [line.startswith(f"{name}: AUROC") for line, name in zip(said, BASELINES, strict=False)] == [True] * 4
    assert [line.split(": failed: ")[0] for line in said[4:]] == ["autoencoder", "dictionary"]


def test_copies_of_one_picture_fail_for_every_detector(data: DataSet) -> None:
    same = DataSet("copies", ImageSet.from_array(np.repeat(stripes(1, 0), 50, axis=0)), data.test, "good")
    with pytest.raises(OddlensError, match=r"copies: nothing was compared.* near-duplicates"):
        compare(same, ["autoencoder"])


@pytest.mark.parametrize(("name", "hint"), [("autoencodr", "there are auto, autoencoder"), ("ensemble", "a plan")])
def test_an_unknown_detector_is_refused_before_anything_is_fitted(name: str, hint: str, data: DataSet) -> None:
    said: list[str] = []
    with pytest.raises(SettingsError, match=hint):
        compare(data, ["autoencoder", name], say=said.append)
    assert said == []


def test_every_family_that_fits_by_itself_can_be_compared() -> None:
    assert set(DETECTORS) == {"auto", *FAMILIES} - {"ensemble", "crossfit"}
    for name in DETECTORS:
        check_detector_name(name)


def test_data_without_training_images_or_without_both_labels_is_refused(data: DataSet) -> None:
    normal_only = DataSet("stripes", data.train, data.test.subset(data.test.labels == 0), "good")
    with pytest.raises(DataError, match="30 normal and 0 anomalous images"):
        compare(normal_only, ["autoencoder"])
    with pytest.raises(DataError, match="no normal training images"):
        compare(DataSet("stripes", data.train.subset([]), data.test, "good"), ["autoencoder"])


def test_images_that_were_learned_are_left_out_of_the_test(data: DataSet) -> None:
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


def test_a_leaking_split_is_doubted() -> None:
    rng = np.random.default_rng(0)
    train = rng.integers(0, 256, (80, 16, 16, 1), dtype=np.uint8)  # nothing is common to these pictures
    copies = (train[::2].astype(np.int16) + rng.integers(-3, 4, (40, 16, 16, 1))).clip(0, 255).astype(np.uint8)
    odd = rng.integers(0, 256, (40, 16, 16, 1), dtype=np.uint8)
    labels = [0] * 40 + [1] * 40
    leaking = ImageSet.from_array(np.concatenate([copies, odd]), kind=["good"] * 40 + ["odd"] * 40, label=labels)
    fresh = rng.integers(0, 256, (40, 16, 16, 1), dtype=np.uint8)
    fair = ImageSet.from_array(np.concatenate([fresh, odd]), kind=["good"] * 40 + ["odd"] * 40, label=labels)
    found = [compare(DataSet("noise", ImageSet.from_array(train), test, "good"), []) for test in (leaking, fair)]
    assert found[0]["leak_auroc"] == 1
    assert found[1]["leak_auroc"] < 0.7
    assert "reaches an AUROC of 1.000" in found[0]["notes"][0]
    assert "near-duplicates" in found[0]["notes"][0]
    assert "oddlens check" in found[0]["notes"][0]
    assert found[1]["notes"] == []
