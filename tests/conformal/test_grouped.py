"""Decisions per group of images (Mondrian), single_group and in a detector."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from command_line import oddlens
from PIL import Image

from oddlens.config.base import DecisionSettings, TrainingSettings
from oddlens.config.detectors import AutoencoderSettings
from oddlens.conformal.decision import Decision
from oddlens.conformal.grouped import UNGROUPED, GroupedDecision
from oddlens.data.groups import assign_groups
from oddlens.data.image_io import Pixels
from oddlens.data.image_set import ImageSet
from oddlens.detector.detector import Detector
from oddlens.detector.export import export
from oddlens.errors import CalibrationError, OddlensError, SettingsError, StateError

Scores = npt.NDArray[np.float64]
NONE: Scores = np.empty(0)


def decisions(rate: float | None = None, **groups: Scores) -> GroupedDecision:
    settings = DecisionSettings(false_alarm_rate=rate)
    return GroupedDecision({name: Decision(settings, scores, NONE) for name, scores in groups.items()})


def test_each_image_is_ranked_within_its_group() -> None:
    decision = decisions(0.1, left=np.arange(99.0), right=np.arange(100.0, 119.0))
    scores, groups = np.array([89.5, 89.5, 117.5, 117.5]), ("left", "right", "right", "left")
    assert decision.thresholds(4, groups).tolist() == [89.0, 117.0, 117.0, 89.0]
    assert decision.p_values(scores, groups).tolist() == [10 / 100, 1.0, 2 / 20, 1 / 100]
    assert decision.threshold is None
    assert [line.split(":")[0] for line in decision.summary_lines()] == ["left", "left", "right", "right"]
    assert decision.as_json()["groups"]["right"]["threshold"] == 117.0
    with pytest.raises(StateError, match=r"a threshold for each group \(left, right\)"):
        _ = decision.single


def test_the_guarantee_holds_in_every_group_where_a_common_threshold_fails() -> None:
    rng, rate = np.random.default_rng(0), 0.05
    common_rates, group_rates = [], []
    for _ in range(400):
        calm, loud = rng.normal(0, 1, 200), rng.normal(2, 1, 40)  # the second camera is noisier and rarer
        threshold = Decision(DecisionSettings(false_alarm_rate=rate), np.concatenate([calm, loud]), NONE).threshold
        common_rates.append(float((rng.normal(2, 1, 500) > threshold).mean()))
        decision = decisions(rate, calm=calm, loud=loud)
        group_rates.append(float((rng.normal(2, 1, 500) > decision.thresholds(1, ("loud",))[0]).mean()))
    error = 2 * float(np.std(group_rates)) / math.sqrt(len(group_rates))
    assert np.mean(common_rates) > 0.15
    assert np.mean(group_rates) <= rate + error


def test_a_group_that_cannot_guarantee_the_rate_is_named() -> None:
    decision = decisions(0.01, many=np.arange(99.0), few=np.arange(50.0))
    with pytest.raises(CalibrationError, match=r"group few: 50 .* can guarantee a false-alarm rate of 2\.0% at best"):
        decision.check()
    default = decisions(None, many=np.arange(99.0), few=np.arange(50.0))
    default.check()  # without a rate, each group uses the lowest that it can guarantee
    assert default.parts["many"].false_alarm_rate == 0.01
    assert default.false_alarm_rate == pytest.approx(1 / 51)


@pytest.mark.parametrize(
    ("groups", "error", "match"),
    [
        ((), StateError, "0 of 2 images have a group"),
        (("left",), StateError, "1 of 2 images have a group"),
        (
            ("left", "middle"),
            SettingsError,
            r"group 'middle' has no calibration images \(calibrated groups: left, right\)",
        ),
    ],
)
def test_images_without_a_calibrated_group_are_refused(
    groups: tuple[str, ...], error: type[OddlensError], match: str
) -> None:
    decision = decisions(left=np.arange(99.0), right=np.arange(99.0))
    with pytest.raises(error, match=match):
        decision.thresholds(2, groups)
    with pytest.raises(error, match=match):
        decision.p_values(np.zeros(2), groups)


def flagged_by_hand(p_values: list[Fraction], rate: Fraction) -> list[bool]:
    """Benjamini and Hochberg's procedure, in fractions."""
    ordered = sorted(p_values)
    accepted = [p for rank, p in enumerate(ordered, 1) if p <= rate * rank / len(ordered)]
    return [bool(accepted) and p <= max(accepted) for p in p_values]


