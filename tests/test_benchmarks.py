"""The scripts that make the tables: what is cached, what is made again, and what the tables say."""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import cells as c  # noqa: E402
import industrial  # noqa: E402
import one_class  # noqa: E402
import tables  # noqa: E402
import thumbnails  # noqa: E402
import tile_maps  # noqa: E402
from dataset_files import small_idx  # noqa: E402

from oddlens import corruptions  # noqa: E402
from oddlens.config import AutoencoderSettings, TrainingSettings  # noqa: E402
from oddlens.datasets import ImageSet, open_dataset  # noqa: E402
from oddlens.detector import Detector  # noqa: E402

KINDS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


HALF = "import pathlib, sys\npathlib.Path(sys.argv[1], 'detector.safetensors').write_text('half')\nprint('{}')"


def job(tmp_path: Path, *scripts: str) -> c.Job:
    """A job of small Python programs; each is written to a file and called with `$OUT`."""
    commands = []
    for place, text in enumerate(scripts):
        path = tmp_path / f"program{place}.py"
        path.write_text(text)
        commands.append(f"python {path} $OUT")
    return c.Job("small", tuple(commands))


def counting(tmp_path: Path) -> str:
    """A program that counts its calls."""
    return f"open({str(tmp_path / 'calls')!r}, 'a').write('x')\nprint('{{\"seconds\": {{\"fit\": 1.5}}}}')"


def calls(tmp_path: Path) -> int:
    path = tmp_path / "calls"
    return len(path.read_text()) if path.exists() else 0


def put(folder: Path, made: c.Job, *results: dict[str, Any], code: str | None = None) -> None:
    """A cell as if its commands had run."""
    cell = c.Cell(
        commands=made.commands, results=results, wall=(2.0,) * len(results), commit="abc1234",
        code=code or c.code_digest(), machine="a machine", load=0.1, versions={"python": "3.11"},
        made="2026-01-02T03:04:05+00:00",
    )  # fmt: skip
    c.Cells(folder).path(made).parent.mkdir(parents=True, exist_ok=True)
    c.Cells(folder).path(made).write_text(cell.model_dump_json())


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


# -- cells ------------------------------------------------------------------------------------------


def test_a_cell_is_made_once(tmp_path: Path) -> None:
    made = job(tmp_path, counting(tmp_path))
    for _ in range(2):
        cell = c.Cells(tmp_path / "cache").need(made)
        assert cell is not None
        assert cell.fit_seconds == 1.5
        assert cell.mark == ""
    assert calls(tmp_path) == 1


def test_fresh_makes_a_cell_anew_but_once(tmp_path: Path) -> None:
    made = job(tmp_path, counting(tmp_path))
    c.Cells(tmp_path / "cache").need(made)
    cells = c.Cells(tmp_path / "cache", fresh=True)
    assert cells.need(made) == cells.need(made)
    assert calls(tmp_path) == 2


def test_every_option_of_a_command_line_makes_another_cell() -> None:
    plain: dict[str, Any] = {"source": "cifar10", "normal": "cat", "detector": "auto", "seed": 0}
    changes: list[dict[str, Any]] = [
        {"source": "mnist"}, {"normal": "dog"}, {"detector": "dictionary"}, {"seed": 1}, {"budget": "5m"},
        {"threads": 2}, {"extra": ["--epochs", "3"]},
    ]  # fmt: skip
    keys = {c.fit_and_eval(**{**plain, **change}).key for change in [{}, *changes]}
    assert len(keys) == len(changes) + 1
    assert c.fit_and_eval(**plain).key in keys


def test_the_command_lines_are_those_of_the_docs() -> None:
    fit, evaluation = c.fit_and_eval("fashion-mnist", "ankle boot", "auto", 1, budget="60s", threads=2).commands
    assert fit == (
        "oddlens fit fashion-mnist --normal 'ankle boot' --data $DATA --detector auto --budget 60s --seed 1 "
        "--threads 2 --json -o $OUT/detector.safetensors"
    )
    assert evaluation == (
        "oddlens eval $OUT/detector.safetensors fashion-mnist --normal 'ankle boot' --data $DATA --seed 1 "
        "--threads 2 --json"
    )


