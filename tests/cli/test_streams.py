"""Any text on any terminal, and what happens where nothing can be written."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import run_json

from oddlens.cli import streams
from oddlens.cli.streams import open_stream, prepare_streams, to_ascii, visible

needs_full_disk = pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
ODD_NAMES = (
    b"caf\xe9.png", b"red\x1b[31m\x1b[2J.png", b"two\nlines.png", b"tab\t.png", b"[bold]x[red].png", b":smile:.png",
    "reversed\u202egnp.png".encode(), "検査.png".encode(), "a – b ≤ c.png".encode(),
)  # fmt: skip


def run(*arguments: object, redirect: str = "", **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a command in a shell, which can close and redirect streams."""
    command = ["bash", "-c", f'"$@" {redirect}', "bash", sys.executable, "-m", "oddlens", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, check=False, env=os.environ | environment, timeout=300)


@pytest.fixture(scope="module")
def part(part: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exported file of the detector: without PyTorch, a process begins much sooner."""
    path = tmp_path_factory.mktemp("exported") / "part.onnx"
    run_json("export", part, "-o", path)
    return path


@pytest.fixture(scope="module")
def odd_files(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images whose names are not made for terminals."""
    folder = tmp_path_factory.mktemp("odd")
    for name in ODD_NAMES:
        shutil.copy(parts / "test/good/000.png", folder / os.fsdecode(name))
    return folder


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437", "cp932", "cp1252", "utf-8", "utf-16"])
@pytest.mark.parametrize("errors", ["strict", "surrogateescape", "backslashreplace", "replace", "ignore"])
def test_every_text_can_be_written_in_every_encoding(encoding: str, errors: str, tmp_path: Path) -> None:
    prepare_streams()
    replaced = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors=errors)
    with open_stream(io.FileIO(tmp_path / "out", "w"), replaced) as out:
        print(*(os.fsdecode(name) for name in ODD_NAMES), "é –…×≤ █ 字 😀 \ud800", file=out)
    assert b"gnp.png" in (tmp_path / "out").read_bytes().replace(b"\0", b"")


def test_signs_become_plain_ones_and_letters_their_numbers() -> None:
    assert "".join(map(to_ascii, "a – b — c… 2 × 3 ≤ ≥ → ± █ ‘x’")) == "a - b - c... 2 x 3 <= >= -> +/- # 'x'"
    assert "".join(map(to_ascii, "é字😀\udcff")) == r"\xe9\u5b57\U0001f600\xff"
    assert all(text.isascii() and text for text in streams.PLAIN.values())


def test_control_characters_are_shown_instead_of_obeyed() -> None:
    assert visible("a\x1b[2J\x07\r\n\t\x7f\x9b\u202eb") == r"a\x1b[2J\x07\r\n\t\x7f\x9b\u202eb"
    assert visible("\udc9b31m") == r"\x9b31m"  # the same for terminals with 8 bits
    assert visible("Prüfling 検査 – [x] :y:.png") == "Prüfling 検査 – [x] :y:.png"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp932", "cp437", "utf-8"])
def test_eval_prints_its_result_on_every_terminal(part: Path, parts: Path, encoding: str) -> None:
    done = run("eval", part, parts, PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode(encoding)
    assert "image AUROC" in text
    assert ("–" if encoding == "utf-8" else " - ") in text  # in place of the AUROC of normal images


@pytest.mark.parametrize(
    "environment",
    [
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "latin-1"},
        {"TERM": "dumb", "COLUMNS": "20", "FORCE_COLOR": "1"},
    ],
)
def test_json_and_csv_are_the_same_on_every_terminal(part: Path, odd_files: Path, environment: dict[str, str]) -> None:
    done = run("score", part, odd_files, "--json", **environment)
    assert done.returncode == 0, done.stderr
    names = [os.fsencode(row["file"]) for row in json.loads(done.stdout)["verdicts"]]
    assert {name.rpartition(b"/")[2] for name in names} == set(ODD_NAMES)
    done = run("score", part, odd_files, **environment)
    assert done.returncode == 0, done.stderr
    rows = csv.DictReader(io.StringIO(done.stdout.decode("utf-8", "surrogateescape"), newline=""))
    assert [os.fsencode(row["file"]) for row in rows] == names


