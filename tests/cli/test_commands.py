"""The command line, run as users run it: a process, its exit code, its two streams, its files."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from oddlens.config.parse import duration
from oddlens.data.image_io import Pixels
from oddlens.data.open import open_dataset
from oddlens.detector.detector import Detector
from oddlens.errors import SettingsError
from oddlens.inference.scoring import MAX_BATCH

RECIPE = """
name = "small"
[data]
source = "digits"
calibration = "test_half"
distort = true
[model]
family = "autoencoder"
architecture = "pooling"
widths = [8]
[training]
epochs = {epochs}
[decision]
method = "train_percentile"
"""

QUICK = ("--detector", "autoencoder")  # fits in a second or two


def oddlens(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "oddlens", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | environment, timeout=300
    )


def succeeds(*arguments: object, **environment: str) -> dict[str, Any]:
    done = oddlens(*arguments, "--json", **environment)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def refused(*arguments: object, code: int = 1, **environment: str) -> str:
    done = oddlens(*arguments, **environment)
    assert done.returncode == code, done.stdout + done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    if code == 1:
        assert done.stderr.startswith("error: "), done.stderr
        assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def picture(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.copy()


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of parts in the MVTec layout: stripes are normal, a bright spot is a defect."""
    root = tmp_path_factory.mktemp("parts")
    rng = np.random.default_rng(0)
    for place, count in (("train/good", 130), ("test/good", 12), ("test/spot", 6)):
        (root / place).mkdir(parents=True)
        for i in range(count):
            image = 90 + 40 * np.sin(np.arange(24) * rng.uniform(0.3, 0.9) + rng.uniform(0, 6))[None, :]
            image = image + rng.normal(0, 12, (20, 24))
            if place == "test/spot":
                image[4:9, 5:11] = 250
                mask = np.zeros((20, 24), dtype=np.uint8)
                mask[4:9, 5:11] = 255
                (root / "ground_truth/spot").mkdir(parents=True, exist_ok=True)
                Image.fromarray(mask).save(root / f"ground_truth/spot/{i:03}_mask.png")
            Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(root / place / f"{i:03}.png")
    return root


