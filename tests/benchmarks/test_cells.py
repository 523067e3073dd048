"""Tests of the cells: caching, recomputation and interrupted runs."""

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

import oddlens

HALF = "import pathlib, sys\npathlib.Path(sys.argv[1], 'detector.safetensors').write_text('half')\nprint('{}')"


def make_job(tmp_path: Path, *scripts: str) -> c.Job:
    """A job of small Python scripts, each called with `$OUT`."""
    commands = []
    for number, text in enumerate(scripts):
        path = tmp_path / f"program{number}.py"
        path.write_text(text)
        commands.append(f"python {path} $OUT")
    return c.Job("small", tuple(commands))


def counting(tmp_path: Path) -> str:
    """A script that counts its calls."""
    return f"open({str(tmp_path / 'calls')!r}, 'a').write('x')\nprint('{{\"seconds\": {{\"fit\": 1.5}}}}')"


def n_calls(tmp_path: Path) -> int:
    path = tmp_path / "calls"
    return len(path.read_text()) if path.exists() else 0


def test_a_cell_is_computed_once(tmp_path: Path) -> None:
    job = make_job(tmp_path, counting(tmp_path))
    for _ in range(2):
        cell = c.Cells(tmp_path / "cache").need(job)
        assert cell is not None
        assert cell.fit_seconds == 1.5
        assert cell.mark == ""
    assert n_calls(tmp_path) == 1


def test_fresh_recomputes_a_cell_once(tmp_path: Path) -> None:
    job = make_job(tmp_path, counting(tmp_path))
    c.Cells(tmp_path / "cache").need(job)
    cells = c.Cells(tmp_path / "cache", fresh=True)
    assert cells.need(job) == cells.need(job)
    assert n_calls(tmp_path) == 2


def test_every_option_gives_another_cell() -> None:
    plain: dict[str, Any] = {"source": "cifar10", "normal": "cat", "detector": "auto", "seed": 0}
    changes: list[dict[str, Any]] = [
        {"source": "mnist"}, {"normal": "dog"}, {"detector": "dictionary"}, {"seed": 1}, {"budget": "5m"},
        {"threads": 2}, {"extra": ["--epochs", "3"]},
    ]  # fmt: skip
    keys = {c.fit_and_eval(**{**plain, **change}).key for change in [{}, *changes]}
    assert len(keys) == len(changes) + 1
    assert c.fit_and_eval(**plain).key in keys


def test_command_lines_match_the_docs() -> None:
    fit, evaluation = c.fit_and_eval("fashion-mnist", "ankle boot", "auto", 1, budget="60s", threads=2).commands
    assert fit == (
        "oddlens fit fashion-mnist --normal 'ankle boot' --data $DATA --detector auto --budget 60s --seed 1 "
        "--threads 2 --json -o $OUT/detector.safetensors"
    )
    assert evaluation == (
        "oddlens eval $OUT/detector.safetensors fashion-mnist --normal 'ankle boot' --data $DATA --seed 1 "
        "--threads 2 --json"
    )


def test_a_cell_of_another_command_line_is_ignored(tmp_path: Path) -> None:
    job, other = make_job(tmp_path, counting(tmp_path)), c.Job("small", ("oddlens demo",))
    cells = c.Cells(tmp_path / "cache")
    put(cells.folder, other, {})
    cells.path(other).rename(cells.path(job))  # as in a collision of digests
    assert cells.cached(job) is None
    assert cells.need(job) is not None
    assert n_calls(tmp_path) == 1


def test_a_cell_of_other_code_is_used_and_marked(tmp_path: Path) -> None:
    job = make_job(tmp_path, counting(tmp_path))
    put(tmp_path / "cache", job, {"image_auroc": 0.9, "seconds": {"fit": 1.0}}, code="older")
    cell = c.Cells(tmp_path / "cache").need(job)
    assert cell is not None
    assert n_calls(tmp_path) == 0
    assert tables.number(0.9, cell) == "0.900 †"
    assert "† computed by other code than today's (commits abc1234)" in tables.provenance([cell], "typed")


