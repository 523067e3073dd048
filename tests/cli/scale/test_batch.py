"""`oddlens batch`: the rows of `oddlens score`, a summary, and a clear word where something is wrong."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
from command_line import invoke, run_json
from digit_batches import ThreadEngine, write_digits, write_list
from typer.testing import CliRunner

from oddlens.batch import batch_job
from oddlens.batch.batch_job import BatchJob, BatchSummary
from oddlens.batch.shards import Shard
from oddlens.cli import app
from oddlens.cli.console import Console
from oddlens.cli.scale import batch as command
from oddlens.conformal.lot import Lot
from oddlens.data.image_set import DataSet
from oddlens.detector.detector import Detector
from oddlens.errors import ArtifactError, OddlensError

N, SHARD = 300, 256


@pytest.fixture(scope="module")
def folder(digits: DataSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(digits, tmp_path_factory.mktemp("images"), N)


@pytest.fixture(scope="module")
def manifest(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_list(folder, tmp_path_factory.mktemp("list") / "m.parquet")


@pytest.fixture
def in_threads(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Shard], object]], None]:
    """Run the workers of the command in threads of this process; gives a way to disturb them."""

    def use(before: Callable[[Shard], object] = lambda _: None) -> None:
        monkeypatch.setattr(
            command, "open_engine", lambda name, job, count: ThreadEngine(job.name, job.content, 1, before)
        )

    monkeypatch.setattr(batch_job, "images_per_shard", lambda n_images, batch: SHARD)
    use()
    return use


def batch(*arguments: object) -> dict[str, Any]:
    done = invoke("batch", *arguments, "--json")
    result: dict[str, Any] = json.loads(done.stdout)
    return result | {"stderr": done.stderr}


def test_rows_are_those_of_score(exported: Path, folder: Path, manifest: Path, tmp_path: Path) -> None:
    """With real processes, from the command line."""
    result = run_json("batch", exported, manifest, "-o", tmp_path / "out", "--workers", 2)
    scored = run_json("score", exported, folder, "-o", tmp_path / "v.parquet", "--threads", 1)
    table = pq.read_table(tmp_path / "out")
    assert table.drop_columns("error").equals(pq.read_table(tmp_path / "v.parquet"))
    for key in ("n", "n_anomalous", "threshold", "false_alarm_rate", "lot"):
        assert result[key] == scored[key], key
    assert result["n_normal"] + result["n_anomalous"] == N
    assert (result["n_errors"], result["resumed"], result["worker_deaths"], result["engine"]) == (0, 0, 0, "local")
    assert result["images_per_second"] > 0
    assert result["seconds"]["start"] > 0
    assert result["files"] == {"verdicts": str(tmp_path / "out"), "n": 1}


def test_a_killed_command_leaves_no_process_and_is_continued(exported: Path, manifest: Path, tmp_path: Path) -> None:
    """The command is killed as soon as it has begun; its workers end by themselves."""
    arguments = [sys.executable, "-m", "oddlens", "batch", exported, manifest, "-o", tmp_path / "out", "--workers", "1"]
    process = subprocess.Popen(list(map(str, arguments)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while process.poll() is None and not (worker := children.read_text().split()):
        time.sleep(0.01)
    assert process.poll() is None, "ended before it was killed"
    process.send_signal(signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 120
    while any(is_running(int(pid)) for pid in worker):
        assert time.monotonic() < deadline, "a worker outlived the command"
        time.sleep(0.05)
    assert run_json("batch", exported, manifest, "-o", tmp_path / "out", "--workers", 1)["n"] == N


def is_running(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_errors_are_counted_and_named(
    exported: Path, digits: DataSet, tmp_path: Path, in_threads: Callable[..., None]
) -> None:
    images = write_digits(digits, tmp_path / "images", 40)
    for i in range(12):
        (images / f"{i:04}.png").write_bytes(b"")
    result = batch(exported, write_list(images, tmp_path / "m.parquet"), "-o", tmp_path / "out")
    assert (result["n"], result["n_errors"], len(result["first_errors"])) == (40, 12, 10)
    assert result["first_errors"][0] == {"file": f"{images}/0000.png", "error": "is empty; copy it again"}
    assert f"error: {images}/0000.png: is empty" in result["stderr"]
    assert result["lot"] is None, "fewer than 30 images were scored"


def test_a_shifted_lot_is_reported_and_strict_ends_with_3(
    exported: Path, manifest: Path, tmp_path: Path, in_threads: Callable[..., None]
) -> None:
    arguments = ["batch", str(exported), str(manifest), "-o", str(tmp_path / "out"), "--strict", "--json"]
    done = CliRunner().invoke(app, [*arguments, "--max-anomalous", "0.1"])
    shifted = json.loads(done.stdout)["lot"]["shifted"]
    assert done.exit_code == (3 if shifted else 0)
    table = pq.read_table(tmp_path / "out")
    images = [str(manifest.parent / name) for name in table.column("file").to_pylist()]
    test = Detector.load(exported).test_lot(table.column("anomaly_score").to_numpy(), images=images)
    assert test is not None
    assert test.shifted == shifted
    assert json.loads(CliRunner().invoke(app, [*arguments, "--max-anomalous", "0.9"]).stdout)["lot"]["p_value"] == 1


def test_the_command_again_continues_and_says_how_much_was_there(
    exported: Path, manifest: Path, tmp_path: Path, in_threads: Callable[..., None]
) -> None:
    def interrupt(shard: Shard) -> None:
        if shard.index == 1:
            raise KeyboardInterrupt

    in_threads(interrupt)
    done = CliRunner().invoke(app, ["batch", str(exported), str(manifest), "-o", str(tmp_path / "out")])
    assert done.exit_code == 1
    assert done.stderr.endswith("interrupted; to continue, run the same command again\n")
    in_threads()
    result = batch(exported, manifest, "-o", tmp_path / "out")
    assert (result["n"], result["resumed"]) == (N, SHARD)
    again = invoke("batch", exported, manifest, "-o", tmp_path / "out")
    assert again.stdout.startswith(f"{N} images: ")


def test_a_foreign_folder_is_refused(
    digits: DataSet, exported: Path, manifest: Path, tmp_path: Path, in_threads: Callable[..., None]
) -> None:
    batch(exported, manifest, "-o", tmp_path / "out")
    other = write_list(write_digits(digits, tmp_path / "others", 3), tmp_path / "other.parquet")
    with pytest.raises(ArtifactError, match="a different manifest; choose another folder with -o"):
        batch(exported, other, "-o", tmp_path / "out")


def test_what_an_engine_prints_is_not_on_stdout(
    exported: Path, manifest: Path, tmp_path: Path, in_threads: Callable[..., None]
) -> None:
    in_threads(lambda shard: print("(raylet) a note of Ray"))
    result = batch(exported, manifest, "-o", tmp_path / "out")
    assert "(raylet) a note of Ray" in result["stderr"]


def test_an_error_of_the_workers_ends_the_command(
    exported: Path, manifest: Path, tmp_path: Path, in_threads: Callable[..., None]
) -> None:
    from oddlens.batch.workers import WorkerDiedError

    def die(shard: Shard) -> None:
        raise WorkerDiedError("killed")

    in_threads(die)
    with pytest.raises(OddlensError, match="3 workers died"):
        batch(exported, manifest, "-o", tmp_path / "out")


def test_progress_is_a_line_now_and_then(
    exported: Path, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([100.0, 110.0, 110.0, 140.0, 140.0])
    monkeypatch.setattr(command, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    job = BatchJob(exported, manifest, tmp_path / "out")
    summary = BatchSummary(Lot(job.detector.decisions_), n=50, resumed=10, started=100.0)
    progress = command.BatchProgress(N, Console(as_json=False))
    progress.show(summary)
    assert capsys.readouterr().err == ""
    summary.n, summary.deaths, summary.replaced = 90, 2, ["part-000001.parquet"]
    progress.show(summary)
    assert capsys.readouterr().err.splitlines() == [
        "part-000001.parquet: was damaged or from other data; scored again",
        "2 workers died; their images are scored again",
        f"90 of {N} images, 2 images/s, about 105 s left",
    ]


def test_the_local_engine_has_no_more_processes_than_shards(exported: Path, manifest: Path, tmp_path: Path) -> None:
    from oddlens.batch.process_pool import ProcessPool

    engine = command.open_engine("local", BatchJob(exported, manifest, tmp_path / "out"), 8)
    assert isinstance(engine, ProcessPool)
    assert engine.n_workers == 1
    assert list(tmp_path.iterdir()) == []