@pytest.mark.parametrize("seed", range(20))
def test_discoveries_in_groups_of_different_sizes_match_the_exact_p_values(seed: int) -> None:
    rng = np.random.default_rng(seed)
    parts = {"a": rng.normal(size=97), "b": rng.normal(size=250), "c": rng.normal(size=13)}
    decision = decisions(0.1, **parts)
    groups = tuple(rng.choice(list(parts), 60).tolist())
    scores = np.where(rng.random(60) < 0.5, rng.normal(4, 1, 60), rng.normal(size=60))
    exact = [
        Fraction(1 + int((parts[group] >= score).sum()), len(parts[group]) + 1)
        for score, group in zip(scores, groups, strict=True)
    ]
    flagged = scores > decision.discovery_thresholds(scores, 0.2, groups)
    assert flagged.tolist() == flagged_by_hand(exact, Fraction("0.2"))
    assert decision.fdr_warning(60, 0.01, groups) == decision.parts["b"].fdr_warning(60, 0.01)  # the largest group
    assert decision.fdr_warning(60, 0.01, ("a",) * 30 + ("c",) * 30) == decision.parts["a"].fdr_warning(60, 0.01)


def test_a_single_group_decides_like_no_groups() -> None:
    scores, new = np.arange(200.0), np.array([150.5, 199.5, 300.0])
    single_group, ungrouped = decisions(0.05, all=scores), decisions(0.05, **{UNGROUPED: scores})
    groups = ("all",) * 3
    assert single_group.thresholds(3, groups).tolist() == ungrouped.thresholds(3).tolist() == [ungrouped.threshold] * 3
    assert single_group.p_values(new, groups).tolist() == ungrouped.p_values(new).tolist()
    assert (
        single_group.discovery_thresholds(new, 0.1, groups).tolist()
        == ungrouped.discovery_thresholds(new, 0.1).tolist()
    )


# Detectors with groups


