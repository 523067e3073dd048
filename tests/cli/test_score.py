"""`oddlens score`: verdict files, false discovery rates, and streams that are watched for drift."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import error_of, oddlens, run_json
from PIL import Image

from oddlens.data.image_set import DataSet
from oddlens.inference.scoring import MAX_BATCH


def score_json(*arguments: object) -> tuple[dict[str, Any], str]:
    """The JSON and the notes of `oddlens score`."""
    done = oddlens("score", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def read_image(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.copy()


@pytest.fixture(scope="module")
def images(digits: DataSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 digits, then 60 negatives of them, as files whose names give the order."""
    folder = tmp_path_factory.mktemp("images")
    test = digits.test.load(digits.test.choose_spec(None))[:60]
    for i, pixels in enumerate(np.concatenate([test, 255 - test])):
        Image.fromarray(pixels[..., 0]).save(folder / f"{i:03}.png")
    return folder


def test_each_image_has_a_row_in_order_and_a_map(part: Path, parts: Path, tmp_path: Path) -> None:
    images = [parts / "test/spot", parts / "test/good/003.png"]
    result = run_json("score", part, *images, "-o", tmp_path / "v.csv", "--maps", tmp_path / "maps")
    with (tmp_path / "v.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["file", "anomaly_score", "p_value", "threshold", "label", "verdict"]
    assert [row["file"] for row in rows] == [*(str(parts / f"test/spot/{i:03}.png") for i in range(6)), str(images[1])]
    assert result["n"] == 7
    assert result["n_anomalous"] == sum(row["verdict"] == "anomaly" for row in rows)
    for row in rows:
        assert (float(row["anomaly_score"]) > float(row["threshold"])) == (row["label"] == "1")
    maps = sorted(path.relative_to(tmp_path / "maps") for path in (tmp_path / "maps").rglob("*.png"))
    assert len(maps) == 7
    assert read_image(tmp_path / "maps" / maps[0]).size == (24, 20)


def test_without_an_output_file_csv_is_printed(part: Path, parts: Path) -> None:
    done = oddlens("score", part, parts / "test/spot/000.png")
    assert done.returncode == 0
    header, row = done.stdout.splitlines()
    assert header == "file,anomaly_score,p_value,threshold,label,verdict"
    assert row.startswith(f"{parts}/test/spot/000.png,")


def test_a_broken_image_late_in_a_folder_leaves_a_journal_of_what_is_scored(
    part: Path, parts: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(MAX_BATCH + 2):
        read_image(parts / f"train/good/{i % 130:03}.png").save(folder / f"{i:03}.png")
    (folder / "zzz.png").write_bytes(b"broken")
    message = error_of("score", part, folder, "-o", tmp_path / "v.csv", "--maps", tmp_path / "maps")
    assert "zzz.png" in message
    assert "continue with --resume" in message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "maps", "v.csv.partial"]
    assert len(list((tmp_path / "maps").iterdir())) == MAX_BATCH


def test_a_text_file_called_png_is_refused(part: Path, tmp_path: Path) -> None:
    (tmp_path / "note.png").write_text("this is not an image")
    assert "note.png" in error_of("score", part, tmp_path / "note.png", "-o", tmp_path / "v.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["note.png"]


def test_a_false_discovery_rate_has_a_threshold_for_the_batch(saved: Path, images: Path, tmp_path: Path) -> None:
    result, _ = score_json(saved, images, "--fdr", 0.05, "-o", tmp_path / "v.jsonl", "--maps", tmp_path / "maps")
    rows = [json.loads(line) for line in (tmp_path / "v.jsonl").read_text().splitlines()]
    assert [Path(row["file"]).stem for row in rows] == [f"{i:03}" for i in range(120)]
    assert {row["threshold"] for row in rows} == {result["threshold"]}
    assert all(row["label"] == (row["anomaly_score"] > row["threshold"]) for row in rows)
    flagged = [row["label"] for row in rows]
    assert sum(flagged[60:]) == 60
    assert result["n_anomalous"] == sum(flagged) <= 66
    assert result["false_discovery_rate"] == 0.05
    assert "false_alarm_rate" not in result
    assert len(list((tmp_path / "maps").iterdir())) == 120


def test_a_note_says_that_nothing_can_be_flagged(saved: Path, images: Path) -> None:
    result, notes = score_json(saved, *sorted(images.iterdir())[:60], "--fdr", 0.0001)
    assert result["n_anomalous"] == 0
    assert result["threshold"] is None
    assert all(row["threshold"] is None for row in result["verdicts"])
    assert "too few for a false discovery rate of 0.0001" in notes
    assert "at least 9999" in result["notes"][0]
    several, _ = score_json(saved, images, "--fdr", 0.01)
    assert "flags none of the 120 images unless" in several["notes"][0]


def test_a_watched_stream_continues_and_raises_the_alarm(saved: Path, images: Path, tmp_path: Path) -> None:
    files, state = sorted(images.iterdir()), tmp_path / "line.json"
    first, notes = score_json(saved, *files[:60], "--watch-drift", state)
    assert first["drift"]["alarm"] is False
    assert first["drift"]["n"] == 60
    assert "no drift" in notes
    assert first["drift"]["files"] == {"state": str(state), "figure": f"{state}.png"}
    with Image.open(f"{state}.png") as image:
        assert image.size[0] > 600
    second, notes = score_json(saved, *files[60:], "--watch-drift", state)
    drift = second["drift"]
    assert drift["alarm"] is True
    assert drift["n"] == 120
    assert 60 <= drift["alarm_at"] < 80
    assert len({str(file) for file in files[60:]} & set(drift["drivers"][:5])) >= 3
    assert str(files[drift["alarm_at"]]) in notes
    at_once, _ = score_json(saved, *files, "--watch-drift", tmp_path / "other.json")
    assert at_once["drift"]["evidence"] == pytest.approx(drift["evidence"], rel=1e-12)


def test_unchanged_images_are_no_shifted_lot(saved: Path, images: Path) -> None:
    result, notes = score_json(saved, *sorted(images.iterdir())[:60], "--strict")
    assert result["lot"].keys() == {"p_value", "shifted", "max_anomalous", "n", "brightness"}
    assert result["lot"]["brightness"].keys() == {"p_value", "change"}
    assert result["lot"]["p_value"] > 0.01
    assert (result["lot"]["shifted"], result["lot"]["max_anomalous"], result["lot"]["n"]) == (False, 0.1, 60)
    assert notes == ""


def test_a_shifted_lot_is_reported_and_with_strict_ends_with_exit_code_3(
    saved: Path, images: Path, tmp_path: Path
) -> None:
    negatives = sorted(images.iterdir())[60:]
    result, notes = score_json(saved, *negatives, "-o", tmp_path / "v.csv")
    assert result["lot"]["shifted"] is True
    assert result["lot"]["p_value"] < 1e-6
    assert "These 60 images differ from the calibration images as a whole (p = " in notes
    assert "Unless more than 10% of them are anomalous (--max-anomalous), the false-alarm rate of 1% is not" in notes
    done = oddlens("score", saved, *negatives, "-o", tmp_path / "strict.csv", "--strict", "--json")
    assert done.returncode == 3
    assert json.loads(done.stdout)["lot"] == result["lot"]
    assert (tmp_path / "strict.csv").read_bytes() == (tmp_path / "v.csv").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["strict.csv", "v.csv"], "no journal is left"
    printed = oddlens("score", saved, *negatives, "--strict")
    assert printed.returncode == 3
    assert printed.stdout.encode() == (tmp_path / "v.csv").read_bytes()
    assert printed.stderr.count("\n") == 1


def test_a_lot_with_many_anomalies_is_no_shift_if_it_may_have_them(saved: Path, images: Path) -> None:
    mostly_negatives = sorted(images.iterdir())[30:]
    assert score_json(saved, *mostly_negatives)[0]["lot"]["shifted"] is True
    lot = score_json(saved, *mostly_negatives, "--max-anomalous", 0.7, "--strict")[0]["lot"]
    assert (lot["shifted"], lot["max_anomalous"]) == (False, 0.7)


def test_the_lot_of_a_false_discovery_rate_says_that_this_rate_does_not_apply(saved: Path, images: Path) -> None:
    _, notes = score_json(saved, *sorted(images.iterdir())[60:], "--fdr", 0.05)
    assert "(--max-anomalous), the false discovery rate of 5% is not guaranteed for them" in notes


def test_a_small_lot_is_not_tested_and_strict_says_so(saved: Path, images: Path) -> None:
    negatives = sorted(images.iterdir())[60:89]
    result, notes = score_json(saved, *negatives)
    assert (result["lot"], notes) == (None, "")
    result, notes = score_json(saved, *negatives, "--strict")
    assert result["lot"] is None
    assert notes.startswith("--strict: not tested; that takes at least 30 images")


def test_unreadable_images_are_not_counted_in_the_lot(saved: Path, images: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"broken")
    few = [tmp_path / "broken.png", *sorted(images.iterdir())[60:89]]
    assert score_json(saved, *few, "--skip-unreadable")[0]["lot"] is None
    assert score_json(saved, *few, images / "100.png", "--skip-unreadable")[0]["lot"]["n"] == 30


@pytest.mark.parametrize("share", [-0.1, 1, "nan"])
def test_a_wrong_share_of_anomalous_images_is_refused_before_scoring(
    saved: Path, images: Path, tmp_path: Path, share: object
) -> None:
    message = error_of("score", saved, images, "--max-anomalous", share, "-o", tmp_path / "v.csv")
    assert "from 0 to below 1" in message
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_not_a_drift_state_is_refused_before_scoring(saved: Path, images: Path, tmp_path: Path) -> None:
    (tmp_path / "line.json").write_text("{}")
    options = ("--watch-drift", tmp_path / "line.json", "-o", tmp_path / "v.csv")
    assert "is not a drift state" in error_of("score", saved, images, *options)
    assert not (tmp_path / "v.csv").exists()


def test_resuming_needs_an_output_file(saved: Path, images: Path) -> None:
    assert "--resume continues a verdict file: name it with -o" in error_of("score", saved, images, "--resume")


def test_resuming_without_a_journal_scores_from_the_first_image(saved: Path, images: Path, tmp_path: Path) -> None:
    result, notes = score_json(saved, images, "-o", tmp_path / "v.csv", "--resume")
    assert (result["n"], result["resumed"]) == (120, 0)
    assert "does not exist, so there is nothing to resume" in notes


def test_an_unknown_kind_of_verdict_file_is_refused_before_scoring(saved: Path, images: Path, tmp_path: Path) -> None:
    assert "v.txt" in error_of("score", saved, images, "-o", tmp_path / "v.txt")
    assert list(tmp_path.iterdir()) == []


def test_darker_images_of_which_many_are_flagged_are_reported_by_their_light(
    saved: Path, images: Path, tmp_path: Path
) -> None:
    """Most scores are lower, so that the test of the scores alone is silent."""
    for number, path in enumerate(sorted(images.iterdir())[:60]):
        image = np.asarray(read_image(path))
        darker = 255 - image if number < 5 else (0.6 * image).astype(np.uint8)
        Image.fromarray(darker).save(tmp_path / path.name)
    done = oddlens("score", saved, tmp_path, "--json", "--strict")
    assert done.returncode == 3
    assert "These 60 images differ from the calibration images as a whole (p = " in done.stderr
    assert "% darker on average. Unless more than 10% of them are anomalous (--max-anomalous)" in done.stderr
    lot = json.loads(done.stdout)["lot"]
    assert lot["brightness"]["change"] < -0.1
    assert lot["p_value"] == pytest.approx(2 * lot["brightness"]["p_value"])
    few, _ = score_json(saved, *sorted(tmp_path.iterdir())[5:], "--strict")
    assert few["lot"]["brightness"]["p_value"] < 0.001, "but no more are flagged than by chance"
    assert not few["lot"]["shifted"]
