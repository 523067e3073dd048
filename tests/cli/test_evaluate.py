"""`oddlens eval`: the metrics table and the report."""

from __future__ import annotations

from pathlib import Path

from command_line import QUICK, error_of, oddlens, run_json
from PIL import Image

from oddlens.data.open import open_dataset


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


def test_real_photographs_of_mixed_sizes_with_masks_work(real_data: Path, tmp_path: Path) -> None:
    part, tiles = tmp_path / "mt.safetensors", real_data / "magnetic-tile"
    assert run_json("fit", tiles, "-o", part, *QUICK, "--epochs", 1, "--size", 32)["n_calibration"] >= 99
    table = run_json("eval", part, tiles)
    assert table["n_normal"] == len(open_dataset(tiles).test.labels) - table["n_anomalous"]
    assert 0 < table["pixel_auroc"] < 1
    assert 0 < table["aupro"] < 1
