"""The scripts that make the benchmark tables: what the tables and the baseline say."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any

import cells as c
import industrial
import numpy as np
import one_class
import pytest
import tables
import thumbnails
from benchmark_cells import BENCHMARKS, put
from dataset_files import small_idx

from oddlens.data.image_set import ImageSet
from oddlens.evaluation import corruptions

KINDS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def metrics(auroc: float, **more: Any) -> dict[str, Any]:
    return {
        "image_auroc": auroc, "image_auroc_ci": [auroc - 0.01, auroc + 0.01], "false_alarm_rate": 0.01,
        "false_alarm_rate_measured": 0.008, "detection_rate": 0.5, "per_class": {}, **more,
    }  # fmt: skip


def baseline(small: float, large: float, **kinds: float) -> dict[str, Any]:
    return {name: {"image_auroc": small if name[0] == "8" else large, "per_class": kinds} for name in tables.THUMBNAILS}


def rows(text: str) -> dict[str, list[str]]:
    """The lines of Markdown tables by their first column."""
    lines = [[part.strip() for part in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return {line[0]: line[1:] for line in lines}


def cifar(folder: Path, budget: str | None = "5m") -> None:
    """Made-up cells of all ten classes: 0.90 for the first, 0.01 more for each next one; airplane with three seeds."""
    for place, kind in enumerate(KINDS):
        repeated = (0, 1, 2) if kind == "airplane" else (0,)
        for seed in repeated:
            fit = {"seconds": {"fit": 200.0 + place + 50 * seed}}
            put(folder, c.fit_and_eval("cifar10", kind, "auto", seed, budget=budget), fit,
                metrics(0.90 + place / 100 + seed * 0.02))  # fmt: skip
        put(folder, c.thumbnails("cifar10", kind), baseline(0.55, 0.6))
    put(folder, c.fit_and_eval("cifar10", "airplane", "autoencoder", 0), {"seconds": {"fit": 999.0}}, metrics(0.664))


def test_the_class_table_has_every_class_its_mean_and_its_spread(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cifar(tmp_path)
    assert one_class.main(["--set", "cifar10", "--print", "--cache", str(tmp_path)]) == 0
    found = rows(capsys.readouterr().out)
    assert [kind for kind in KINDS if kind in found] == list(KINDS)
    airplane, truck, mean = found["airplane"], found["truck"], found["**mean** of 10"]
    assert airplane == [
        "0.900", "0.890 to 0.910", "0.920 ± 0.020 (3)", "0.8% (1.0%)", "50.0%", "300.0", "0.664",
        "0.550 / 0.600", "0.550 / 0.600",
    ]  # fmt: skip
    assert truck[2] == "–"
    assert truck[6] == "–"
    assert mean == ["**0.945**", "", "", "0.8%", "50.0%", "longest 300.0", "0.664 (1 of 10)", *["0.550 / 0.600"] * 2]


def test_published_numbers_stand_beside_ours_in_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cifar(tmp_path)
    one_class.main(["--set", "cifar10", "--print", "--cache", str(tmp_path)])
    found = rows(capsys.readouterr().out)
    methods = list(found)
    assert found["**oddlens, auto**"] == ["94.5", "90.0", "from scratch"]
    assert found["PANDA"] == ["96.2", "–", "pretrained elsewhere"]
    assert methods.index("CSI") + 1 == methods.index("**oddlens, auto**") == methods.index("UniCon-HA") - 1


def test_a_table_with_holes_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cifar(tmp_path)
    c.Cells(tmp_path).path(c.fit_and_eval("cifar10", "truck", "auto", 0, budget="5m")).unlink()
    one_class.main(["--set", "cifar10", "--print", "--cache", str(tmp_path)])
    found = rows(capsys.readouterr().out)
    assert found["**mean** of 10"][0] == "**0.940** (9 of 10)"
    assert found["truck"][0] == "–"
    assert "CSI" not in found  # a mean of nine classes is not comparable


def test_cells_of_another_budget_are_not_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cifar(tmp_path, budget="60s")
    one_class.main(["--set", "cifar10", "--print", "--cache", str(tmp_path)])
    assert rows(capsys.readouterr().out)["airplane"][0] == "–"
    one_class.main(["--set", "cifar10", "--budget", "60s", "--print", "--cache", str(tmp_path)])
    assert rows(capsys.readouterr().out)["airplane"][0] == "0.900"


def test_printing_runs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "cache"
    assert one_class.main(["--set", "mnist", "mnist-all", "--print", "--cache", str(folder)]) == 0
    assert industrial.main(["--set", "tiles", "--print", "--fresh", "--cache", str(folder)]) == 0
    assert capsys.readouterr().out.count("No cell is there yet") == 3
    assert not folder.exists()


def test_below_a_table_stands_how_it_was_made_without_places_of_this_machine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cifar(tmp_path)
    one_class.main(["--set", "cifar10", "--data", "/home/me/data", "--print", f"--cache={tmp_path}", "--threads=2"])
    capsys.readouterr()
    one_class.main(["--set", "cifar10", "--data", "/home/me/data", "--print", f"--cache={tmp_path}"])
    text = capsys.readouterr().out
    assert "Table: `python benchmarks/one_class.py --set cifar10 --data $DATA`." in text
    assert "oddlens fit cifar10 --normal airplane --data $DATA --detector auto --budget 5m --seed 0 --json" in text
    assert "Longest fit: 300.0 s by its own count (`seconds.fit`), 2.0 s for the whole process." in text
    assert "Machine: a machine; load before the cells 0.1 to 0.1." in text
    assert "/home/me" not in text
    assert str(tmp_path) not in text


def test_the_table_of_all_digits_averages_what_is_not_turned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    aurocs = {"noise": 1.0, "hole": 0.86, "blank": 0.99, "quarter_turn": 0.6, "upside_down": 0.5}
    per_class: dict[str, Any] = {
        kind: {"auroc": auroc, "detection_rate": 0.4, "n": 10} for kind, auroc in aurocs.items()
    }
    per_class["normal"] = {"auroc": None, "detection_rate": 0.01, "n": 10}
    words = ["--set", "mnist-all", "--print", "--cache", str(tmp_path)]
    made = c.Job("mnist-all-auto-s0", ("oddlens run mnist --detector auto --data $DATA --seed 0 --json --out $OUT",))
    put(tmp_path, made, metrics(0.8, per_class=per_class, seconds={"fit": 250.0}))
    put(tmp_path, c.thumbnails("mnist", recipe="mnist"), baseline(0.7, 0.7, noise=0.9, hole=0.5, blank=0.1))
    one_class.main(words)
    text = capsys.readouterr().out
    found = rows(text)
    assert found["hole"] == ["0.860", "40.0%", "–", *["0.500 / 0.500"] * 2]
    assert found["**mean** without quarter_turn and upside_down"][0] == "0.950"
    assert found["**mean** without quarter_turn and upside_down"][3] == "0.500 / 0.500"
    assert found["lowest of them: hole"][0] == "0.860"
    assert "normal" not in found
    assert "`seconds.fit` 250.0" in text


def test_all_digits_take_no_budget(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        one_class.main(["--set", "mnist-all", "--budget", "60s", "--print"])
    assert "takes no --budget" in capsys.readouterr().err


def test_the_industrial_table_has_pixels_baselines_and_the_remark(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = "$DATA/magnetic-tile"
    kinds = {
        "good": {"auroc": None, "detection_rate": 0.0, "n": 9},
        "crack": {"auroc": 0.95, "detection_rate": 0.3, "n": 7},
    }
    ours = metrics(0.9, pixel_auroc=0.85, aupro=0.7, per_class=kinds)
    put(tmp_path, c.fit_and_eval(source, None, "auto", 0, budget="15m"), {"seconds": {"fit": 800.0}}, ours)
    put(tmp_path, c.thumbnails(source), baseline(0.68, 0.66, crack=0.6))
    assert industrial.main(["--set", "magnetic-tile", "--print", "--cache", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    found = rows(text)
    assert found["**auto**"] == ["0.900", "0.890 to 0.910", "0.850", "0.700", "0.8% (1.0%)", "50.0%", "800.0"]
    assert found["nearest thumbnail, 8 normalised"][0] == "0.680"
    assert found["crack"] == ["7", "0.950", "30.0%", "–", *["0.600 / 0.600"] * 2]
    assert (
        list(found).index("1-NN on features") < list(found).index("**oddlens, auto**") < list(found).index("DifferNet")
    )
    assert found["PatchCore"] == ["97.9", "pretrained elsewhere"]
    assert "probably come from leaking random splits" in text


def test_one_failed_cell_does_not_end_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "--set",
        "mnist",
        "--detector",
        "autoencoder",
        "--classes",
        "3",
        "--cache",
        str(tmp_path),
        "--threads",
        "1",
    ]
    small_idx(tmp_path / "MNIST/raw")
    put(tmp_path, c.thumbnails("mnist", "3"), baseline(0.9, 0.95))
    assert one_class.main([*words, "--data", str(tmp_path), "--", "--no-such-option"]) == 1
    out, err = capsys.readouterr()
    assert rows(out)["3"][-1] == "0.900 / 0.950"
    assert "error: 1 cells failed: mnist-3-autoencoder-s0" in err


@pytest.mark.usefixtures("no_data_elsewhere")
def test_a_set_whose_files_are_missing_is_named_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--set", "fashion-mnist", "--data", str(tmp_path), "--cache", str(tmp_path / "cache")]
    assert one_class.main(words) == 1
    out, err = capsys.readouterr()
    assert rows(out)["ankle boot"][0] == "–"
    assert len([line for line in err.splitlines() if "FashionMNIST/raw" in line]) == 1
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("script", ["one_class", "industrial"])
def test_every_option_is_in_the_readme(script: str, capsys: pytest.CaptureFixture[str]) -> None:
    readme = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
    with pytest.raises(SystemExit):
        importlib.import_module(script).main(["--help"])
    options = set(re.findall(r"(?<![\w-])--[a-z]+", capsys.readouterr().out)) - {"--help"}
    assert len(options) > 8
    assert {option for option in options if f"| `{option}` |" not in readme} == set()


# -- the baseline -----------------------------------------------------------------------------------


def test_the_baseline_gives_each_kind_its_own_auroc() -> None:
    pixels = np.zeros((5, 8, 8, 1), dtype=np.uint8)
    test = ImageSet.from_array(pixels, kind=["good", "good", "near", "far", "far"], label=[0, 0, 1, 1, 1])
    found = thumbnails.aurocs(test, np.array([1.0, 3.0, 2.0, 4.0, 5.0]))
    assert found["per_class"] == {"near": 0.5, "far": 1.0}
    assert found["image_auroc"] == pytest.approx(5 / 6)


def test_the_baseline_prints_json_of_real_pictures(capsys: pytest.CaptureFixture[str]) -> None:
    assert thumbnails.main(["digits", "--normal", "0"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["8"]["image_auroc"] > 0.95  # digits are 8 x 8 themselves
    assert set(found["32"]["per_class"]) == set("123456789")


@pytest.mark.usefixtures("no_data_elsewhere")
def test_the_baseline_of_a_recipe_sees_what_the_recipe_shows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small_idx(tmp_path / "MNIST/raw")
    assert thumbnails.main(["mnist", "--recipe", "mnist", "--data", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert set(json.loads(out)["8"]["per_class"]) == {*corruptions.DISTORTIONS, *corruptions.PATTERNS}
    assert "left out the pictures of cifar10" in err


def test_the_baseline_of_what_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert thumbnails.main(["digits", "--normal", "ten"]) == 1
    assert capsys.readouterr().err.startswith("error: digits: has no class 'ten'")
