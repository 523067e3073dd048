"""`oddlens eval`: the metrics table and the report."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from command_line import QUICK, error_of, oddlens, run_json
from PIL import Image

from oddlens.data.image_set import DataSet
from oddlens.data.open import open_dataset
from oddlens.detector.detector import Detector
from oddlens.evaluation.evaluate import evaluate
from oddlens.io.own_files import is_own_png


def read_image(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.copy()


def test_the_metrics_table_is_complete(part: Path, parts: Path, tmp_path: Path) -> None:
    table = run_json("eval", part, parts, "--report", tmp_path / "r.html")
    for key in (
        "image_auroc", "image_auroc_ci", "image_ap", "false_alarm_rate", "false_alarm_rate_measured", "detection_rate",
        "threshold", "decisions", "n_normal", "n_anomalous", "n_normal_rates", "per_class", "pixel_auroc", "aupro",
    ):  # fmt: skip
        assert table[key] is not None, key
    assert set(table["decisions"]) == {"train_percentile", "conformal"}
    assert table["per_class"]["spot"]["n"] == 6
    assert table["image_auroc"] > 0.9
    assert "data:image/png;base64," in (tmp_path / "r.html").read_text()


def test_a_figure_of_the_first_images_of_each_kind_is_drawn(part: Path, parts: Path, tmp_path: Path) -> None:
    figure = tmp_path / "p.png"
    table = run_json("eval", part, parts, "--figure", figure)
    assert table["files"] == {"figure": str(figure)}
    assert is_own_png(figure), "it is not read as data"
    width, height = read_image(figure).size
    assert width > height > 500
    assert "end in .png" in error_of("eval", part, parts, "--figure", tmp_path / "p.jpg")
    assert "read as data" in error_of("eval", part, parts, "--figure", parts / "p.png")


def test_normal_images_alone_give_the_false_alarm_rate(part: Path, parts: Path, tmp_path: Path) -> None:
    table = run_json("eval", part, parts / "test/good", "--report", tmp_path / "r.html")  # a plain folder
    assert 0 <= table["false_alarm_rate_measured"] < 0.5
    assert (table["n_normal"], table["n_anomalous"]) == (12, 0)
    assert table["image_auroc"] is table["image_auroc_ci"] is table["image_ap"] is table["detection_rate"] is None
    assert "no detection rate, AUROC or average precision" in (tmp_path / "r.html").read_text()
    done = oddlens("eval", part, parts / "test/good")
    assert done.returncode == 0, done.stderr
    assert "has no classes, so all 12 images count as normal" in done.stderr
    assert "There are no anomalous test images, so there is no detection rate" in done.stdout
    assert "image AUROC" not in done.stdout


def test_eval_tests_its_normal_images_as_a_lot(saved: Path, digits: DataSet, tmp_path: Path) -> None:
    pixels = digits.test.load(digits.test.choose_spec(None))[:60, :, :, 0]
    for kind, images in (("good", pixels), ("negative", 255 - pixels)):
        (tmp_path / "lot/test" / kind).mkdir(parents=True)
        for i, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / "lot/test" / kind / f"{i:03}.png")
    result = run_json("eval", saved, tmp_path / "lot", "--strict", "--max-anomalous", 0.05)
    lot = result["lot"]
    assert 0 < result["alarms_p_value"] <= 1
    assert (lot["shifted"], lot["max_anomalous"], lot["n"]) == (False, 0.05, 60), "anomalies are not of the lot"
    report = tmp_path / "r.html"
    done = oddlens("eval", saved, tmp_path / "lot/test/negative", "--strict", "--report", report)
    assert done.returncode == 3
    assert "normal images flagged" in done.stdout
    assert "These 60 normal test images differ from the calibration images as a whole" in done.stderr
    assert "differ from the calibration images as a whole" in report.read_text()
    done = oddlens("eval", saved, tmp_path / "lot/test/negative", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["lot"]["shifted"] is True


def test_defects_alone_give_the_detection_rate(part: Path, parts: Path, tmp_path: Path) -> None:
    shutil.copytree(parts / "test/spot", tmp_path / "lot/test/spot")
    shutil.copytree(parts / "ground_truth", tmp_path / "lot/ground_truth")
    table = run_json("eval", part, tmp_path / "lot", "--report", tmp_path / "r.html")
    assert table["detection_rate"] > 0.5
    assert table["lot"] is None
    assert table["image_auroc"] is table["false_alarm_rate_measured"] is None
    assert table["pixel_auroc"] > 0.5
    assert "no false-alarm rate, AUROC or average precision" in (tmp_path / "r.html").read_text()


def test_folders_that_may_be_classes_are_asked_about_and_no_images_are_an_error(
    part: Path, parts: Path, tmp_path: Path
) -> None:
    shutil.copytree(parts / "test/spot", tmp_path / "lot/spot")
    message = error_of("eval", part, tmp_path / "lot")
    assert "has the folders spot and no part `test`, so it is not clear which images are normal" in message
    shutil.copytree(parts / "train", tmp_path / "other/train")
    assert "the test set has no images; put them into test/good" in error_of("eval", part, tmp_path / "other")


def test_another_suffix_than_html_is_refused(part: Path, parts: Path, tmp_path: Path) -> None:
    assert "end in .html" in error_of("eval", part, parts, "--report", tmp_path / "report")
    assert list(tmp_path.iterdir()) == []


def test_in_class_folders_no_normal_image_is_left_to_measure_rates_with(parts: Path, tmp_path: Path) -> None:
    folder = tmp_path / "classes"
    for kind, source in (("ok", "train/good"), ("bad", "test/spot")):
        (folder / kind).mkdir(parents=True)
        for path in sorted((parts / source).iterdir()):
            read_image(path).save(folder / kind / path.name)
    run_json("fit", folder, "--normal", "ok", "-o", tmp_path / "p.safetensors", *QUICK, "--epochs", 1)
    table = run_json("eval", tmp_path / "p.safetensors", folder, "--report", tmp_path / "r.html")
    assert table["n_left_out_trained"] > 0
    assert table["n_normal_rates"] == 0
    assert table["false_alarm_rate_measured"] is None
    assert "cannot be measured here" in (tmp_path / "r.html").read_text()


def test_areas_under_the_curves_are_printed_with_intervals(part: Path, parts: Path) -> None:
    done = oddlens("eval", part, parts)
    assert done.returncode == 0, done.stderr
    assert "image AUROC " in done.stdout
    assert "pixel AUROC " in done.stdout


def test_pixel_metrics_do_not_depend_on_how_masks_are_drawn(part: Path, parts: Path, tmp_path: Path) -> None:
    """In red, in two colours, as labels, in black on white, as JPEG: as in white on black."""
    spot = np.array(read_image(parts / "ground_truth/spot/000_mask.png")) > 0
    left = spot & (np.arange(24) < 8)
    drawings = {
        "red": spot[..., None] * np.array([255, 0, 0]),
        "two": spot[..., None] * np.array([255, 0, 0]) + left[..., None] * np.array([0, 255, 0]),
        "labels": spot * 2,
        "inverted": ~spot * 255,
    }
    detector = Detector.load(part)
    expected = evaluate(detector, open_dataset(parts).test).pixel_metrics
    for name, pixels in drawings.items():
        root = tmp_path / name
        shutil.copytree(parts / "test", root / "test")
        (root / "ground_truth/spot").mkdir(parents=True)
        for i in range(6):
            Image.fromarray(pixels.astype(np.uint8)).save(root / f"ground_truth/spot/{i:03}.png")
        assert evaluate(detector, open_dataset(root).test).pixel_metrics == expected, name


def test_masks_that_are_not_used_are_named_with_the_reason(part: Path, parts: Path, tmp_path: Path) -> None:
    root = tmp_path / "set"
    shutil.copytree(parts, root)
    masks = root / "ground_truth/spot"
    (masks / "005_mask.png").rename(masks / "defect5.png")
    Image.new("L", (24, 20)).save(masks / "004_mask.png")
    shutil.copytree(masks, root / "ground_truth/good")
    done = oddlens("eval", part, root)
    assert done.returncode == 0, done.stderr
    assert f"masks not used, as they mark no pixel of anomalous images: {masks}/004_mask.png\n" in done.stderr
    assert f"anomalous images without a mask, left out of pixel metrics: {root}/test/spot/005.png\n" in done.stderr
    table = run_json("eval", part, root)["masks"]
    assert table["n_used"] == 4
    assert table["unused"] == {
        "no test image of the same class has their name": [
            str(root / f"ground_truth/{kind}/defect5.png") for kind in ("good", "spot")
        ],
        "they mark no pixel of anomalous images": [str(masks / "004_mask.png")],
        "they mark pixels of normal images": [str(root / f"ground_truth/good/{i:03}_mask.png") for i in range(4)],
    }
    assert table["images_without_mask"] == [str(root / "test/spot/005.png")]
    Image.fromarray(np.eye(24, dtype=np.uint8) * 255).save(masks / "000_gt.png")
    assert "an image has several masks; leave one of them" in error_of("eval", part, root)


def test_real_photographs_of_mixed_sizes_with_masks_work(real_data: Path, tmp_path: Path) -> None:
    part, tiles = tmp_path / "mt.safetensors", real_data / "magnetic-tile"
    assert run_json("fit", tiles, "-o", part, *QUICK, "--epochs", 1, "--size", 32)["n_calibration"] >= 99
    table = run_json("eval", part, tiles)
    assert table["n_normal"] == len(open_dataset(tiles).test.labels) - table["n_anomalous"]
    assert 0 < table["pixel_auroc"] < 1
    assert 0 < table["aupro"] < 1


def test_an_exported_file_is_evaluated_without_pytorch(exported: Path) -> None:
    program = (
        "import sys\nfrom oddlens.cli import main\n"
        "try: main()\nfinally: assert 'torch' not in sys.modules, 'PyTorch was imported'"
    )
    command = [sys.executable, "-c", program, "eval", str(exported), "digits", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["image_auroc"] == run_json("eval", exported, "digits")["image_auroc"]
