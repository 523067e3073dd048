"""A run of `score` that is killed goes on where it was, and ends with the same bytes."""

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

from oddlens.cli import app
from oddlens.config.base import DecisionSettings
from oddlens.data.image_set import DataSet
from oddlens.detector.detector import Detector
from oddlens.errors import OddlensError
from oddlens.inference import scoring
from oddlens.inference.torch_backend import TorchBackend

COUNT, BATCH = 300, 128
TORN = b'{"scores": [0.1, 0.'


@pytest.fixture(autouse=True)
def small_batches_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "MAX_BATCH", BATCH)
    monkeypatch.setattr(TorchBackend, "streams", 2)


def score(*arguments: object) -> dict[str, Any]:
    """The command in this process; what it refuses is raised."""
    done = CliRunner().invoke(app, ["score", *map(str, arguments), "--json"], catch_exceptions=True)
    if done.exception is not None:
        raise done.exception
    result: dict[str, Any] = json.loads(done.stdout)
    return result | {"told": done.stderr}


def partial(output: Path) -> Path:
    return output.with_name(f"{output.name}.partial")


def journal_of(output: Path) -> list[Any]:
    return [json.loads(line) for line in partial(output).read_bytes().splitlines()]


@pytest.fixture(scope="module")
def part(fitted: Detector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fitted.save(tmp_path_factory.mktemp("resume") / "part.safetensors")


@pytest.fixture(scope="module")
def pictures(digits: DataSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 digits, two full batches and a part of one; the last fifty are negatives of digits."""
    folder = tmp_path_factory.mktemp("pictures")
    test = digits.test.load(digits.test.choose_spec(None))[:COUNT]
    for i, pixels in enumerate(np.concatenate([test[:250], 255 - test[250:]])):
        Image.fromarray(pixels[..., 0]).save(folder / f"{i:03}.png")
    return folder


@pytest.fixture
def cut_off(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runs the command and stops it dead after some batches: no handler runs, as after a kill."""

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


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_killed_run_goes_on_to_the_same_bytes(part: Path, pictures: Path, tmp_path: Path, suffix: str) -> None:
    whole, output = tmp_path / f"whole.{suffix}", tmp_path / f"v.{suffix}"
    score(part, pictures, "-o", whole)
    killed_in_the_middle(part, pictures, output)
    assert not output.exists()
    assert [len(entry["scores"]) for entry in journal_of(output)[1:]] == [BATCH] * 2
    result = score(part, pictures, "-o", output, "--resume")
    assert result["n"] == COUNT
    assert result["resumed"] == 2 * BATCH
    assert output.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([output.name, whole.name])


@pytest.mark.parametrize("resume", [["--resume"], []])
def test_a_run_keeps_others_from_its_verdict_file(
    part: Path, pictures: Path, tmp_path: Path, resume: list[str]
) -> None:
    output = tmp_path / "v.csv"
    with waiting_in_the_middle(part, pictures, output):
        kept = partial(output).read_bytes()
        with pytest.raises(OddlensError, match="another run is writing it; wait until that ends, or give another -o"):
            score(part, pictures, "-o", output, *resume)
        assert partial(output).read_bytes() == kept
    assert score(part, pictures, "-o", output, *resume)["resumed"] == (2 * BATCH if resume else 0)


def killed_in_the_middle(part: Path, pictures: Path, output: Path) -> None:
    """SIGKILL for a real process that has scored two batches."""
    with waiting_in_the_middle(part, pictures, output):
        pass


@contextlib.contextmanager
def waiting_in_the_middle(part: Path, pictures: Path, output: Path) -> Iterator[None]:
    """A real process that waits for ever before it scores its third batch; killed (SIGKILL) at the end of the block."""
    waiting = (
        "import sys, time\nfrom oddlens.io.journal import Journal\nreal = Journal.add\n"
        "def add(self, entry):\n    real(self, entry)\n    while self.entries == 2: time.sleep(1)\n"
        f"Journal.add = add\nfrom oddlens import cli\nfrom oddlens.inference import scoring\n"
        f"scoring.MAX_BATCH = {BATCH}\ncli.main()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", waiting, "score", str(part), str(pictures), "-o", str(output)])
    try:
        while not (partial(output).exists() and partial(output).read_bytes().count(b"\n") == 3):
            assert process.poll() is None
            time.sleep(0.05)
        yield
    finally:
        process.kill()
    assert process.wait() < 0


def test_a_torn_last_line_is_scored_again(
    part: Path, pictures: Path, tmp_path: Path, cut_off: Callable[..., None]
) -> None:
    score(part, pictures, "-o", tmp_path / "whole.csv")
    for torn in (TORN, TORN + b"\n", b"\0" * 4096, b'{"scores": [], "left_out": {}}'):
        cut_off(1, tmp_path / "v.csv", part, pictures)
        with partial(tmp_path / "v.csv").open("ab") as file:
            file.write(torn)
        assert score(part, pictures, "-o", tmp_path / "v.csv", "--resume")["resumed"] == BATCH
        assert (tmp_path / "v.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
        (tmp_path / "v.csv").unlink()


def test_another_run_is_refused_by_what_differs(
    part: Path, fitted: Detector, pictures: Path, tmp_path: Path, cut_off: Callable[..., None]
) -> None:
    output, other = tmp_path / "v.csv", tmp_path / "other.safetensors"
    cut_off(2, output, part, pictures)
    kept = partial(output).read_bytes()
    strict = Detector.load(part).set_decision(DecisionSettings(false_alarm_rate=0.05))
    strict.save(other)
    fewer = sorted(pictures.iterdir())[:-1]
    for arguments, differs in (
        ((other, pictures), "another detector or threshold"),
        ((part, *fewer), "another list of images"),
        ((part, pictures, "--maps", tmp_path / "maps"), "another --maps"),
        ((part, pictures, "--watch-drift", tmp_path / "s.json"), "another state of --watch-drift"),
    ):
        with pytest.raises(OddlensError, match=f"is of a run with {differs}.*leave --resume out to begin anew"):
            score(*arguments, "-o", output, "--resume")
        assert partial(output).read_bytes() == kept
    partial(output).write_text("mine\n")
    with pytest.raises(OddlensError, match="is no journal of such a run; move it away"):
        score(part, pictures, "-o", output, "--resume")
    assert partial(output).read_text() == "mine\n"


def test_images_of_the_same_names_elsewhere_are_other_images(
    part: Path, pictures: Path, tmp_path: Path, cut_off: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for day in ("monday", "tuesday"):
        shutil.copytree(pictures, tmp_path / day / "images")
    monkeypatch.chdir(tmp_path / "monday")
    cut_off(1, tmp_path / "v.csv", part, "images")
    monkeypatch.chdir(tmp_path / "tuesday")
    with pytest.raises(OddlensError, match="another list of images"):
        score(part, "images", "-o", tmp_path / "v.csv", "--resume")


def test_nothing_to_resume_is_said_and_all_is_scored(part: Path, pictures: Path, tmp_path: Path) -> None:
    result = score(part, pictures, "-o", tmp_path / "v.csv", "--resume")
    assert "nothing to go on with" in result["told"]
    assert (result["n"], result["resumed"]) == (COUNT, 0)
    with pytest.raises(OddlensError, match="name it with -o"):
        score(part, pictures, "--resume")


def test_without_resume_a_run_begins_anew_and_says_so(
    part: Path, pictures: Path, tmp_path: Path, cut_off: Callable[..., None]
) -> None:
    cut_off(2, tmp_path / "v.csv", part, pictures)
    result = score(part, pictures, "-o", tmp_path / "v.csv")
    assert "of a run that was cut off; begun anew (--resume goes on)" in result["told"]
    assert (result["n"], result["resumed"]) == (COUNT, 0)
    assert not partial(tmp_path / "v.csv").exists()


def test_with_maps_each_is_drawn_once(part: Path, pictures: Path, tmp_path: Path, cut_off: Callable[..., None]) -> None:
    score(part, pictures, "-o", tmp_path / "whole.csv", "--maps", tmp_path / "whole")
    cut_off(2, tmp_path / "v.csv", part, pictures, "--maps", tmp_path / "maps")
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "maps").iterdir()}
    assert len(before) == 2 * BATCH
    score(part, pictures, "-o", tmp_path / "v.csv", "--maps", tmp_path / "maps", "--resume")
    for path in (tmp_path / "whole").iterdir():
        assert (tmp_path / "maps" / path.name).read_bytes() == path.read_bytes()
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "maps").iterdir()}
    assert len(after) == COUNT
    assert {name: after[name] for name in before} == before


