"""Environment variables for a while, and the name of the processor."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from oddlens.io import environment
from oddlens.io.environment import default_variable, processor_name

NAME = "ODDLENS_TEST_VARIABLE"


def test_a_variable_is_set_in_the_block_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(NAME, raising=False)
    with default_variable(NAME, "1"):
        assert os.environ[NAME] == "1"
    assert NAME not in os.environ
    with pytest.raises(ZeroDivisionError), default_variable(NAME, "1"):
        raise ZeroDivisionError
    assert NAME not in os.environ


def test_what_the_user_has_set_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NAME, "0")
    with default_variable(NAME, "1"):
        assert os.environ[NAME] == "0"
    assert os.environ[NAME] == "0"


def test_the_processor_is_named_with_its_kind_and_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert processor_name() == processor_name()
    path = tmp_path / "cpuinfo"
    monkeypatch.setattr(environment, "CPU_INFO", path)
    assert processor_name.__wrapped__().endswith(f", {os.cpu_count()} cores")
    lines = ("processor\t: 0", "cpu family\t: 25", "model\t\t: 17", "model name\t: AMD EPYC", "stepping\t: 1")
    path.write_text("\n".join(lines) + "\n\nmodel name\t: of the second core\n")
    assert processor_name.__wrapped__() == f"AMD EPYC (family 25 model 17), {os.cpu_count()} cores"
    path.write_text("")
    assert processor_name.__wrapped__()
