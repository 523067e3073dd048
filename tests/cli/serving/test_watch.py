from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import invoke
from running_service import noise
from stored_inspections import DETECTOR_FILE

from oddlens.errors import OddlensError
from oddlens.store.open import open_store


def test_files_are_inspected_until_sigterm_and_not_again_after_a_kill(tmp_path: Path) -> None:
    folder, store = tmp_path / "drop", tmp_path / "parts.db"
    folder.mkdir()
    arguments = ["watch", str(folder), "--detector", str(DETECTOR_FILE), "--store", str(store), "--settle", "0.1"]
    for number in (signal.SIGKILL, signal.SIGTERM):
        name = f"{number}.png"
        (folder / name).write_bytes(noise(number))
        command = [sys.executable, "-m", "oddlens", *arguments, "--json", "--lot", "A"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            answer = json.loads(process.stdout.readline())
            assert Path(answer["file"]).name == name
            process.send_signal(number)
            output, errors = process.communicate(timeout=60)
            assert (output, errors) == ("", "")
            assert process.returncode == (0 if number == signal.SIGTERM else -number)
    with open_store(str(store)) as opened:
        assert opened.counts()["n"] == 2
        assert opened.inspection(1).lot == "A"


def test_what_cannot_be_watched_is_refused(tmp_path: Path) -> None:
    for folder, detector, reason in (("none", DETECTOR_FILE, "make it first"), ("", "a.safetensors", "oddlens export")):
        with pytest.raises(OddlensError, match=reason):
            invoke("watch", tmp_path / folder, "--detector", detector, "--store", tmp_path / "a.db")