def test_no_name_reaches_the_terminal_as_a_control_sequence(odd_files: Path, tmp_path: Path) -> None:
    (tmp_path / "bad\x1b[31m.png").write_bytes(b"no image")
    for arguments in (["check", odd_files], ["eval", "no\x1b[31m\n.onnx", odd_files], ["check", tmp_path]):
        done = run(*arguments)
        assert b"\x1b" not in done.stdout + done.stderr
        assert b"Traceback" not in done.stderr
    assert rb"no\x1b[31m\n.onnx: no such detector file" in run("eval", "no\x1b[31m\n.onnx", odd_files).stderr


def test_a_folder_whose_name_is_not_text_is_learned_from(parts: Path, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"teile \xe9")
    shutil.copytree(parts / "train/good", folder)
    target = tmp_path / "part.safetensors"
    done = run("fit", folder, "-o", target, "--detector", "autoencoder", "--epochs", "1", "--group-by", "folder")
    assert done.returncode == 0, done.stderr
    assert rb"teile \xe9" in run("show", target).stdout
    state = tmp_path / "state.json"
    done = run("score", target, folder, "-o", tmp_path / "v.csv", "--group-by", "folder", "--watch-drift", state)
    assert done.returncode == 0, done.stderr


def test_a_closed_stderr_leaves_stdout_to_the_result(part: Path, parts: Path) -> None:
    done = run("eval", part, parts, "--json", redirect="2>&-")
    assert done.returncode == 0
    assert json.loads(done.stdout)["image_auroc"] > 0.9
    assert run("eval", "nowhere.onnx", parts, redirect="2>&-").returncode == 1


@needs_full_disk
def test_a_full_disk_for_notes_does_not_end_the_training(parts: Path, tmp_path: Path) -> None:
    target = tmp_path / "part.safetensors"
    fit = ("fit", parts, "-o", target, "--detector", "autoencoder", "--epochs", "2", "--json")
    done = run(*fit, redirect="2>/dev/full")
    assert done.returncode == 0
    assert json.loads(done.stdout)["files"] == {"detector": str(target)}


@pytest.mark.parametrize("redirect", [">&-", pytest.param(">/dev/full", marks=needs_full_disk)])
@pytest.mark.parametrize("options", [[], ["--json"], ["-o", "verdicts.csv"]])
def test_a_result_that_cannot_be_printed_is_an_error_in_one_line_and_files_are_complete(
    part: Path, parts: Path, redirect: str, options: list[str], tmp_path: Path
) -> None:
    options = [option.replace("verdicts", str(tmp_path / "verdicts")) for option in options]
    done = run("score", part, parts / "test/good", *options, redirect=redirect)
    assert done.returncode == 1
    assert done.stderr.startswith(b"error: the result cannot be printed to stdout (")
    assert done.stderr.count(b"\n") == 1
    assert all(path.read_text().count("\n") == 13 for path in tmp_path.iterdir())


@pytest.mark.parametrize("arguments", ["--version", "--help", "check digits --budget 0", "show PART"])
def test_every_output_says_so_where_it_cannot_be_printed(part: Path, arguments: str) -> None:
    done = run(*arguments.replace("PART", str(part)).split(), redirect=">&-")
    assert done.returncode == 1
    assert done.stderr.startswith(b"error: the result cannot be printed to stdout (it is closed)")


def test_no_file_gets_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    """Otherwise what a library prints there would go into the file."""
    program = (
        "import sys\nfrom oddlens.cli.streams import prepare_streams\nprepare_streams()\n"
        "with open(sys.argv[1], 'w') as file: file.write(str(file.fileno()))\n"
    )
    command = ["bash", "-c", '"$@" <&- >&- 2>&-', "bash", sys.executable, "-c", program, str(tmp_path / "number")]
    subprocess.run(command, check=True, timeout=100)
    assert int((tmp_path / "number").read_text()) > 2