def test_rewording_does_not_change_the_digest_of_the_code_and_other_code_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oddlens, "__file__", str(tmp_path / "__init__.py"))
    module, digests = tmp_path / "module.py", []
    for text in ("def f(x):\n    return x", "def f(x):\n    'A line.'\n    return x  # so", "def f(x):\n    return -x"):
        module.write_text(text)
        digests.append(c.code_digest.__wrapped__())
    assert digests[0] == digests[1] != digests[2]


def test_json_is_computed_once(tmp_path: Path) -> None:
    assert c.cached_json(tmp_path / "a.json", lambda: [1]) == c.cached_json(tmp_path / "a.json", lambda: [2]) == [1]


@pytest.mark.parametrize("damage", ["cut off", "emptied", "without its seconds"])
def test_a_damaged_cell_is_reported_and_recomputed(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job, cells = make_job(tmp_path, counting(tmp_path)), c.Cells(tmp_path / "cache")
    cells.need(job)
    whole = cells.path(job).read_text()
    damaged = {"cut off": whole[:-40], "emptied": "", "without its seconds": whole.replace("wall", "well")}
    cells.path(job).write_text(damaged[damage])
    assert c.Cells(tmp_path / "cache").need(job) is not None
    assert n_calls(tmp_path) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "is damaged" in line]
    assert line.startswith(f"{cells.path(job)}: is damaged (")


def test_a_killed_run_loses_only_the_cell_in_progress(tmp_path: Path) -> None:
    """The second job is killed in its second command, after the first has written a detector file."""
    folder, go = tmp_path / "cache", tmp_path / "go"
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    done = make_job(tmp_path / "a", counting(tmp_path))
    wait = (
        f"import pathlib, time\npathlib.Path({str(tmp_path / 'waiting')!r}).touch()\n"
        f"while not pathlib.Path({str(go)!r}).exists(): time.sleep(0.02)\nprint('{{}}')"
    )
    slow = make_job(tmp_path / "b", HALF, wait)
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

    go.touch()
    cells = c.Cells(folder)
    assert cells.need(done) is not None
    assert cells.need(slow) is not None
    assert n_calls(tmp_path) == 1
    assert list((folder / "in-progress").iterdir()) == []


def test_a_failing_command_is_reported_and_leaves_no_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = make_job(tmp_path, "import sys; sys.exit('error: there is no such class')")
    cells = c.Cells(tmp_path / "cache")
    assert cells.need(broken) is None
    assert cells.failed == ["small"]
    stderr = capsys.readouterr().err
    assert "error: there is no such class" in stderr
    assert "failed with exit code 1" in stderr
    assert [path for path in cells.folder.rglob("*") if path.is_file()] == []


def test_output_that_is_not_json_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert c.Cells(tmp_path / "cache").need(make_job(tmp_path, "print('half a {')")) is None
    assert "printed no JSON but 'half a {" in capsys.readouterr().err


def test_a_named_data_set_needs_the_data_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert c.Cells(tmp_path).need(c.fit_and_eval("cifar10", "cat", "autoencoder", 0)) is None
    assert "pass their folder with --data" in capsys.readouterr().err


def test_a_detector_is_fitted_and_evaluated(tmp_path: Path) -> None:
    job = c.fit_and_eval("digits", "3", "autoencoder", 0, threads=1, extra=["--epochs", "1"])
    cells = c.Cells(tmp_path / "cache")
    cell = cells.need(job)
    assert cell is not None
    assert 0 < cell.fit_seconds <= cell.wall[0]
    assert 0 < cell.result["image_auroc"] < 1
    assert [path.name for path in cells.folder.rglob("*") if path.is_file()] == [f"{job.key}.json"]
