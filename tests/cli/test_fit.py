"""`oddlens fit`: a detector file, or an error before anything is written."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import QUICK, error_of, oddlens, run_json
from own_backbones import ConvNet, write_onnx
from PIL import Image
from pretrained_extra import needs_pretrained

from oddlens.cli.fit import describe_budget
from oddlens.config.detectors import DictionarySettings, EnsembleSettings, Member
from oddlens.data.image_io import Pixels
from oddlens.detector.detector import Detector


def read_image(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.copy()


def test_threads_and_seed_determine_the_scores(tmp_path: Path, digit_pixels: Pixels) -> None:
    np.save(tmp_path / "d.npy", digit_pixels[:200])
    files = [tmp_path / f"{i}.safetensors" for i in range(3)]
    for file, seed in zip(files, (1, 1, 2), strict=True):
        run_json("fit", tmp_path / "d.npy", "-o", file, *QUICK, "--epochs", 1, "--threads", 1, "--seed", seed)
    scores = [Detector.load(file).score(digit_pixels[200:220]) for file in files]
    np.testing.assert_array_equal(scores[0], scores[1])
    assert (scores[0] != scores[2]).all()


def test_both_names_of_the_rotation_family_are_accepted_and_stay_in_the_file(parts: Path, tmp_path: Path) -> None:
    scores = []
    for name in ("rotation", "transforms"):
        path = tmp_path / f"{name}.safetensors"
        options = ("--detector", name, "--epochs", 1, "--threads", 1, "--seed", 3)
        assert run_json("fit", parts, "-o", path, *options)["family"] == name
        shown = run_json("show", path)
        assert shown["family"] == shown["manifest"]["model"]["family"] == name
        scores.append([row["anomaly_score"] for row in run_json("score", path, parts / "test/spot")["verdicts"]])
    assert scores[0] == scores[1]


def test_both_names_of_the_rotation_family_can_be_calibrated_in_folds(parts: Path, tmp_path: Path) -> None:
    path = tmp_path / "part.safetensors"
    run_json("fit", parts, "-o", path, "--detector", "transforms", "--folds", 2, "--epochs", 1, "--threads", 1)
    assert run_json("show", path)["manifest"]["model"]["model"]["family"] == "transforms"


def test_shrinking_is_said_before_the_training_and_in_the_json(tmp_path: Path, digit_pixels: Pixels) -> None:
    for i, pixels in enumerate(digit_pixels[:12]):
        (tmp_path / "n").mkdir(exist_ok=True)
        Image.fromarray(pixels[..., 0]).resize((160, 160)).save(tmp_path / f"n/{i}.png")
    arguments = ("fit", tmp_path / "n", "-o", tmp_path / "p.safetensors", *QUICK, "--epochs", 1, "--size")
    done = oddlens(*arguments, 32, "--json")
    lines = done.stderr.splitlines()
    assert lines[0].startswith("size: images of 160 x 160 pixels are shrunk 5.0-fold to 32 x 32: a defect smaller than")
    assert "epoch 1/1" in lines[1]
    assert json.loads(done.stdout)["remarks"] == lines[:1]
    assert run_json(*arguments, 40)["remarks"] == []


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "empty" in error_of("fit", tmp_path / "empty", "-o", tmp_path / "p.safetensors")


def test_a_truncated_image_is_named_and_left_out_only_on_request(parts: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(130):
        read_image(parts / f"train/good/{i:03}.png").save(folder / f"{i:03}.jpg")
    whole = (folder / "077.jpg").read_bytes()
    (folder / "077.jpg").write_bytes(whole[: len(whole) // 2])
    arguments = ["fit", folder, "-o", tmp_path / "p.safetensors", *QUICK, "--epochs", 1]
    message = error_of(*arguments)
    assert "077.jpg" in message
    assert "--skip-unreadable" in message
    assert not (tmp_path / "p.safetensors").exists()
    result = run_json(*arguments, "--skip-unreadable")
    assert result["skipped"] == [str(folder / "077.jpg")]
    assert result["n_training"] + result["n_calibration"] == 129


def test_with_a_budget_it_says_how_much_of_the_plan_was_trained(parts: Path, tmp_path: Path) -> None:
    result = run_json("fit", parts, "-o", tmp_path / "p.safetensors", *QUICK, "--budget", "1h", "--epochs", 2)
    budget = result["budget"]
    assert budget["seconds"] == 3600
    assert 0 < budget["used"] <= result["seconds"]["fit"]
    (member,) = budget["members"]
    assert (member["title"], member["epochs"], member["planned_epochs"]) == ("autoencoder", 2, 2)


def test_a_budget_that_is_too_short_still_gives_a_calibrated_detector(parts: Path, tmp_path: Path) -> None:
    options = (*QUICK, "--epochs", 50_000, "--budget", 1)
    result = run_json("fit", parts, "-o", tmp_path / "p.safetensors", *options)
    assert result["n_calibration"] == 39
    (member,) = result["budget"]["members"]
    assert member["planned_epochs"] == 50_000
    assert 0 < member["epochs"] < 50_000


def test_without_a_budget_there_is_nothing_to_say_about_one(parts: Path, tmp_path: Path) -> None:
    done = oddlens("fit", parts, "-o", tmp_path / "p.safetensors", *QUICK, "--epochs", 1)
    assert "budget:" not in done.stdout
    assert run_json("fit", parts, "-o", tmp_path / "p.safetensors", *QUICK, "--epochs", 1)["budget"] is None


BUSY = "waited 25 s for other programs: on a quiet machine the same command trains more"


@pytest.mark.parametrize(
    ("epochs", "waited", "line"),
    [
        ([120.0], 30.0, "trained all that was planned"),
        ([31.4], None, "epochs trained: 31.4 of 120 of rotation; a longer --budget trains more"),
        ([31.4], 25.0, f"epochs trained: 31.4 of 120 of rotation; {BUSY}"),
        ([31.4, 40.0, 32.0], 25.0, f"epochs trained: 31.4 to 40 of 120 of rotation; {BUSY}"),  # folds
    ],
)
def test_the_budget_is_described_in_a_line(epochs: list[float], waited: float | None, line: str) -> None:
    rotation = [{"title": "rotation", "epochs": number, "planned_epochs": 120, "seconds": 40.0} for number in epochs]
    members = [{"title": "dictionary", "epochs": 1.0, "planned_epochs": 1, "seconds": 5.0}, *rotation]
    use = {"seconds": 60.0, "used": 58.2, "waited": waited, "members": members}
    assert describe_budget(use) == f"budget: 58 of 60 s; {line}"


def test_a_rate_that_cannot_be_guaranteed_is_refused(parts: Path, tmp_path: Path) -> None:
    message = error_of("fit", parts, "-o", tmp_path / "p.safetensors", *QUICK, "--false-alarm-rate", 0.01)
    assert "65 held-out normal images can guarantee a false-alarm rate of 1.6% at best; 1% needs 99" in message
    assert list(tmp_path.iterdir()) == []


def test_a_missing_named_data_set_is_refused_with_the_folder_and_the_files(tmp_path: Path) -> None:
    message = error_of(
        "fit", "mnist", "--data", tmp_path, "-o", tmp_path / "p.safetensors", ODDLENS_MIRROR="http://127.0.0.1:9"
    )
    assert str(tmp_path) in message
    assert "train-images-idx3-ubyte" in message
    assert "oddlens demo" in message


@pytest.mark.parametrize(
    "option",
    [["--false-alarm-rate", "1.5"], ["--confidence", "0"], ["--roi", "no.png"], ["--budget", "5 minutes"]],
)
def test_an_option_out_of_range_is_named(option: list[str], parts: Path, tmp_path: Path) -> None:
    message = error_of("fit", parts, "-o", tmp_path / "p.safetensors", *QUICK, *option)
    assert option[0].strip("-").replace("-", "_") in message or option[1] in message


def test_a_plan_and_a_detector_together_are_refused(parts: Path, part: Path, tmp_path: Path) -> None:
    message = error_of("fit", parts, "-o", tmp_path / "p.safetensors", *QUICK, "--plan", part)
    assert "leave out --detector autoencoder" in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [(), ("--detector", "auto"), ("--detector", "ensemble"), ("--plan", "x.json")])
def test_folds_need_a_single_detector(options: tuple[str, ...], parts: Path, tmp_path: Path) -> None:
    message = error_of("fit", parts, "-o", tmp_path / "p.safetensors", "--folds", 3, *options)
    assert "--folds needs a single detector: name it with --detector" in message
    assert list(tmp_path.iterdir()) == []


def test_another_suffix_than_safetensors_is_refused(parts: Path, tmp_path: Path) -> None:
    assert "detector files end in .safetensors" in error_of("fit", parts, "-o", tmp_path / "p.onnx", *QUICK)


def test_fit_says_what_one_percent_costs_and_counts_as_told(parts: Path, tmp_path: Path) -> None:
    path = tmp_path / "p.safetensors"
    command = ("fit", parts, "-o", path, *QUICK, "--epochs", 1, "--count-by", "image")
    cost = "--false-alarm-rate 0.01 would hold out half of the images, if there were 198."
    result = run_json(*command)
    assert result["default_rate_cost"] == f"1% takes 99 calibration images, 60 more: {cost}"
    assert result["guarantee"]["calibration"] == "held-out"
    assert cost in " ".join(oddlens(*command).stdout.split())
    assert run_json(*command, "--false-alarm-rate", 0.1)["default_rate_cost"] is None


def test_leave_one_out_is_refused_for_detectors_that_learn_their_images(parts: Path, tmp_path: Path) -> None:
    command = ("fit", parts, "-o", tmp_path / "p.safetensors", *QUICK, "--calibration")
    assert "cannot be combined with the detector autoencoder" in error_of(*command, "leave-one-out")
    assert run_json(*command, "held-out", "--epochs", 1)["n_calibration"] == 39


@needs_pretrained
def test_auto_takes_the_backbone_unless_it_is_refused(parts: Path, tmp_path: Path) -> None:
    fitted = run_json("fit", parts, "-o", tmp_path / "a.safetensors", "--budget", "10s")
    assert any(remark.startswith("pretrained: features of efficientnet-lite0") for remark in fitted["remarks"])
    scratch = run_json("fit", parts, "-o", tmp_path / "b.safetensors", "--budget", "10s", "--no-pretrained")
    assert not any("pretrained" in remark for remark in scratch["remarks"])
    assert run_json("show", tmp_path / "b.safetensors")["manifest"]["notices"] == []


def test_options_of_a_backbone_are_refused_where_there_is_none(parts: Path, tmp_path: Path) -> None:
    output, plan = ("-o", tmp_path / "part.safetensors"), tmp_path / "plan.json"
    plan.write_text(EnsembleSettings(members=(Member(model=DictionarySettings()),)).model_dump_json())
    takes_light = "--light is for the detectors auto, dictionary, padim and patchcore, not for"
    for options, obstacle in (
        (("--detector", "rotation"), "the detector rotation"),
        (("--detector", "padim", "--folds", 3), "--folds"),
        (("--plan", plan), "a plan"),
    ):
        message = error_of("fit", parts, *output, *options, "--light", "fixed")
        assert f"{takes_light} {obstacle}; leave it out" in message
    message = error_of("fit", parts, *output, "--detector", "padim", "--no-pretrained")
    assert "padim compares pretrained features; choose another" in message


@pytest.fixture(scope="module")
def own_backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return write_onnx(tmp_path_factory.mktemp("backbone") / "own.onnx", ConvNet())


def test_a_backbone_of_ones_own_is_fitted_with_shown_exported_and_repeated_by_a_plan(
    own_backbone: Path, parts: Path, tmp_path: Path
) -> None:
    file, graph = tmp_path / "part.safetensors", tmp_path / "part.onnx"
    fitted = run_json("fit", parts, "-o", file, "--backbone", own_backbone, "--detector", "features")
    assert any(remark.startswith("features: own.onnx gets images of 128 x 107") for remark in fitted["remarks"])
    (notice,) = run_json("show", file)["manifest"]["notices"]
    assert notice["sha256"] == hashlib.sha256(own_backbone.read_bytes()).hexdigest()
    shown = " ".join(oddlens("show", file, COLUMNS="400").stdout.split())
    licence = "oddlens does not know the licence; check it before you share the file"
    assert f"own.onnx ({licence}), from the file" in shown
    assert f"own.onnx, SHA-256 {notice['sha256']}" in shown
    run_json("export", file, "-o", graph)
    image = next((parts / "test/good").iterdir())
    scores = [float(oddlens("score", path, image).stdout.splitlines()[1].split(",")[1]) for path in (file, graph)]
    assert scores[0] == pytest.approx(scores[1], rel=1e-4)


def test_a_plan_brings_the_backbone_of_its_detector(own_backbone: Path, parts: Path, tmp_path: Path) -> None:
    first, again = tmp_path / "first.safetensors", tmp_path / "again.safetensors"
    run_json("fit", parts, "-o", first, "--backbone", own_backbone, "--budget", "8s")
    run_json("fit", parts, "-o", again, "--plan", first)
    shown = [run_json("show", path)["manifest"] for path in (first, again)]
    assert shown[0]["notices"] == shown[1]["notices"] != []


def test_a_plan_with_another_backbone_has_its_usual_depths(own_backbone: Path, parts: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    other, plan, again = (
        write_onnx(tmp_path / "other.onnx", ConvNet()),
        tmp_path / "plan.json",
        tmp_path / "a.safetensors",
    )
    first = tmp_path / "first.safetensors"
    member = {"family": "features", "backbone": str(own_backbone), "depths": [0], "side": 32}
    plan.write_text(json.dumps({"family": "ensemble", "members": [{"model": member}]}))
    run_json("fit", parts, "-o", first, "--plan", plan)
    for backbone, depths in ((None, [0]), (own_backbone, [0]), (other, [1, 2])):
        options = () if backbone is None else ("--backbone", backbone)
        run_json("fit", parts, "-o", again, "--plan", first, *options)
        (member,) = run_json("show", again)["manifest"]["model"]["members"]
        assert member["model"]["depths"] == depths


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--detector", "dictionary"), "--backbone: dictionary has no backbone; choose auto, padim, patchcore or feat"),
        (("--no-pretrained",), "--backbone and --no-pretrained contradict each other"),
        (("--backbone", "resnet18"), "--backbone must be efficientnet-lite0, a FILE.onnx, timm:NAME, or"),
        (("--backbone", "missing.onnx"), "missing.onnx: no such file for a backbone"),
    ],
)
def test_a_backbone_that_cannot_be_used_is_refused(
    options: tuple[str, ...], message: str, own_backbone: Path, parts: Path, tmp_path: Path
) -> None:
    assert message in error_of("fit", parts, "-o", tmp_path / "part.safetensors", "--backbone", own_backbone, *options)
