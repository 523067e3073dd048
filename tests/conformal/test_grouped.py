"""Groups of images, each with a decision of its own (Mondrian): who belongs where, and what is promised to whom."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from oddlens.config.base import DecisionSettings, TrainingSettings
from oddlens.config.detectors import AutoencoderSettings
from oddlens.conformal.decision import Decision
from oddlens.conformal.grouped import EVERYTHING, GroupedDecision
from oddlens.data.groups import assign_groups
from oddlens.data.image_io import Pixels
from oddlens.data.image_set import ImageSet
from oddlens.data.splitting import split_normals
from oddlens.detector.detector import Detector
from oddlens.detector.export import export
from oddlens.errors import CalibrationError, DataError, DataNotFoundError, OddlensError, SettingsError, StateError

Scores = npt.NDArray[np.float64]
NONE: Scores = np.empty(0)


def oddlens(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "oddlens", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ, timeout=300)


def decisions(rate: float | None = None, **groups: Scores) -> GroupedDecision:
    settings = DecisionSettings(false_alarm_rate=rate)
    return GroupedDecision({name: Decision(settings, scores, NONE) for name, scores in groups.items()})


# -- decisions ------------------------------------------------------------------------------------


def test_each_image_is_judged_among_its_own_group() -> None:
    made = decisions(0.1, left=np.arange(99.0), right=np.arange(100.0, 119.0))
    scores, groups = np.array([89.5, 89.5, 117.5, 117.5]), ("left", "right", "right", "left")
    assert made.thresholds(4, groups).tolist() == [89.0, 117.0, 117.0, 89.0]
    assert made.p_values(scores, groups).tolist() == [10 / 100, 1.0, 2 / 20, 1 / 100]
    assert made.threshold is None
    assert [line.split(":")[0] for line in made.summary_lines()] == ["left", "left", "right", "right"]
    assert made.as_json()["groups"]["right"]["threshold"] == 117.0
    with pytest.raises(StateError, match=r"decides for each group by itself \(left, right\)"):
        _ = made.single


def test_a_promise_holds_in_every_group_where_a_common_one_fails() -> None:
    rng, rate = np.random.default_rng(0), 0.05
    common, own = [], []
    for _ in range(400):
        calm, loud = rng.normal(0, 1, 200), rng.normal(2, 1, 40)  # the second camera is noisier and rarer
        threshold = Decision(DecisionSettings(false_alarm_rate=rate), np.concatenate([calm, loud]), NONE).threshold
        common.append(float((rng.normal(2, 1, 500) > threshold).mean()))
        made = decisions(rate, calm=calm, loud=loud)
        own.append(float((rng.normal(2, 1, 500) > made.thresholds(1, ("loud",))[0]).mean()))
    error = 2 * float(np.std(own)) / math.sqrt(len(own))
    assert np.mean(common) > 0.15
    assert np.mean(own) <= rate + error


def test_a_group_that_cannot_promise_the_rate_is_named() -> None:
    made = decisions(0.01, many=np.arange(99.0), few=np.arange(50.0))
    with pytest.raises(CalibrationError, match=r"group few: 50 held-out normal images can promise 2\.0% at best"):
        made.check()
    chosen = decisions(None, many=np.arange(99.0), few=np.arange(50.0))
    chosen.check()  # without a rate, each takes the best that it can
    assert chosen.parts["many"].false_alarm_rate == 0.01
    assert chosen.false_alarm_rate == pytest.approx(1 / 51)


@pytest.mark.parametrize(
    ("groups", "error", "match"),
    [
        ((), StateError, "2 images came without their groups"),
        (("left",), StateError, "without their groups"),
        (("left", "middle"), SettingsError, r"group 'middle' has no calibration images \(there are: left, right\)"),
    ],
)
def test_images_without_a_known_group_are_refused(
    groups: tuple[str, ...], error: type[OddlensError], match: str
) -> None:
    made = decisions(left=np.arange(99.0), right=np.arange(99.0))
    with pytest.raises(error, match=match):
        made.thresholds(2, groups)
    with pytest.raises(error, match=match):
        made.p_values(np.zeros(2), groups)


def flagged_by_hand(p_values: list[Fraction], rate: Fraction) -> list[bool]:
    """Benjamini and Hochberg's procedure, in fractions."""
    ordered = sorted(p_values)
    passed = [p for place, p in enumerate(ordered, 1) if p <= rate * place / len(ordered)]
    return [bool(passed) and p <= max(passed) for p in p_values]