def test_verdicts_that_depend_on_all_scores_take_the_old_ones_too(
    part: Path, pictures: Path, tmp_path: Path, cut_off: Callable[..., None]
) -> None:
    whole = score(part, pictures, "-o", tmp_path / "whole.csv", "--fdr", 0.1)
    cut_off(2, tmp_path / "v.csv", part, pictures, "--fdr", 0.1)
    result = score(part, pictures, "-o", tmp_path / "v.csv", "--fdr", 0.1, "--resume")
    assert (tmp_path / "v.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert result["threshold"] == whole["threshold"]
    assert result["n_anomalous"] == whole["n_anomalous"] >= 50


def test_a_watched_stream_sees_each_image_once(
    part: Path, pictures: Path, tmp_path: Path, cut_off: Callable[..., None]
) -> None:
    whole = score(part, pictures, "-o", tmp_path / "whole.csv", "--watch-drift", tmp_path / "whole.json")
    cut_off(2, tmp_path / "v.csv", part, pictures, "--watch-drift", tmp_path / "s.json")
    assert not (tmp_path / "s.json").exists()
    kept = partial(tmp_path / "v.csv").read_bytes()
    result = score(part, pictures, "-o", tmp_path / "v.csv", "--watch-drift", tmp_path / "s.json", "--resume")
    assert (tmp_path / "s.json").read_bytes() == (tmp_path / "whole.json").read_bytes()
    assert result["drift"]["evidence"] == whole["drift"]["evidence"]
    partial(tmp_path / "v.csv").write_bytes(kept)  # as after a kill between the state's writing and the end
    with pytest.raises(OddlensError, match="another state of --watch-drift"):
        score(part, pictures, "-o", tmp_path / "v.csv", "--watch-drift", tmp_path / "s.json", "--resume")


def test_images_left_out_before_the_kill_are_still_named(
    part: Path, pictures: Path, tmp_path: Path, cut_off: Callable[..., None]
) -> None:
    folder = tmp_path / "images"
    shutil.copytree(pictures, folder)
    broken = [folder / f"{i:03}.png" for i in (3, *range(BATCH, 2 * BATCH), 290)]
    for path in broken:
        path.write_bytes(path.read_bytes()[:50])
    arguments = (part, folder, "--skip-unreadable")
    whole = score(*arguments, "-o", tmp_path / "whole.csv")
    cut_off(2, tmp_path / "v.csv", *arguments)
    result = score(*arguments, "-o", tmp_path / "v.csv", "--resume")
    assert (tmp_path / "v.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert result["skipped"] == whole["skipped"] == [str(path) for path in broken]
    assert result["n"] == whole["n"] == COUNT - len(broken)
    assert result["told"].count("left out: ") == len(broken)
    named = {line.split(",")[0] for line in (tmp_path / "v.csv").read_text().splitlines()[1:]}
    assert named == {str(path) for path in folder.iterdir()} - set(result["skipped"])


def test_a_run_that_met_a_bad_image_goes_on_without_it(part: Path, pictures: Path, tmp_path: Path) -> None:
    folder, output = tmp_path / "images", tmp_path / "v.csv"
    shutil.copytree(pictures, folder)
    (folder / "200.png").write_bytes(b"broken")
    with pytest.raises(OddlensError, match=r"200\.png: .*; then go on with --resume; or leave it out with --skip-unr"):
        score(part, folder, "-o", output)
    assert len(journal_of(output)) == 2
    with pytest.raises(OddlensError, match=r"200\.png: "):
        score(part, folder, "-o", output, "--resume")
    result = score(part, folder, "-o", output, "--resume", "--skip-unreadable")
    assert (result["n"], result["resumed"]) == (COUNT - 1, BATCH)


def test_a_run_that_scored_nothing_leaves_nothing(part: Path, pictures: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    shutil.copytree(pictures, folder)
    (folder / "000.png").write_bytes(b"broken")
    with pytest.raises(OddlensError, match=r"000\.png"):
        score(part, folder, "-o", tmp_path / "v.csv", "--maps", tmp_path / "maps")
    assert list(tmp_path.iterdir()) == [folder]