def test_a_cell_that_another_command_line_made_is_not_taken(tmp_path: Path) -> None:
    made, other = job(tmp_path, counting(tmp_path)), c.Job("small", ("oddlens demo",))
    cells = c.Cells(tmp_path / "cache")
    put(cells.folder, other, {})
    cells.path(other).rename(cells.path(made))  # as if digests had met
    assert cells.cached(made) is None
    assert cells.need(made) is not None
    assert calls(tmp_path) == 1


def test_a_cell_of_older_code_is_taken_and_marked(tmp_path: Path) -> None:
    made = job(tmp_path, counting(tmp_path))
    put(tmp_path / "cache", made, metrics(0.9), code="older")
    cell = c.Cells(tmp_path / "cache").need(made)
    assert cell is not None
    assert calls(tmp_path) == 0
    assert tables.number(0.9, cell) == "0.900 †"
    assert "† made by other code than today's (commits abc1234)" in tables.provenance([cell], "typed")


@pytest.mark.parametrize("damage", ["cut off", "emptied", "without its seconds"])
def test_a_damaged_cell_is_named_and_made_anew(damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made, cells = job(tmp_path, counting(tmp_path)), c.Cells(tmp_path / "cache")
    cells.need(made)
    whole = cells.path(made).read_text()
    damaged = {"cut off": whole[:-40], "emptied": "", "without its seconds": whole.replace("wall", "well")}
    cells.path(made).write_text(damaged[damage])
    assert c.Cells(tmp_path / "cache").need(made) is not None
    assert calls(tmp_path) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "is damaged" in line]
    assert line.startswith(f"{cells.path(made)}: is damaged (")


def test_a_killed_run_loses_the_cell_in_progress_and_no_other(tmp_path: Path) -> None:
    """The second job waits in its second command, with a detector written, until it is killed."""
    folder, go = tmp_path / "cache", tmp_path / "go"
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    done = job(tmp_path / "a", counting(tmp_path))
    wait = (
        f"import pathlib, time\npathlib.Path({str(tmp_path / 'waiting')!r}).touch()\n"
        f"while not pathlib.Path({str(go)!r}).exists(): time.sleep(0.02)\nprint('{{}}')"
    )
    slow = job(tmp_path / "b", HALF, wait)
    driver = (
        f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r}); from pathlib import Path; from cells import Cells, Job\n"
        f"cells = Cells(Path({str(folder)!r}))\n"
        f"for commands in {[done.commands, slow.commands]!r}: cells.need(Job('small', commands))"
    )
    process = subprocess.Popen([sys.executable, "-c", driver], start_new_session=True, stderr=subprocess.DEVNULL)
    while not (tmp_path / "waiting").exists():
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert [path.name for path in folder.glob("*.json")] == [f"{done.key}.json"]
    assert not (folder / "detectors").exists()

    go.touch()
    cells = c.Cells(folder)
    assert cells.need(done) is not None
    assert cells.need(slow) is not None
    assert calls(tmp_path) == 1
    assert list((folder / "in-progress").iterdir()) == []


def test_a_failing_command_is_named_and_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = job(tmp_path, "import sys; sys.exit('error: there is no such class')")
    cells = c.Cells(tmp_path / "cache")
    assert cells.need(broken) is None
    assert cells.failed == ["small"]
    said = capsys.readouterr().err
    assert "error: there is no such class" in said
    assert "ended with exit code 1" in said
    assert [path for path in cells.folder.rglob("*") if path.is_file()] == []


def test_what_is_not_json_is_not_a_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert c.Cells(tmp_path / "cache").need(job(tmp_path, "print('half a {')")) is None
    assert "gave no JSON but 'half a {" in capsys.readouterr().err


def test_a_named_set_needs_the_folder_of_sets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert c.Cells(tmp_path).need(c.fit_and_eval("cifar10", "cat", "autoencoder", 0)) is None
    assert "name their folder with --data" in capsys.readouterr().err


def test_a_detector_is_kept_only_where_it_is_needed(tmp_path: Path) -> None:
    made, cells = job(tmp_path, HALF), c.Cells(tmp_path / "cache")
    cells.need(made)
    assert list(cells.folder.rglob("*.safetensors")) == []
    cells.need(made, detector=True)
    assert list(cells.folder.rglob("*.safetensors")) == [cells.detector(made)]


