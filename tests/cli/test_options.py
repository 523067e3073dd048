"""Options that several commands share have one name, one help text and one range."""

from __future__ import annotations

import re

import pytest
import typer
from typer.testing import CliRunner

from oddlens.cli import COMMANDS, app
from oddlens.cli.options import DetectorOption
from oddlens.config.detectors import FAMILIES


def parameters() -> dict[str, list[tuple[str, list[str], str | None]]]:
    """For each option of the command line, the commands that have it, its names and its help text."""
    group = typer.main.get_command(app)
    options_by_name: dict[str, list[tuple[str, list[str], str | None]]] = {}
    for name in COMMANDS:
        for parameter in group.commands[name].params:  # type: ignore[attr-defined]  # a group of commands
            entry = (name, parameter.opts, getattr(parameter, "help", None))
            options_by_name.setdefault(str(parameter.name), []).append(entry)
    return options_by_name


@pytest.mark.parametrize(
    "name", ["as_json", "threads", "seed", "device", "data_dir", "normal", "group_by", "skip_unreadable", "confidence"]
)
def test_a_shared_option_is_the_same_in_all_its_commands(name: str) -> None:
    entries = parameters()[name]
    assert len(entries) >= 2
    assert len({(tuple(names), text) for _, names, text in entries}) == 1


def test_each_option_has_a_help_text() -> None:
    missing = [name for name, entries in parameters().items() for _, _, text in entries if not text]
    assert missing == []


def test_the_help_of_detector_repeats_no_list_of_families() -> None:
    (entry,) = (part for part in DetectorOption.__metadata__ if hasattr(part, "help"))  # type: ignore[attr-defined]
    assert "docs/explanation/detectors.md" in str(entry.help)
    assert not set(re.findall(r"\w+", str(entry.help))) & set(FAMILIES)


@pytest.mark.parametrize(
    ("option", "value"), [("--threads", "0"), ("--seed", "-1"), ("--seed", str(2**31)), ("--device", "tpu")]
)
def test_a_value_out_of_range_is_wrong_usage(option: str, value: str) -> None:
    done = CliRunner().invoke(app, ["score", "part.onnx", "images", option, value])
    assert done.exit_code == 2
    assert option in done.output
