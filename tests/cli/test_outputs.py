"""Commands replace and remove only what oddlens wrote, write no images among the data, and refuse before they work."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import QUICK, invoke, run_json
from PIL import Image

from oddlens.cli.console import Console
from oddlens.data.open import open_dataset
from oddlens.detector.detector import Detector
from oddlens.errors import MissingExtraError, OddlensError, SettingsError
from oddlens.io.own_folder import find_working_folders, lock

ONE_THREAD = ("--threads", 1)


def snapshot(folder: Path) -> dict[str, bytes]:
    """The content of all files below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def folder(parts: Path, part: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with images (`n`), labelled ones (`c`) and a detector of them (`d.safetensors`)."""
    shutil.copytree(parts / "test/good", tmp_path / "n")
    shutil.copytree(parts / "test", tmp_path / "c")
    shutil.copy(part, tmp_path / "d.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(folder: str = ".") -> list[str]:
    """The names of what is in a folder, sorted."""
    return sorted(path.name for path in Path(folder).iterdir())


def fit(*arguments: object) -> Any:
    return invoke("fit", "n", "-o", "new.safetensors", *QUICK, "--epochs", 2, *ONE_THREAD, *arguments)


def test_fitting_leaves_a_users_folder_that_is_named_like_a_working_folder(folder: Path) -> None:
    for name in ("new.training", "new.12345678.training"):
        shutil.copytree("n", name)
    before = snapshot(folder)
    fit()
    assert {name: content for name, content in snapshot(folder).items() if name != "new.safetensors"} == before
    assert invoke("fit", "new.training", "-o", "new.safetensors", *QUICK, "--epochs", 1).exit_code == 0
    assert len(list(Path("new.training").iterdir())) == 12


class TestInterrupted:
    """A fit that is interrupted says how it continues, and does so."""

    @pytest.fixture(autouse=True)
    def interrupt(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "argv", ["oddlens", "fit", "n", "-o", "new.safetensors"])

        def at_the_second_epoch(console: Console, step: Any) -> None:
            if step.epoch == 2:
                raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Console, "training", at_the_second_epoch)
            self.result = fit()

    def test_it_says_how_to_continue(self) -> None:
        assert self.result.exit_code == 1
        assert self.result.stderr == "interrupted; to continue: oddlens fit --resume n -o new.safetensors\n"
        (folder,) = find_working_folders(Path("new.safetensors"))
        assert (folder / "checkpoints/epoch-000001.safetensors").exists()
        assert not Path("new.safetensors").exists()

    def test_it_continues_and_the_working_folder_goes(self) -> None:
        result = json.loads(fit("--resume", "--json").stdout)
        assert result["history"]["epochs"] == 2
        assert names() == ["c", "d.safetensors", "n", "new.safetensors"]

    def test_without_resume_it_starts_over_and_says_so(self) -> None:
        assert "left by an interrupted run; starting over (--resume continues it)" in fit().stderr
        assert names() == ["c", "d.safetensors", "n", "new.safetensors"]

    def test_another_output_does_not_continue_it(self) -> None:
        result = invoke("fit", "n", "-o", "other.safetensors", *QUICK, "--epochs", 1, "--resume")
        assert "other.safetensors: no interrupted run to resume; training from the start" in result.stderr
        assert len(find_working_folders(Path("new.safetensors"))) == 1

    def test_a_working_folder_is_no_data(self) -> None:
        (folder,) = find_working_folders(Path("new.safetensors"))
        shutil.move(str(folder), "c")
        assert sorted(set(open_dataset("c", normal="good").test.kinds)) == ["good", "spot"]


def test_a_fit_that_is_interrupted_before_its_first_checkpoint_leaves_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def at_once(console: Console, step: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Console, "training", at_once)
    result = fit()
    assert (result.exit_code, result.stderr) == (1, "interrupted\n")
    assert names() == ["c", "d.safetensors", "n"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_ctrl_c_at_a_real_process_gives_one_line_and_exit_code_1(folder: Path) -> None:
    program = (  # a process that is started in the background ignores the signal
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from oddlens.cli import main; main()"
    )
    arguments = ["fit", "n", "-o", "new.safetensors", *QUICK, "--epochs", "100000"]
    command = [sys.executable, "-c", program, *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        while not list(folder.glob("new.*.training/checkpoints/epoch-*")) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        try:
            stdout, stderr = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 1
    assert stdout == ""
    assert stderr.splitlines()[-1].startswith("interrupted; to continue: oddlens fit --resume n -o new.safetensors")
    assert "Traceback" not in stderr


def test_an_interrupted_scoring_says_how_to_continue(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["oddlens", "score", "d.safetensors", "n", "-o", "v.csv"])
    monkeypatch.setattr(Console, "counting", _interrupt_when_something_is_done)
    result = invoke("score", "d.safetensors", "n", "-o", "v.csv")
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (
        1, "interrupted; to continue: oddlens score --resume d.safetensors n -o v.csv"
    )  # fmt: skip
    monkeypatch.undo()
    assert json.loads(invoke("score", folder / "d.safetensors", folder / "n", "-o", folder / "v.csv", "--resume",
                             "--json").stdout)["resumed"] == 12  # fmt: skip


def _interrupt_when_something_is_done(console: Console, what: str, total: int, done: int) -> None:
    if done:
        raise KeyboardInterrupt


def test_the_drift_figure_replaces_no_picture(folder: Path) -> None:
    for name in ("line3.png", "line3.json.png"):
        shutil.copy("n/000.png", name)
    before = snapshot(folder)
    with pytest.raises(SettingsError, match=r"line3\.json\.png: was not written by oddlens"):
        invoke("score", "d.safetensors", "n", "-o", "v.csv", "--watch-drift", "line3.json")
    assert snapshot(folder) == before
    Path("line3.json.png").unlink()
    for _ in range(2):
        assert invoke("score", "d.safetensors", "n", "-o", "v.csv", "--watch-drift", "line3.json").exit_code == 0
    assert snapshot(folder)["line3.png"] == before["line3.png"]
    assert sorted(set(snapshot(folder)) - set(before)) == ["line3.json", "v.csv"]


@pytest.mark.parametrize("state", ["state.png", "state", "state.csv", "n/000.png"])
def test_a_drift_state_that_is_not_json_is_refused_before_scoring(folder: Path, state: str) -> None:
    before = snapshot(folder)
    with pytest.raises(SettingsError, match=r"the states of --watch-drift end in \.json"):
        invoke("score", "d.safetensors", "n", "-o", "v.csv", "--watch-drift", state)
    assert snapshot(folder) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "n", "--budget", "0", "--html", "n/page.html"),
        ("eval", "d.safetensors", "c", "--report", "c/report.html"),
        ("eval", "d.safetensors", "./c", "--report", "c/spot/report.html"),
        ("score", "d.safetensors", "n", "--report", "n/report.html"),
        ("compare", "c", "--detectors", "dictionary", "--report", "c/report.html"),
        ("run", "lot.toml", "--out", "out", "--report", "c/report.html"),
        ("score", "d.safetensors", "n", "--maps", "n"),
        ("score", "d.safetensors", "n", "c", "--maps", "c/maps"),
        ("score", "d.safetensors", "n", "-o", "v.csv", "--watch-drift", "n/line3.json"),
        ("compare", "c", "--detectors", "dictionary", "-o", "c/board.png"),
        ("run", "lot.toml", "--out", "c"),
        ("run", "lot.toml", "--out", "c/runs/lot"),
    ],
)
def test_pages_figures_and_maps_are_refused_among_the_data(folder: Path, arguments: tuple[str, ...]) -> None:
    Path("lot.toml").write_text('name = "lot"\n[data]\nsource = "c"\nnormal = "good"\n')
    before = snapshot(folder)
    with pytest.raises(SettingsError, match="which is read as data, so that it would be read as data too"):
        invoke(*arguments)
    assert snapshot(folder) == before


def test_detectors_and_verdicts_are_allowed_among_the_data(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder / "n")
    assert invoke("fit", ".", "-o", "part.safetensors", *QUICK, "--epochs", 1).exit_code == 0
    assert names() == sorted([*(f"{i:03}.png" for i in range(12)), "part.safetensors"])
    result = invoke("score", "part.safetensors", ".", "-o", "v.csv")
    assert "left out, not an image: ./part.safetensors" in result.stderr
    assert len(Path("v.csv").read_text().splitlines()) == 13
    again = json.loads(invoke("score", "part.safetensors", ".", "--json").stdout)
    assert again["n"] == 12
    assert again["left_out"] == {"not an image": ["./part.safetensors", "./v.csv"]}


@pytest.mark.parametrize("report", ["r.html", "out/report.html", "./out/../out/report.html"])
def test_a_run_can_be_repeated_wherever_its_report_goes(folder: Path, report: str) -> None:
    Path("lot.toml").write_text('name = "lot"\n[data]\nsource = "c"\nnormal = "good"\n[training]\nepochs = 1\n')
    for _ in range(2):
        result = invoke("run", "lot.toml", "--out", "out", "--report", report, "--json", *ONE_THREAD)
        assert result.exit_code == 0
        assert Path(json.loads(result.stdout)["files"]["report"]).resolve() == Path(report).resolve()
        assert Path(report).exists()
    assert Path("out/report.html").exists() == (report != "r.html")


@pytest.mark.parametrize("options", [(), ("-o", "v.csv")])
def test_a_report_of_scores_is_one_more_file(folder: Path, options: tuple[str, ...]) -> None:
    before = set(snapshot(folder))
    result = json.loads(invoke("score", "d.safetensors", "n", *options, "--report", "r.html", "--json").stdout)
    assert result["files"]["report"] == "r.html"
    assert set(snapshot(folder)) - before == {"r.html", *options[1:]}


def test_a_report_leaves_out_what_could_not_be_read(folder: Path) -> None:
    Path("n/005.png").write_bytes(b"broken")
    result = json.loads(
        invoke("score", "d.safetensors", "n", "--skip-unreadable", "--report", "r.html", "--json").stdout
    )
    assert (result["n"], result["skipped"]) == (11, ["n/005.png"])
    page = Path("r.html").read_text()
    assert "of 11 images" in page
    assert "n/006.png" in page
    assert "n/005.png" not in page


def test_a_report_without_jinja2_is_refused_before_any_work(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    for arguments in (("eval", "d.safetensors", "c"), ("score", "d.safetensors", "n"), ("compare", "c")):
        with pytest.raises(MissingExtraError, match="writing a report"):
            invoke(*arguments, "--report", "r.html")


def test_a_page_beside_the_data_is_one_file(folder: Path) -> None:
    before = snapshot(folder)
    assert invoke("check", "n", "--budget", "0", "--html", "n.html").exit_code == 0
    assert set(snapshot(folder)) - set(before) == {"n.html"}


def test_maps_are_not_scored_as_images(folder: Path) -> None:
    files = sorted(str(path) for path in Path("n").iterdir())
    invoke("score", "d.safetensors", *files, "-o", "v.csv", "--maps", "n")  # by name, so `n` is not read as a folder
    assert len(names("n")) == 24
    for sources in (["n"], sorted(f"n/{name}" for name in names("n"))):
        result = json.loads(invoke("score", "d.safetensors", *sources, "--json").stdout)
        assert result["n"] == 12
        assert len(result["left_out"]["made by oddlens"]) == 12
    fitted = json.loads(fit("--json").stdout)
    assert fitted["n_training"] + fitted["n_calibration"] == 12


def test_maps_replace_older_maps_but_no_other_picture(folder: Path) -> None:
    for _ in range(2):
        assert invoke("score", "d.safetensors", "n", "-o", "v.csv", "--maps", "maps").exit_code == 0
    shutil.copy("n/000.png", "maps/005_map.png")
    before = snapshot(folder)
    with pytest.raises(SettingsError, match=r"maps/005_map\.png: was not written by oddlens and would be replaced"):
        invoke("score", "d.safetensors", "n", "-o", "v.csv", "--maps", "maps")
    assert snapshot(folder) == before


def test_outputs_of_one_command_need_different_names(folder: Path) -> None:
    with pytest.raises(SettingsError, match="-o, --maps and --watch-drift need different names"):
        invoke("score", "d.safetensors", "n", "-o", "w.csv", "--maps", "w.csv")


def test_two_runs_in_one_folder_are_refused(folder: Path) -> None:
    Path("lot.toml").write_text('name = "lot"\n[data]\nsource = "c"\nnormal = "good"\n[training]\nepochs = 1\n')
    Path("out").mkdir()
    with lock(Path("out")), pytest.raises(SettingsError, match="out: another run is writing there"):
        invoke("run", "lot.toml", "--out", "out", *ONE_THREAD)
    assert names("out") == []


def test_a_run_that_was_killed_before_a_file_was_recorded_can_be_repeated(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(*_: object) -> None:
        raise KeyboardInterrupt

    Path("lot.toml").write_text('name = "lot"\n[data]\nsource = "c"\nnormal = "good"\n[training]\nepochs = 1\n')
    with monkeypatch.context() as patch:
        patch.setattr("oddlens.recipes.run.record", kill)
        assert invoke("run", "lot.toml", "--out", "out", *ONE_THREAD).exit_code == 1
    assert invoke("run", "lot.toml", "--out", "out", *ONE_THREAD).exit_code == 0


def test_a_table_that_is_read_is_not_replaced(folder: Path) -> None:
    Path("cameras.csv").write_text("file,camera\n" + "".join(f"n/{i:03}.png,left\n" for i in range(12)))
    with pytest.raises(SettingsError, match=r"cameras\.csv: is read by this command and would be replaced"):
        invoke("score", "d.safetensors", "n", "-o", "cameras.csv", "--group-by", "cameras.csv:camera")


@pytest.mark.parametrize(
    ("arguments", "output"),
    [
        (("fit", "n", *QUICK, "-o"), "x.safetensors"),
        (("score", "d.safetensors", "n", "-o"), "x.csv"),
        (("score", "d.safetensors", "n", "--watch-drift"), "x.json"),
        (("score", "d.safetensors", "n", "--report"), "x.html"),
        (("compare", "c", "--detectors", "dictionary", "--report"), "x.html"),
        (("eval", "d.safetensors", "c", "--report"), "x.html"),
        (("check", "n", "--html"), "x.html"),
        (("compare", "c", "--detectors", "dictionary", "-o"), "x.png"),
        (("export", "d.safetensors", "-o"), "x.onnx"),
        (("threshold", "d.safetensors", "--false-alarm-rate", "0.1", "-o"), "x.safetensors"),
        (("calibrate", "d.safetensors", "n", "-o"), "x.safetensors"),
        (("feedback", "d.safetensors", "judged.csv", "-o"), "x.safetensors"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_before_anything_is_read(
    folder: Path, arguments: tuple[str, ...], output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the output was to be refused before")

    monkeypatch.setattr("oddlens.detector.detector.Detector.load", refuse)
    monkeypatch.setattr("oddlens.data.open.open_training_images", refuse)
    monkeypatch.setattr("oddlens.data.open.open_dataset", refuse)
    Path("models").touch()
    Path("late" + Path(output).suffix).mkdir()
    for path in (
        f"models/{output}",
        f"models/deep/{output}",
        "late" + Path(output).suffix,
        "x" * 300 + Path(output).suffix,
    ):
        with pytest.raises(OddlensError, match=r"cannot be written|is a folder"):
            invoke(*arguments, path)


def test_a_run_refuses_what_it_cannot_write_and_what_it_did_not(folder: Path) -> None:
    recipe = 'name = "lot"\n[data]\nsource = "c"\nnormal = "good"\n[training]\nepochs = 1\n'
    Path("lot.toml").write_text(recipe)
    Path("file").touch()
    with pytest.raises(OddlensError, match="file: cannot be written"):
        invoke("run", "lot.toml", "--out", "file")
    for name in ("report.html", "verdicts.csv", "metrics.json", "history.jsonl", "figures/a.png"):
        path = Path("out", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("the user's")
        before = snapshot(folder)
        with pytest.raises(SettingsError, match=r"was not written by oddlens.*choose another folder"):
            invoke("run", "lot.toml", "--out", "out", *ONE_THREAD)
        assert snapshot(folder) == before
        shutil.rmtree("out")


def test_a_run_replaces_its_own_files_until_somebody_changes_them(folder: Path) -> None:
    recipe = 'name = "lot"\n[data]\nsource = "c"\nnormal = "good"\n[training]\nepochs = 1\n'
    Path("lot.toml").write_text(recipe)
    Path("out").mkdir()
    Path("out/notes.txt").write_text("the user's")
    for _ in range(2):
        assert invoke("run", "lot.toml", "--out", "out", *ONE_THREAD).exit_code == 0
    assert Path("out/notes.txt").read_text() == "the user's"
    Path("out/verdicts.csv").write_text("file,remark\n")
    with pytest.raises(SettingsError, match=r"out/verdicts\.csv: was not written by oddlens, or was changed since"):
        invoke("run", "lot.toml", "--out", "out", *ONE_THREAD)


def test_the_home_folder_is_expanded_in_paths(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    result = invoke(
        "score", "~/d.safetensors", "~/n", "-o", "~/v.csv", "--watch-drift", "~/line3.json", "--maps", "~/m"
    )
    assert result.exit_code == 0
    assert {"v.csv", "line3.json", "m"} <= set(names(str(folder)))
    Path("cameras.csv").write_text("file,camera\n" + "".join(f"n/{i:03}.png,left\n" for i in range(12)))
    Image.new("L", (24, 20), 255).save("roi.png")
    groups, region = ("--group-by", "~/cameras.csv:camera"), ("--roi", "~/roi.png")
    assert invoke("fit", "~/n", "-o", "~/e.safetensors", *QUICK, "--epochs", 1, *groups, *region).exit_code == 0
    Path("lot.toml").write_text('name = "lot"\n[data]\nsource = "~/c"\nnormal = "good"\n[training]\nepochs = 1\n')
    assert invoke("run", "~/lot.toml", "--out", "~/out", *ONE_THREAD).exit_code == 0
    assert Detector.load("~/e.safetensors").save("~/f.safetensors") == folder / "f.safetensors"
    assert not (folder / "~").exists()


def test_an_output_that_is_a_link_is_written_through_it(folder: Path) -> None:
    Path("v.csv").symlink_to("elsewhere.csv")
    invoke("score", "d.safetensors", "n", "-o", "v.csv")
    assert Path("v.csv").is_symlink()
    assert len(Path("elsewhere.csv").read_text().splitlines()) == 13


def test_what_is_left_out_is_said_and_is_in_the_json(folder: Path) -> None:
    rng = np.random.default_rng(0)
    with Path("n/dent").open("wb") as file:
        Image.fromarray(rng.integers(0, 255, (20, 24), dtype=np.uint8)).save(file, format="JPEG")
    for i in range(12):
        Path(f"n/{i}.txt").write_text("shift 2")
    result = invoke("score", "d.safetensors", "n", "-o", "v.csv")
    assert "left out, not an image: n/0.txt, n/1.txt" in result.stderr
    assert "n/9.txt and 2 more" in result.stderr
    assert "n/dent" in Path("v.csv").read_text()
    expected = {"not an image": [f"n/{i}.txt" for i in range(12)]}
    assert run_json("check", folder / "n", "--budget", "0")["left_out"] == {
        reason: [str(folder / path) for path in paths] for reason, paths in expected.items()
    }
    assert json.loads(fit("--json").stdout)["left_out"] == expected
    assert (
        json.loads(invoke("calibrate", "d.safetensors", "n", "-o", "e.safetensors", "--json").stdout)["left_out"]
        == expected
    )
    Path("c/notes.txt").write_text("?")
    evaluated = json.loads(invoke("eval", "d.safetensors", "c", "--json").stdout)
    assert evaluated["left_out"] == {"not an image": ["c/notes.txt"]}


def test_a_folder_with_the_name_of_a_data_set_is_asked_about(folder: Path) -> None:
    shutil.copytree("n", "digits")
    with pytest.raises(OddlensError, match=r"write \./digits for the folder, or dataset:digits for the data set"):
        invoke("fit", "digits", "-o", "new.safetensors", *QUICK)
    assert invoke("check", "./digits", "--budget", "0").stdout.startswith("12 normal training images")