@pytest.mark.parametrize("seed", range(20))
def test_discoveries_in_groups_of_different_sizes_are_those_of_the_exact_p_values(seed: int) -> None:
    rng = np.random.default_rng(seed)
    parts = {"a": rng.normal(size=97), "b": rng.normal(size=250), "c": rng.normal(size=13)}
    made = decisions(0.1, **parts)
    groups = tuple(rng.choice(list(parts), 60).tolist())
    scores = np.where(rng.random(60) < 0.5, rng.normal(4, 1, 60), rng.normal(size=60))
    exact = [
        Fraction(1 + int((parts[group] >= score).sum()), len(parts[group]) + 1)
        for score, group in zip(scores, groups, strict=True)
    ]
    flagged = scores > made.discovery_thresholds(scores, 0.2, groups)
    assert flagged.tolist() == flagged_by_hand(exact, Fraction("0.2"))
    assert made.too_few_for(60, 0.01, groups) == made.parts["b"].too_few_for(60, 0.01)  # the best that there is
    assert made.too_few_for(60, 0.01, ("a",) * 30 + ("c",) * 30) == made.parts["a"].too_few_for(60, 0.01)


def test_one_group_of_all_is_as_none() -> None:
    scores, odd = np.arange(200.0), np.array([150.5, 199.5, 300.0])
    alone, whole = decisions(0.05, all=scores), decisions(0.05, **{EVERYTHING: scores})
    groups = ("all",) * 3
    assert alone.thresholds(3, groups).tolist() == whole.thresholds(3).tolist() == [whole.threshold] * 3
    assert alone.p_values(odd, groups).tolist() == whole.p_values(odd).tolist()
    assert alone.discovery_thresholds(odd, 0.1, groups).tolist() == whole.discovery_thresholds(odd, 0.1).tolist()


# -- who belongs where ----------------------------------------------------------------------------


def files(folder: Path, *names: str) -> ImageSet:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8)).save(folder / name)
    return ImageSet.from_files([str(folder / name) for name in names])


def test_the_folder_is_the_group(tmp_path: Path) -> None:
    images = assign_groups(files(tmp_path, "left/1.png", "right/1.png", "right/2.png"), "folder")
    assert images.groups == ("left", "right", "right")
    assert images.subset([2, 0]).groups == ("right", "left")
    assert images.grouped_by == images.subset([0]).grouped_by == "folder"
    assert assign_groups(files(tmp_path, "left/1.png"), "folder").groups == ("left",)
    with pytest.raises(DataError, match=r"array\[0\]: lies in no folder"):
        assign_groups(ImageSet.from_array(np.zeros((2, 8, 8), dtype=np.uint8)), "folder")


def test_a_table_tells_the_groups(tmp_path: Path) -> None:
    images = files(tmp_path, "a/1.png", "b/1.png", "b/2.png")
    table = tmp_path / "cameras.csv"
    table.write_text(f"file,camera\nb/../a/1.png,left\n{tmp_path}/b/1.png,right\n2.png, left \n")
    found = assign_groups(images, f"{table}:camera")
    assert found.groups == ("left", "right", "left")  # the last by its bare name
    assert found.grouped_by == "column camera"
    table.write_text("file,camera\na/1.png,left\nelsewhere/1.png,right\nelsewhere/2.png,left\n")
    with pytest.raises(DataError, match=r"says nothing of .*b/1\.png"):  # another folder's 1.png is another image
        assign_groups(images, f"{table}:camera")
    table.write_text("file,camera\n1.png,left\n2.png,left\n")
    with pytest.raises(DataError, match=r"says nothing of .*a/1\.png"):  # two images have this name
        assign_groups(images, f"{table}:camera")


@pytest.mark.parametrize(
    ("text", "by", "error", "match"),
    [
        ("file,camera\n", "camera", SettingsError, "is neither 'folder' nor FILE.csv:COLUMN"),
        ("file,camera\n", "{}:", SettingsError, "is neither"),
        ("file,camera\n", "nowhere.csv:camera", DataNotFoundError, "no such file"),
        ("file,camera\n1.png,left\n", "{}:lamp", DataError, "has no column 'lamp'; it has: file, camera"),
        ("name,camera\n1.png,left\n", "{}:camera", DataError, "has no column 'file'"),
        ("file,camera\n1.png,\n", "{}:camera", DataError, "line 2: lacks file or camera"),
        ("file,camera\n1.png,left\n1.png,right\n", "{}:camera", DataError, "line 3: puts 1.png into a second group"),
        ("file,camera\n2.png,left\n", "{}:camera", DataError, "says nothing of .*1.png in column camera"),
        ("file,camera\n\udcff,x\n", "{}:camera", DataError, "cannot be read as CSV"),
    ],
)
def test_a_table_of_groups_that_is_wrong_says_where(
    text: str, by: str, error: type[OddlensError], match: str, tmp_path: Path
) -> None:
    images, table = files(tmp_path, "1.png"), tmp_path / "cameras.csv"
    table.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(error, match=match):
        assign_groups(images, by.format(table))


