"""Scoring jobs: a run that was killed can be resumed, and its output is the same to the byte."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from oddlens.batch.scoring_job import ScoringJob
from oddlens.cli import app
from oddlens.config.base import DecisionSettings
from oddlens.conformal.lot import Lot
from oddlens.data.image_set import DataSet
from oddlens.data.open import open_images
from oddlens.detector.detector import Detector
from oddlens.errors import OddlensError
from oddlens.inference import scoring
from oddlens.inference.torch_backend import TorchBackend
from oddlens.io.journal import open_journal

COUNT, BATCH = 300, 128
TRUNCATED_ENTRY = b'{"scores": [0.1, 0.'


@pytest.fixture(autouse=True)
def small_concurrent_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "MAX_BATCH", BATCH)
    monkeypatch.setattr(TorchBackend, "streams", 2)


def score(*arguments: object) -> dict[str, Any]:
    """Run the command in this process and return its JSON; its errors are raised."""
    done = CliRunner().invoke(app, ["score", *map(str, arguments), "--json"], catch_exceptions=True)
    if done.exception is not None:
        raise done.exception
    result: dict[str, Any] = json.loads(done.stdout)
    return result | {"stderr": done.stderr}


def partial(output: Path) -> Path:
    return output.with_name(f"{output.name}.partial")


def journal_of(output: Path) -> list[Any]:
    return [json.loads(line) for line in partial(output).read_bytes().splitlines()]


@pytest.fixture(scope="module")
def part(digits_detector: Detector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return digits_detector.save(tmp_path_factory.mktemp("resume") / "part.safetensors")


@pytest.fixture(scope="module")
def image_folder(digits: DataSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 digits, two full batches and a part of a third; the last fifty are inverted."""
    folder = tmp_path_factory.mktemp("images")
    test = digits.test.load(digits.test.choose_spec(None))[:COUNT]
    for i, pixels in enumerate(np.concatenate([test[:250], 255 - test[250:]])):
        Image.fromarray(pixels[..., 0]).save(folder / f"{i:03}.png")
    return folder


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Run the command and stop it after some batches without any error handler, as a kill does."""

    def run(batches: int, output: Path, *arguments: object) -> None:
        from oddlens.io.journal import Journal

        class Killed(BaseException):
            pass

        real = Journal.add

        def add(self: Journal, entry: object) -> None:
            real(self, entry)
            if self.entries == batches:
                raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(Journal, "add", add)
            with pytest.raises(Killed):
                score(*arguments, "-o", output)
        assert not output.exists()
        assert len(journal_of(output)) == 1 + batches

    return run


@pytest.mark.parametrize(("suffix", "file"), [("csv", "part"), ("jsonl", "exported"), ("parquet", "exported")])
def test_a_resumed_run_writes_the_same_bytes(
    image_folder: Path, tmp_path: Path, suffix: str, file: str, request: pytest.FixtureRequest
) -> None:
    part: Path = request.getfixturevalue(file)
    whole, output = tmp_path / f"whole.{suffix}", tmp_path / f"v.{suffix}"
    whole_lot = score(part, image_folder, "-o", whole)["lot"]
    kill_after_two_batches(part, image_folder, output)
    assert not output.exists()
    assert [len(entry["scores"]) for entry in journal_of(output)[1:]] == [BATCH] * 2
    result = score(part, image_folder, "-o", output, "--resume")
    assert result["n"] == result["lot"]["n"] == COUNT
    assert result["resumed"] == 2 * BATCH
    assert result["lot"] == whole_lot
    assert output.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([output.name, whole.name])


@pytest.mark.parametrize("resume", [["--resume"], []])
def test_two_runs_cannot_write_the_same_verdict_file(
    exported: Path, image_folder: Path, tmp_path: Path, resume: list[str]
) -> None:
    output = tmp_path / "v.csv"
    with paused_after_two_batches(exported, image_folder, output):
        content = partial(output).read_bytes()
        with pytest.raises(OddlensError, match="another run is writing this file; wait for it to finish"):
            score(exported, image_folder, "-o", output, *resume)
        assert partial(output).read_bytes() == content
    assert score(exported, image_folder, "-o", output, *resume)["resumed"] == (2 * BATCH if resume else 0)


def kill_after_two_batches(part: Path, image_folder: Path, output: Path) -> None:
    """Kill a real process (SIGKILL) that has scored two batches."""
    with paused_after_two_batches(part, image_folder, output):
        pass


@contextlib.contextmanager
def paused_after_two_batches(part: Path, image_folder: Path, output: Path) -> Iterator[None]:
    """Run a real process that stops before its third batch, and kill it (SIGKILL) at the end of the block."""
    program = (
        "import sys, time\nfrom oddlens.io.journal import Journal\nreal = Journal.add\n"
        "def add(self, entry):\n    real(self, entry)\n    while self.entries == 2: time.sleep(1)\n"
        f"Journal.add = add\nfrom oddlens import cli\nfrom oddlens.inference import scoring\n"
        f"scoring.MAX_BATCH = {BATCH}\ncli.main()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, "score", str(part), str(image_folder), "-o", str(output)]
    )
    try:
        while not (partial(output).exists() and partial(output).read_bytes().count(b"\n") == 3):
            assert process.poll() is None
            time.sleep(0.05)
        yield
    finally:
        process.kill()
    assert process.wait() < 0


def test_a_truncated_last_entry_is_scored_again(
    part: Path, image_folder: Path, tmp_path: Path, interrupt: Callable[..., None]
) -> None:
    score(part, image_folder, "-o", tmp_path / "whole.csv")
    for tail in (TRUNCATED_ENTRY, TRUNCATED_ENTRY + b"\n", b"\0" * 4096, b'{"scores": [], "left_out": {}}'):
        interrupt(1, tmp_path / "v.csv", part, image_folder)
        with partial(tmp_path / "v.csv").open("ab") as file:
            file.write(tail)
        assert score(part, image_folder, "-o", tmp_path / "v.csv", "--resume")["resumed"] == BATCH
        assert (tmp_path / "v.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
        (tmp_path / "v.csv").unlink()


def test_resuming_a_different_run_is_an_error_that_names_the_difference(
    part: Path, digits_detector: Detector, image_folder: Path, tmp_path: Path, interrupt: Callable[..., None]
) -> None:
    output, other = tmp_path / "v.csv", tmp_path / "other.safetensors"
    interrupt(2, output, part, image_folder)
    content = partial(output).read_bytes()
    strict = Detector.load(part).set_decision(DecisionSettings(false_alarm_rate=0.05))
    strict.save(other)
    fewer = sorted(image_folder.iterdir())[:-1]
    for arguments, differs in (
        ((other, image_folder), "a different detector or threshold"),
        ((part, *fewer), "a different list of images"),
        ((part, image_folder, "--maps", tmp_path / "maps"), "a different --maps"),
        ((part, image_folder, "--watch-drift", tmp_path / "s.json"), "a different state of --watch-drift"),
    ):
        with pytest.raises(OddlensError, match=f"belongs to a run with {differs}.*omit --resume to start over"):
            score(*arguments, "-o", output, "--resume")
        assert partial(output).read_bytes() == content
    partial(output).write_text("mine\n")
    for resume in ([], ["--resume"]):
        with pytest.raises(OddlensError, match="is not a journal of oddlens and would be replaced; move it away"):
            score(part, image_folder, "-o", output, *resume)
    assert partial(output).read_text() == "mine\n"


def test_images_of_the_same_names_in_another_folder_are_different_images(
    part: Path, image_folder: Path, tmp_path: Path, interrupt: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for day in ("monday", "tuesday"):
        shutil.copytree(image_folder, tmp_path / day / "images")
    monkeypatch.chdir(tmp_path / "monday")
    interrupt(1, tmp_path / "v.csv", part, "images")
    monkeypatch.chdir(tmp_path / "tuesday")
    with pytest.raises(OddlensError, match="a different list of images"):
        score(part, "images", "-o", tmp_path / "v.csv", "--resume")


def test_with_nothing_to_resume_all_images_are_scored_with_a_message(
    part: Path, image_folder: Path, tmp_path: Path
) -> None:
    result = score(part, image_folder, "-o", tmp_path / "v.csv", "--resume")
    assert "nothing to resume; scoring from the first image" in result["stderr"]
    assert (result["n"], result["resumed"]) == (COUNT, 0)
    with pytest.raises(OddlensError, match="name it with -o"):
        score(part, image_folder, "--resume")


def test_without_resume_a_run_starts_over_with_a_message(
    part: Path, image_folder: Path, tmp_path: Path, interrupt: Callable[..., None]
) -> None:
    interrupt(2, tmp_path / "v.csv", part, image_folder)
    result = score(part, image_folder, "-o", tmp_path / "v.csv")
    assert "left by an interrupted run; starting over (--resume continues it)" in result["stderr"]
    assert (result["n"], result["resumed"]) == (COUNT, 0)
    assert not partial(tmp_path / "v.csv").exists()


def test_each_map_is_written_once(
    part: Path, image_folder: Path, tmp_path: Path, interrupt: Callable[..., None]
) -> None:
    score(part, image_folder, "-o", tmp_path / "whole.csv", "--maps", tmp_path / "whole")
    interrupt(2, tmp_path / "v.csv", part, image_folder, "--maps", tmp_path / "maps")
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "maps").iterdir()}
    assert len(before) == 2 * BATCH
    score(part, image_folder, "-o", tmp_path / "v.csv", "--maps", tmp_path / "maps", "--resume")
    for path in (tmp_path / "whole").iterdir():
        assert (tmp_path / "maps" / path.name).read_bytes() == path.read_bytes()
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "maps").iterdir()}
    assert len(after) == COUNT
    assert {name: after[name] for name in before} == before


def test_fdr_verdicts_use_scores_from_before_the_interruption(
    part: Path, image_folder: Path, tmp_path: Path, interrupt: Callable[..., None]
) -> None:
    whole = score(part, image_folder, "-o", tmp_path / "whole.csv", "--fdr", 0.1)
    interrupt(2, tmp_path / "v.csv", part, image_folder, "--fdr", 0.1)
    result = score(part, image_folder, "-o", tmp_path / "v.csv", "--fdr", 0.1, "--resume")
    assert (tmp_path / "v.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert result["threshold"] == whole["threshold"]
    assert result["n_anomalous"] == whole["n_anomalous"] >= 50


def test_a_drift_stream_is_updated_once_per_image(
    part: Path, image_folder: Path, tmp_path: Path, interrupt: Callable[..., None]
) -> None:
    whole = score(part, image_folder, "-o", tmp_path / "whole.csv", "--watch-drift", tmp_path / "whole.json")
    interrupt(2, tmp_path / "v.csv", part, image_folder, "--watch-drift", tmp_path / "s.json")
    assert not (tmp_path / "s.json").exists()
    content = partial(tmp_path / "v.csv").read_bytes()
    result = score(part, image_folder, "-o", tmp_path / "v.csv", "--watch-drift", tmp_path / "s.json", "--resume")
    assert (tmp_path / "s.json").read_bytes() == (tmp_path / "whole.json").read_bytes()
    assert result["drift"]["evidence"] == whole["drift"]["evidence"]
    partial(tmp_path / "v.csv").write_bytes(content)  # as after a kill between writing the state and the end
    with pytest.raises(OddlensError, match="a different state of --watch-drift"):
        score(part, image_folder, "-o", tmp_path / "v.csv", "--watch-drift", tmp_path / "s.json", "--resume")


def test_images_left_out_before_the_interruption_are_reported(
    part: Path, image_folder: Path, tmp_path: Path, interrupt: Callable[..., None]
) -> None:
    folder = tmp_path / "images"
    shutil.copytree(image_folder, folder)
    broken = [folder / f"{i:03}.png" for i in (3, *range(BATCH, 2 * BATCH), 290)]
    for path in broken:
        path.write_bytes(path.read_bytes()[:50])
    arguments = (part, folder, "--skip-unreadable")
    whole = score(*arguments, "-o", tmp_path / "whole.csv")
    interrupt(2, tmp_path / "v.csv", *arguments)
    result = score(*arguments, "-o", tmp_path / "v.csv", "--resume")
    assert (tmp_path / "v.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert result["skipped"] == whole["skipped"] == [str(path) for path in broken]
    assert result["n"] == whole["n"] == COUNT - len(broken)
    assert result["stderr"].count("left out: ") == len(broken)
    listed = {line.split(",")[0] for line in (tmp_path / "v.csv").read_text().splitlines()[1:]}
    assert listed == {str(path) for path in folder.iterdir()} - set(result["skipped"])


def test_a_run_can_be_resumed_without_an_unreadable_image(part: Path, image_folder: Path, tmp_path: Path) -> None:
    folder, output = tmp_path / "images", tmp_path / "v.csv"
    shutil.copytree(image_folder, folder)
    (folder / "200.png").write_bytes(b"broken")
    with pytest.raises(
        OddlensError, match=r"200\.png: .*; then continue with --resume; or leave it out with --skip-unr"
    ):
        score(part, folder, "-o", output)
    assert len(journal_of(output)) == 2
    with pytest.raises(OddlensError, match=r"200\.png: "):
        score(part, folder, "-o", output, "--resume")
    result = score(part, folder, "-o", output, "--resume", "--skip-unreadable")
    assert (result["n"], result["resumed"]) == (COUNT - 1, BATCH)


def test_a_run_without_scores_leaves_no_files(part: Path, image_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    shutil.copytree(image_folder, folder)
    (folder / "000.png").write_bytes(b"broken")
    with pytest.raises(OddlensError, match=r"000\.png"):
        score(part, folder, "-o", tmp_path / "v.csv", "--maps", tmp_path / "maps")
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("fdr", [None, 0.2])
def test_a_report_has_the_verdicts_of_the_file(
    fdr: float | None, digits_detector: Detector, image_folder: Path, tmp_path: Path
) -> None:
    copies = tmp_path / "images"
    shutil.copytree(image_folder, copies)
    damaged = sorted(copies.iterdir())[3]
    damaged.write_bytes(b"damaged")
    job = ScoringJob(digits_detector, open_images([str(copies)]), skip_unreadable=True)
    with open_journal(None, job.identity(), False) as journal:
        for _ in job.score(journal):
            pass
        rows = [row for part in job.rows(journal, fdr) for row in part]
        images, verdicts = job.verdicts(journal, fdr)
    assert images.names == tuple(row["file"] for row in rows)
    assert str(damaged) not in images.names
    assert verdicts.label.tolist() == [row["label"] for row in rows]
    assert verdicts.anomaly_score.tolist() == [row["anomaly_score"] for row in rows]


def test_a_run_of_an_older_version_is_resumed_and_its_lot_tested_by_scores_alone(
    part: Path, image_folder: Path, tmp_path: Path
) -> None:
    whole = score(part, image_folder, "-o", tmp_path / "whole.csv")
    assert whole["lot"]["brightness"]["change"] > 0
    job = ScoringJob(Detector.load(part), open_images([str(image_folder)]))
    lots = []
    for is_older in (False, True):
        with open_journal(None, job.identity(), False) as journal:
            for _ in job.score(journal):
                pass
            entries = [dict(entry) for entry in journal]
        with open_journal(None, job.identity(), False) as journal:
            for entry in entries:
                if is_older:
                    del entry["brightness"]
                journal.add(entry)
            lot = Lot(job.detector.decisions_)
            assert sum(len(rows) for rows in job.rows(journal, lot=lot)) == COUNT
            lots.append(lot.test())
    newer, older = lots
    assert newer is not None
    assert older is not None
    assert newer.as_json() == whole["lot"]
    assert older.light is None