@pytest.fixture(scope="module")
def part(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fit") / "part.safetensors"
    result = succeeds("fit", parts, "-o", path, *QUICK, "--epochs", 4, "--threads", 1)
    assert result["files"] == {"detector": str(path)}
    assert result["seconds"]["fit"] > 0
    assert result["n_training"] + result["n_calibration"] == 130
    assert list(path.parent.iterdir()) == [path], "checkpoints are gone once the detector is saved"
    return path


def test_eval_gives_the_whole_table(part: Path, parts: Path, tmp_path: Path) -> None:
    table = succeeds("eval", part, parts, "--report", tmp_path / "r.html")
    for key in (
        "image_auroc", "image_auroc_ci", "image_ap", "false_alarm_rate", "false_alarm_rate_measured", "detection_rate",
        "threshold", "decisions", "n_normal", "n_anomalous", "n_normal_rates", "per_class", "pixel_auroc", "aupro",
    ):  # fmt: skip
        assert table[key] is not None, key
    assert set(table["decisions"]) == {"train_percentile", "conformal"}
    assert table["per_class"]["spot"]["n"] == 6
    assert table["image_auroc"] > 0.9
    assert "data:image/png;base64," in (tmp_path / "r.html").read_text()


def test_score_writes_a_row_an_image_in_order_and_a_map_each(part: Path, parts: Path, tmp_path: Path) -> None:
    images = [parts / "test/spot", parts / "test/good/003.png"]
    result = succeeds("score", part, *images, "-o", tmp_path / "v.csv", "--maps", tmp_path / "maps")
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
    assert picture(tmp_path / "maps" / maps[0]).size == (24, 20)


def test_score_without_a_file_prints_csv(part: Path, parts: Path) -> None:
    done = oddlens("score", part, parts / "test/spot/000.png")
    assert done.returncode == 0
    header, row = done.stdout.splitlines()
    assert header == "file,anomaly_score,p_value,threshold,label,verdict"
    assert row.startswith(f"{parts}/test/spot/000.png,")


def test_show_says_what_is_promised(part: Path) -> None:
    assert "normal images are flagged" in oddlens("show", part).stdout
    shown = succeeds("show", part)
    assert shown["manifest"]["schema_version"] == 1
    assert shown["manifest"]["input"] == {"height": 20, "width": 24, "channels": 1, "value_max": 255}


def test_an_exported_file_gives_the_same_verdicts(part: Path, parts: Path, tmp_path: Path) -> None:
    exported = tmp_path / "part.onnx"
    assert succeeds("export", part, "-o", exported)["largest_relative_difference"] <= 1e-4
    ours, theirs = (succeeds("score", file, parts / "test")["verdicts"] for file in (part, exported))
    assert [row["verdict"] for row in ours] == [row["verdict"] for row in theirs]
    np.testing.assert_allclose(
        [row["anomaly_score"] for row in ours], [row["anomaly_score"] for row in theirs], rtol=1e-4
    )
    assert succeeds("show", exported)["promise"] == succeeds("show", part)["promise"]


def test_compare_prints_and_draws_a_leaderboard(parts: Path, tmp_path: Path) -> None:
    board = tmp_path / "board.png"
    result = succeeds("compare", parts, "--detectors", "autoencoder", "--budget", "60s", "-o", board, "--threads", 1)
    assert {row["detector"] for row in result["leaderboard"]} == {
        "autoencoder", "thumbnails-8", "thumbnails-32", "thumbnails-8-normalised", "thumbnails-32-normalised",
    }  # fmt: skip
    assert result["budget"] == 60
    assert all(row["aupro"] is None for row in result["leaderboard"] if row["baseline"])
    assert result["files"] == {"figure": str(board)}
    assert picture(board).size[0] == 1520


def test_compare_refuses_what_it_cannot_do_before_it_starts(parts: Path, tmp_path: Path) -> None:
    assert "'nothing' is not a detector" in refused("compare", parts, "--detectors", "autoencoder,nothing")
    assert "end in .png" in refused("compare", parts, "--detectors", "autoencoder", "-o", tmp_path / "board.jpg")
    assert list(tmp_path.iterdir()) == []


def test_check_finds_what_is_wrong_and_exits_with_0(parts: Path, tmp_path: Path) -> None:
    folder = tmp_path / "messy"
    folder.mkdir()
    pictures = [picture(parts / f"train/good/{i:03}.png") for i in range(20)]
    for i, image in enumerate(pictures):
        image.save(folder / f"{i:03}.png")
    pictures[0].save(folder / "copy.png")
    pictures[1].convert("RGB").save(folder / "colour.png")
    pictures[2].resize((60, 20)).save(folder / "wide.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not really")
    found = succeeds("check", folder)
    names = {finding["name"]: finding for finding in found["findings"]}
    assert {"unreadable", "mixed sizes", "mixed modes", "duplicates", "too few images"} <= set(names)
    assert names["unreadable"]["files"] == [str(folder / "broken.jpg")]
    assert str(folder / "copy.png") in names["duplicates"]["files"]
    assert names["mixed modes"]["files"] == [str(folder / "colour.png")]
    assert found["n_train"] == 24
    assert found["ok"] is False
    assert succeeds("check", parts)["ok"] is True
    assert "broken.jpg" in oddlens("check", folder).stdout


def test_check_looks_at_masks_and_at_the_depth_of_test_images(parts: Path, tmp_path: Path) -> None:
    root = tmp_path / "set"
    shutil.copytree(parts, root)
    (root / "ground_truth/spot/000_mask.png").write_bytes(b"broken")
    Image.fromarray(np.zeros((20, 24), dtype=np.uint8)).save(root / "ground_truth/spot/001_mask.png")
    names = {finding["name"]: finding["level"] for finding in succeeds("check", root)["findings"]}
    assert (names["unreadable masks"], names["empty masks"]) == ("error", "note")
    deep = Image.fromarray(np.full((20, 24), 3000, dtype=np.uint16))
    deep.save(root / "test/good/000.png")
    found = {finding["name"]: finding for finding in succeeds("check", root)["findings"]}
    assert found["mixed bit depths"]["files"] == [str(root / "test/good/000.png")]


def test_a_recipe_makes_everything_in_one_folder(tmp_path: Path) -> None:
    (tmp_path / "small.toml").write_text(RECIPE.format(epochs=2))
    result = succeeds("run", tmp_path / "small.toml", "--out", tmp_path / "out", "--threads", 1)
    files, figures = result["files"], result["files"]["figures"]
    for name, file in {"detector": "detector.safetensors", "history": "history.jsonl", "verdicts": "verdicts.csv",
                       "metrics": "metrics.json", "report": "report.html"}.items():  # fmt: skip
        assert files[name] == str(tmp_path / "out" / file)
    expected = {
        "verdicts",
        "histogram",
        "roc",
        "training",
        *(f"reconstructions-{kind}" for kind in result["per_class"]),
    }
    assert set(figures) == expected
    assert all(
        Path(path).stat().st_size > 0
        for path in [*figures.values(), *(files[name] for name in files if name != "figures")]
    )
    assert set(result["seconds"]) == {"fit", "calibrate", "score"}
    assert result["method"] == "train_percentile"
    assert result["n_normal_rates"] < result["n_normal"]
    saved = json.loads((tmp_path / "out/metrics.json").read_text())
    assert saved["image_auroc"] == result["image_auroc"]


def test_a_run_killed_and_resumed_gives_bitwise_the_same_scores(tmp_path: Path) -> None:
    (tmp_path / "small.toml").write_text(RECIPE.format(epochs=30))
    arguments = ["run", str(tmp_path / "small.toml"), "--threads", "1", "--out"]
    succeeds(*arguments, tmp_path / "whole")
    command = [sys.executable, "-m", "oddlens", *arguments, str(tmp_path / "killed")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    history = tmp_path / "killed/history.jsonl"
    for _ in range(3000):
        if history.exists() and len(history.read_text().splitlines()) >= 3:
            break
        time.sleep(0.02)
    assert process.poll() is None, "still training"
    assert len(history.read_text().splitlines()) >= 3
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed/detector.safetensors").exists()
    succeeds(*arguments, tmp_path / "killed", "--resume")
    whole, resumed = ((tmp_path / name / "verdicts.csv").read_bytes() for name in ("whole", "killed"))
    assert whole == resumed


def test_threads_and_seed_fix_the_scores(tmp_path: Path, digit_pixels: Pixels) -> None:
    np.save(tmp_path / "d.npy", digit_pixels[:200])
    files = [tmp_path / f"{i}.safetensors" for i in range(3)]
    for file, seed in zip(files, (1, 1, 2), strict=True):
        succeeds("fit", tmp_path / "d.npy", "-o", file, *QUICK, "--epochs", 1, "--threads", 1, "--seed", seed)
    scores = [Detector.load(file).score(digit_pixels[200:220]) for file in files]
    np.testing.assert_array_equal(scores[0], scores[1])
    assert (scores[0] != scores[2]).all()


@pytest.mark.parametrize("command", ["fit", "check"])
def test_a_missing_path_is_exit_code_1(command: str, tmp_path: Path) -> None:
    output = ["-o", tmp_path / "p.safetensors"] if command == "fit" else []
    assert "nowhere" in refused(command, tmp_path / "nowhere", *output)
    assert list(tmp_path.iterdir()) == []


def test_missing_images_and_detectors_are_exit_code_1(part: Path, tmp_path: Path) -> None:
    assert "nowhere" in refused("score", part, tmp_path / "nowhere", "-o", tmp_path / "v.csv")
    assert "nowhere.safetensors" in refused("score", tmp_path / "nowhere.safetensors", tmp_path)
    assert "nowhere.safetensors" in refused("show", tmp_path / "nowhere.safetensors")
    assert "minst" in refused("run", "minst")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "empty" in refused("fit", tmp_path / "empty", "-o", tmp_path / "p.safetensors")


def test_one_truncated_image_among_many_is_named_and_left_out_only_when_asked(parts: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(130):
        picture(parts / f"train/good/{i:03}.png").save(folder / f"{i:03}.jpg")
    whole = (folder / "077.jpg").read_bytes()
    (folder / "077.jpg").write_bytes(whole[: len(whole) // 2])
    arguments = ["fit", folder, "-o", tmp_path / "p.safetensors", *QUICK, "--epochs", 1]
    message = refused(*arguments)
    assert "077.jpg" in message
    assert "--skip-unreadable" in message
    assert not (tmp_path / "p.safetensors").exists()
    result = succeeds(*arguments, "--skip-unreadable")
    assert result["skipped"] == [str(folder / "077.jpg")]
    assert result["n_training"] + result["n_calibration"] == 129


def test_a_bad_image_late_in_a_folder_leaves_no_verdicts_but_what_is_scored(
    part: Path, parts: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(MAX_BATCH + 2):
        picture(parts / f"train/good/{i % 130:03}.png").save(folder / f"{i:03}.png")
    (folder / "zzz.png").write_bytes(b"broken")
    message = refused("score", part, folder, "-o", tmp_path / "v.csv", "--maps", tmp_path / "maps")
    assert "zzz.png" in message
    assert "go on with --resume" in message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "maps", "v.csv.partial"]
    assert len(list((tmp_path / "maps").iterdir())) == MAX_BATCH


def test_reports_have_a_name_that_browsers_open(part: Path, parts: Path, tmp_path: Path) -> None:
    assert "end in .html" in refused("eval", part, parts, "--report", tmp_path / "report")
    assert list(tmp_path.iterdir()) == []


def test_class_folders_say_that_no_normal_image_is_left_to_measure_with(parts: Path, tmp_path: Path) -> None:
    folder = tmp_path / "classes"
    for kind, source in (("ok", "train/good"), ("odd", "test/spot")):
        (folder / kind).mkdir(parents=True)
        for path in sorted((parts / source).iterdir()):
            picture(path).save(folder / kind / path.name)
    succeeds("fit", folder, "--normal", "ok", "-o", tmp_path / "p.safetensors", *QUICK, "--epochs", 1)
    table = succeeds("eval", tmp_path / "p.safetensors", folder, "--report", tmp_path / "r.html")
    assert table["n_left_out_trained"] > 0
    assert table["n_normal_rates"] == 0
    assert table["false_alarm_rate_measured"] is None
    assert "cannot be measured here" in (tmp_path / "r.html").read_text()


def test_a_text_file_called_png_is_refused(part: Path, tmp_path: Path) -> None:
    (tmp_path / "note.png").write_text("this is not a picture")
    assert "note.png" in refused("score", part, tmp_path / "note.png", "-o", tmp_path / "v.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["note.png"]


def test_a_rate_that_cannot_be_promised_is_refused(parts: Path, tmp_path: Path) -> None:
    message = refused("fit", parts, "-o", tmp_path / "p.safetensors", *QUICK, "--false-alarm-rate", 0.01)
    assert "65 held-out normal images can guarantee a false-alarm rate of 1.6% at best; 1% needs 99" in message
    assert list(tmp_path.iterdir()) == []


def test_a_named_set_that_is_not_there_says_where_it_looked_within_a_minute(tmp_path: Path) -> None:
    message = refused(
        "fit", "mnist", "--data", tmp_path, "-o", tmp_path / "p.safetensors", ODDLENS_MIRROR="http://127.0.0.1:9"
    )
    assert str(tmp_path) in message
    assert "train-images-idx3-ubyte" in message
    assert "oddlens demo" in message


@pytest.mark.parametrize(
    "arguments",
    [["fit"], ["score"], ["nonsense"], ["fit", "x", "--epochs", "many", "-o", "y"], ["run", "demo", "--device", "tpu"]],
)
def test_wrong_usage_is_exit_code_2(arguments: list[str]) -> None:
    refused(*arguments, code=2)


@pytest.mark.parametrize(
    "option",
    [["--false-alarm-rate", "1.5"], ["--confidence", "0"], ["--roi", "no.png"], ["--budget", "5 minutes"]],
)
def test_an_option_out_of_range_is_named(option: list[str], parts: Path, tmp_path: Path) -> None:
    message = refused("fit", parts, "-o", tmp_path / "p.safetensors", *QUICK, *option)
    assert option[0].strip("-").replace("-", "_") in message or option[1] in message


@pytest.mark.parametrize("text", ["5 minutes", "0s", "-1", "m", "", "1e3", "5m30s", "nan", "inf", "9" * 400])
def test_what_is_no_duration_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(SettingsError, match=r"is not a duration; write it as 90s, 5m, 1h or plain seconds"):
        duration(text)


def test_a_plan_and_a_detector_together_are_refused(parts: Path, part: Path, tmp_path: Path) -> None:
    message = refused("fit", parts, "-o", tmp_path / "p.safetensors", *QUICK, "--plan", part)
    assert "leave out --detector autoencoder" in message
    assert list(tmp_path.iterdir()) == []


def test_seed_recipes_on_real_data_keep_their_shape(real_data: Path, tmp_path: Path) -> None:
    """One epoch of the second seed: the full thing takes minutes and is a benchmark, not a test."""
    result = succeeds("run", "cifar10-airplane", "--data", real_data, "--out", tmp_path, "--epochs", 1)
    assert (result["n_normal"], result["n_anomalous"], result["n_normal_rates"]) == (1000, 9000, 500)
    assert len(result["per_class"]) == 10
    assert result["per_class"]["airplane"]["auroc"] is None
    assert 0.55 < result["image_auroc"] < 0.75


def test_real_photographs_of_mixed_sizes_with_masks_work(real_data: Path, tmp_path: Path) -> None:
    part, tiles = tmp_path / "mt.safetensors", real_data / "magnetic-tile"
    assert succeeds("fit", tiles, "-o", part, *QUICK, "--epochs", 1, "--size", 32)["n_calibration"] >= 99
    table = succeeds("eval", part, tiles)
    assert table["n_normal"] == len(open_dataset(tiles).test.labels) - table["n_anomalous"]
    assert 0 < table["pixel_auroc"] < 1
    assert 0 < table["aupro"] < 1