def test_every_group_gives_its_share_and_near_duplicates_stay_together(rng: np.random.Generator) -> None:
    pictures = rng.integers(0, 256, (340, 16, 16, 1), dtype=np.uint8)
    pixels = np.concatenate([pictures, pictures[:40]])  # 40 of them again, in the other group
    groups = ("left",) * 240 + ("right",) * 140
    learn, standard, hold = split_normals(pixels, DecisionSettings(), 0, standardise=True, groups=groups)
    assert np.array_equal(np.sort(np.concatenate([learn, standard, hold])), np.arange(380))
    names = np.array(groups)
    assert min((names[hold] == name).sum() for name in ("left", "right")) >= 30
    part = np.empty(380, dtype=int)
    part[learn], part[standard], part[hold] = 0, 1, 2
    assert np.array_equal(part[:40], part[340:])
    with pytest.raises(CalibrationError, match="group right"):
        split_normals(pixels, DecisionSettings(false_alarm_rate=0.01), 0, groups=groups)
    one = np.concatenate([pictures[:100], np.repeat(pictures[100:101], 30, axis=0)])
    with pytest.raises(DataError, match="group right: none of its images can be held out"):
        split_normals(one, DecisionSettings(), 0, groups=("left",) * 100 + ("right",) * 30)


# -- a detector -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(digit_pixels: Pixels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits of two cameras, one of them with grain, as folders to learn from and folders that come in later."""
    root = tmp_path_factory.mktemp("cameras")
    rng = np.random.default_rng(1)
    for i, pixels in enumerate(digit_pixels[:700]):
        camera, grain = ("calm", 2) if i % 2 else ("grainy", 80)
        noisy = np.clip(pixels + rng.normal(0, grain, pixels.shape), 0, 255).astype(np.uint8)
        folder = root / ("train/good" if i < 600 else "incoming") / camera
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noisy[..., 0]).save(folder / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def part(folders: Path, small_model: AutoencoderSettings) -> Detector:
    images = assign_groups(ImageSet.from_files(sorted(map(str, (folders / "train").rglob("*.png")))), "folder")
    settings = DecisionSettings(false_alarm_rate=0.05)
    return Detector(small_model, training=TrainingSettings(epochs=3), decision=settings).fit(images)


def test_a_detector_decides_by_group_and_its_files_keep_that(part: Detector, folders: Path, tmp_path: Path) -> None:
    limits = {name: one.threshold for name, one in part.decisions_.parts.items()}
    assert limits["grainy"] != limits["calm"]
    counts = [len(one.calibration_scores) for one in part.decisions_.parts.values()]
    assert sum(counts) == part.manifest.data.n_calibration
    assert min(counts) >= 50
    incoming = assign_groups(ImageSet.from_files(sorted(map(str, (folders / "incoming").rglob("*.png")))), "folder")
    found = part.predict(incoming)
    assert found.threshold.tolist() == [limits[group] for group in incoming.groups]
    assert np.array_equal(found.label, found.anomaly_score > found.threshold)
    export(part, tmp_path / "part.onnx")
    for path in (part.save(tmp_path / "part.safetensors"), tmp_path / "part.onnx"):
        again = Detector.load(path).predict(incoming)
        assert np.array_equal(again.p_value, found.p_value)
        assert np.array_equal(again.threshold, found.threshold)
    with pytest.raises(StateError, match="came without their groups"):
        part.predict(folders / "incoming")
    moved = Detector.load(path).set_decision(DecisionSettings(false_alarm_rate=0.1))
    assert moved.manifest.data.grouped_by == "folder"
    with pytest.raises(StateError, match="came without their groups"):
        moved.calibrate(folders / "incoming")


def test_what_is_measured_and_what_is_judged_goes_by_group(part: Detector, folders: Path, tmp_path: Path) -> None:
    file, incoming = part.save(tmp_path / "part.safetensors"), folders / "incoming"
    data, names = tmp_path / "data", sorted(incoming.rglob("*.png"))
    for i, name in enumerate(names):  # odd ones are negatives
        pixels = np.asarray(Image.open(name))
        place = data / "test" / ("odd" if i % 4 == 0 else "good") / name.parent.name / name.name
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(255 - pixels if i % 4 == 0 else pixels).save(place)
    done = oddlens("eval", file, data, "--report", tmp_path / "report.html", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["threshold"] is None
    assert {name: row["threshold"] for name, row in result["groups"].items()} == {
        name: one.threshold for name, one in part.decisions_.parts.items()
    }
    assert sum(row["n"] for row in result["groups"].values()) == len(names)
    assert (tmp_path / "report.html").exists()
    table = tmp_path / "judged.csv"
    table.write_text("file,judgement\n" + "".join(f"{name},false alarm\n" for name in names[:20]))
    judged = oddlens("feedback", file, table, "--json")
    assert judged.returncode == 0, judged.stderr
    assert json.loads(judged.stdout)["added"] == 20
    assert Detector.load(tmp_path / "part-v2.safetensors").decisions_.grouped
    many = oddlens("score", file, incoming, "--fdr", 0.2, "-o", tmp_path / "v.jsonl", "--json")
    assert many.returncode == 0, many.stderr
    assert len((tmp_path / "v.jsonl").read_text().splitlines()) == len(names)
    broken = incoming / "calm" / "broken.png"
    broken.write_bytes(b"no image")
    left = oddlens("score", file, incoming, "--skip-unreadable", "--json")
    broken.unlink()
    assert json.loads(left.stdout)["n"] == len(names)


def test_groups_go_through_the_command_line(folders: Path, tmp_path: Path) -> None:
    file = tmp_path / "part.safetensors"
    done = oddlens(
        "fit", folders, "-o", file, "--detector", "autoencoder", "--epochs", 1, "--group-by", "folder", "--json"
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["threshold"] is None
    assert set(told["groups"]) == {"calm", "grainy"}
    shown = oddlens("show", file)
    assert "threshold calm" in shown.stdout
    assert "grainy: At most" in " ".join(shown.stdout.split())

    done = oddlens("score", file, folders / "incoming", "--json")  # it decides by folders: nothing to say
    rows = json.loads(done.stdout)["verdicts"]
    assert {Path(row["file"]).parent.name: row["threshold"] for row in rows} == {
        name: group["threshold"] for name, group in told["groups"].items()
    }
    lone = folders / "train" / "stray.png"
    Image.new("L", (8, 8)).save(lone)
    stray = oddlens("score", file, lone)
    lone.unlink()
    assert stray.returncode == 1
    assert "group 'train' has no calibration images (there are: calm, grainy)" in stray.stderr
    both = oddlens("score", file, folders / "incoming", "--watch-drift", tmp_path / "state.json")
    assert both.returncode == 1
    assert "one group at a time" in both.stderr
    one = oddlens("score", file, folders / "incoming/calm", "--watch-drift", tmp_path / "state.json", "--json")
    assert json.loads(one.stdout)["drift"]["n"] == len(list((folders / "incoming/calm").iterdir()))

    moved = oddlens("threshold", file, "--false-alarm-rate", 0.1, "--json")
    assert moved.returncode == 0, moved.stderr
    assert all(group["false_alarm_rate"] == 0.1 for group in json.loads(moved.stdout)["groups"].values())
    strict = oddlens("threshold", file, "--false-alarm-rate", 0.001)
    assert strict.returncode == 1
    assert "group calm" in strict.stderr

    table = tmp_path / "cameras.csv"
    names = sorted((folders / "incoming").rglob("*.png"))
    table.write_text("file,camera\n" + "".join(f"{name},{'AB'[i % 2]}\n" for i, name in enumerate(names)))
    fresh = oddlens("calibrate", file, folders / "incoming", "--group-by", f"{table}:camera", "--json")
    assert fresh.returncode == 0, fresh.stderr
    assert {name: group["n_calibration"] for name, group in json.loads(fresh.stdout)["groups"].items()} == {
        "A": 50, "B": 50,
    }  # fmt: skip
    asked = oddlens("score", file, folders / "incoming")
    assert asked.returncode == 1
    assert "add --group-by FILE.csv:camera" in asked.stderr


def test_a_detector_without_groups_is_asked_for_none(fitted: Detector, folders: Path, tmp_path: Path) -> None:
    file = fitted.save(tmp_path / "part.safetensors")
    done = oddlens("score", file, folders / "incoming", "--group-by", "folder")
    assert done.returncode == 1
    assert "decides alike for all images" in done.stderr
    images = assign_groups(ImageSet.from_files(sorted(map(str, (folders / "incoming").rglob("*.png")))), "folder")
    with pytest.raises(StateError, match="join a calibration by groups only"):
        Detector.load(file).calibrate(images, add=True)