@pytest.fixture(scope="module")
def folders(digit_pixels: Pixels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits of two cameras, one of them with grain, as training folders and folders of later images."""
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


def test_a_detector_decides_by_group_and_so_do_its_files(part: Detector, folders: Path, tmp_path: Path) -> None:
    limits = {name: decision.threshold for name, decision in part.decisions_.parts.items()}
    assert limits["grainy"] != limits["calm"]
    counts = [len(decision.calibration_scores) for decision in part.decisions_.parts.values()]
    assert sum(counts) == part.manifest.data.n_calibration
    assert min(counts) >= 50
    incoming = assign_groups(ImageSet.from_files(sorted(map(str, (folders / "incoming").rglob("*.png")))), "folder")
    predictions = part.predict(incoming)
    assert predictions.threshold.tolist() == [limits[group] for group in incoming.groups]
    assert np.array_equal(predictions.label, predictions.anomaly_score > predictions.threshold)
    export(part, tmp_path / "part.onnx")
    for path in (part.save(tmp_path / "part.safetensors"), tmp_path / "part.onnx"):
        again = Detector.load(path).predict(incoming)
        assert np.array_equal(again.p_value, predictions.p_value)
        assert np.array_equal(again.threshold, predictions.threshold)
    with pytest.raises(StateError, match="of 100 images have a group"):
        part.predict(folders / "incoming")
    moved = Detector.load(path).set_decision(DecisionSettings(false_alarm_rate=0.1))
    assert moved.manifest.data.grouped_by == "folder"
    with pytest.raises(StateError, match="these images have no groups"):
        moved.calibrate(folders / "incoming")


def test_eval_feedback_and_score_decide_by_group(part: Detector, folders: Path, tmp_path: Path) -> None:
    file, incoming = part.save(tmp_path / "part.safetensors"), folders / "incoming"
    data, names = tmp_path / "data", sorted(incoming.rglob("*.png"))
    for i, name in enumerate(names):  # every fourth image becomes a negative
        pixels = np.asarray(Image.open(name))
        place = data / "test" / ("negative" if i % 4 == 0 else "good") / name.parent.name / name.name
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(255 - pixels if i % 4 == 0 else pixels).save(place)
    done = oddlens("eval", file, data, "--report", tmp_path / "report.html", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["threshold"] is None
    assert {name: row["threshold"] for name, row in result["groups"].items()} == {
        name: decision.threshold for name, decision in part.decisions_.parts.items()
    }
    assert sum(row["n"] for row in result["groups"].values()) == len(names)
    assert (tmp_path / "report.html").exists()
    table = tmp_path / "judged.csv"
    table.write_text("file,judgement\n" + "".join(f"{name},false alarm\n" for name in names[:20]))
    feedback = oddlens("feedback", file, table, "--json")
    assert feedback.returncode == 0, feedback.stderr
    assert json.loads(feedback.stdout)["added"] == 20
    assert Detector.load(tmp_path / "part-v2.safetensors").decisions_.grouped
    with_fdr = oddlens("score", file, incoming, "--fdr", 0.2, "-o", tmp_path / "v.jsonl", "--json")
    assert with_fdr.returncode == 0, with_fdr.stderr
    assert len((tmp_path / "v.jsonl").read_text().splitlines()) == len(names)
    broken = incoming / "calm" / "broken.png"
    broken.write_bytes(b"no image")
    skipping = oddlens("score", file, incoming, "--skip-unreadable", "--json")
    broken.unlink()
    assert json.loads(skipping.stdout)["n"] == len(names)


def test_the_command_line_handles_groups(folders: Path, tmp_path: Path) -> None:
    file = tmp_path / "part.safetensors"
    done = oddlens(
        "fit", folders, "-o", file, "--detector", "autoencoder", "--epochs", 1, "--group-by", "folder", "--json"
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["threshold"] is None
    assert set(result["groups"]) == {"calm", "grainy"}
    shown = oddlens("show", file)
    assert "threshold calm" in shown.stdout
    assert "grainy: At most" in " ".join(shown.stdout.split())

    done = oddlens("score", file, folders / "incoming", "--json")  # grouped by folder: no option is needed
    scored = json.loads(done.stdout)
    rows, lot = scored["verdicts"], scored["lot"]
    assert {name: group["n"] for name, group in lot["groups"].items()} == {"calm": 50, "grainy": 50}
    assert lot["p_value"] == min(group["p_value"] for group in lot["groups"].values())
    few = sorted((folders / "incoming" / "grainy").iterdir())[:3]
    strict = oddlens("score", file, folders / "incoming" / "calm", *few, "--strict", "--json")
    assert json.loads(strict.stdout)["lot"]["untested_groups"] == {"grainy": 3}
    assert "--strict: groups of fewer than 30 images are not tested: grainy (3)" in strict.stderr
    assert {Path(row["file"]).parent.name: row["threshold"] for row in rows} == {
        name: group["threshold"] for name, group in result["groups"].items()
    }
    lone = folders / "train" / "stray.png"
    Image.new("L", (8, 8)).save(lone)
    stray = oddlens("score", file, lone)
    lone.unlink()
    assert stray.returncode == 1
    assert "group 'train' has no calibration images (calibrated groups: calm, grainy)" in stray.stderr
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
    missing = oddlens("score", file, folders / "incoming")
    assert missing.returncode == 1
    assert "add --group-by FILE.csv:camera" in missing.stderr


def test_a_detector_without_groups_refuses_groups(digits_detector: Detector, folders: Path, tmp_path: Path) -> None:
    file = digits_detector.save(tmp_path / "part.safetensors")
    done = oddlens("score", file, folders / "incoming", "--group-by", "folder")
    assert done.returncode == 1
    assert "has one threshold for all images" in done.stderr
    images = assign_groups(ImageSet.from_files(sorted(map(str, (folders / "incoming").rglob("*.png")))), "folder")
    with pytest.raises(StateError, match="only be added to a calibration by groups"):
        Detector.load(file).calibrate(images, add=True)
