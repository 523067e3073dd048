"""The cells of the benchmark tables: what is cached, what is made again, what an interruption leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cells as c
import pytest
import tables
from benchmark_cells import BENCHMARKS, put

from oddlens.detector.detector import Detector

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
    put(tmp_path / "cache", made, {"image_auroc": 0.9}, code="older")
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