def test_a_real_detector_is_fitted_evaluated_and_kept(tmp_path: Path) -> None:
    made = c.fit_and_eval("digits", "3", "autoencoder", 0, threads=1, extra=["--epochs", "1"])
    cells = c.Cells(tmp_path / "cache", keep=True)
    cell = cells.need(made)
    assert cell is not None
    assert 0 < cell.fit_seconds <= cell.wall[0]
    assert 0 < cell.result["image_auroc"] < 1
    assert Detector.load(cells.detector(made)).manifest.data.normal == "3"


# -- tables -----------------------------------------------------------------------------------------


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


# -- the baseline and the maps ----------------------------------------------------------------------


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


def test_normalised_thumbnails_find_a_picture_again_in_another_light() -> None:
    dark = np.random.default_rng(0).uniform(0, 0.3, (4, 64)).astype(np.float32)
    known, again = thumbnails.normalised(dark), thumbnails.normalised(2 * dark + 0.3)
    np.testing.assert_allclose(again, known, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(known, axis=1), 1, rtol=1e-6)
    assert (thumbnails.normalised(np.full((1, 64), 0.7, dtype=np.float32)) == 0).all()


def test_the_baseline_of_what_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert thumbnails.main(["digits", "--normal", "ten"]) == 1
    assert capsys.readouterr().err.startswith("error: digits: has no class 'ten'")


@pytest.fixture(scope="module")
def woven(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder with some of the built-in tiles, in MVTec's layout, and a detector of them."""
    folder, tiles = tmp_path_factory.mktemp("woven"), open_dataset("tiles")
    for part, images in (
        ("train", tiles.train.subset(np.arange(30))),
        ("test", tiles.test.subset(np.arange(0, len(tiles.test), 8))),
    ):
        for i, kind in enumerate(images.kinds):
            for what, picture in ((part, images.image(i)[..., 0]), ("ground_truth", images.mask(i))):
                if picture is not None:
                    path = folder / what / kind / f"{i:03}{'_mask' * (what == 'ground_truth')}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(picture).save(path)
    small = AutoencoderSettings(architecture="pooling", widths=(4,))
    detector = Detector(small, training=TrainingSettings(epochs=1), size=24).fit(tiles.train.subset(np.arange(30)))
    return folder, detector.save(folder / "detector.safetensors")


def test_maps_are_drawn_of_images_chosen_by_their_place_alone(woven: tuple[Path, Path]) -> None:
    test = open_dataset(woven[0]).test
    chosen = test.subset(tile_maps.choose(test))
    odd = [kind for kind, label in zip(chosen.kinds, chosen.labels, strict=True) if label]
    assert odd == [kind for kind in dict.fromkeys(test.kinds) if kind != "good" for _ in range(2)]
    first = [name for name in test.names if "/scratch/" in name][:2]
    assert [name for name in chosen.names if "/scratch/" in name] == first
    good = [name for name in test.names if "/good/" in name]
    assert (chosen.names[-10], chosen.names[-1]) == (good[0], good[-1])
    assert len(set(chosen.names)) == len(chosen) == 20


def test_the_middle_of_the_colours_is_the_calibrated_level(woven: tuple[Path, Path]) -> None:
    folder, file = woven
    detector, test = Detector.load(file), open_dataset(folder).test
    judged = tile_maps.judge("autoencoder", detector, test.subset(tile_maps.choose(test)))
    low, high = judged.colours
    assert detector.map_level is not None
    assert (low + high) / 2 == pytest.approx(detector.map_level)
    assert low == pytest.approx(min(float(each.min()) for each in judged.maps))
    assert judged.maps[0].shape == test.image(0).shape[:2]
    assert judged.flagged.tolist() == detector.predict(test.subset(tile_maps.choose(test))).label.astype(bool).tolist()


def test_the_picture_of_maps_shows_every_image_and_every_map(woven: tuple[Path, Path], tmp_path: Path) -> None:
    folder, file = woven
    figure = tile_maps.draw({"one": file, "two": file}, folder)
    pictures = [axes for axes in figure.axes if axes.images]
    assert len(pictures) == 20 * (1 + 2) + 2  # and two scales
    outlined = [axes for axes in pictures if axes.collections]
    assert len(outlined) == 10
    tile_maps.save(figure, tmp_path / "maps.png")
    with Image.open(tmp_path / "maps.png") as saved:
        assert saved.width > 1500
