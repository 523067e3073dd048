"""What a command prints, and on which stream."""

from __future__ import annotations

import json

import pytest

from oddlens.cli.console import Console, format_cell
from oddlens.training.history import TrainingStep


def test_json_is_alone_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(as_json=True)
    console.say("a note [bold]as it is[/bold]")
    console.table("title", ("a", "b"), [(1, 2.0)])
    console.result({"value": 0.5, "none": None}, ["a line"])
    out, err = capsys.readouterr()
    assert json.loads(out) == {"value": 0.5, "none": None}
    assert err == "a note [bold]as it is[/bold]\n"


def test_tables_and_lines_are_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(as_json=False)
    console.table("title", ("kind", "AUROC"), [("blank", 0.12345), ("normal", None)])
    console.result({"value": 0.5}, ["a line"])
    out = capsys.readouterr().out
    assert "0.123" in out
    assert "–" in out
    assert out.endswith("a line\n")


def test_without_a_terminal_each_epoch_is_one_plain_line(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(as_json=True)
    for epoch in (6, 7):
        for step in (1, 50, 100):
            console.training(TrainingStep(epoch, 10, step, 100, 0.25))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == ["epoch 6/10: loss 0.25", "epoch 7/10: loss 0.25"]
    assert "left" in lines[0]


@pytest.mark.parametrize(("value", "text"), [(None, "–"), (0.12345, "0.123"), (3, "3"), ("a", "a")])
def test_cells_have_three_decimals(value: object, text: str) -> None:
    assert format_cell(value) == text


def test_a_bar_over_bytes_ends_with_the_download_or_when_something_else_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    console = Console(as_json=False)
    console.downloading("a.gz", 5, None)
    console.downloading("a.gz", 9, 9)
    assert console.bar is None
    console.downloading("b.gz", 1, 9)
    bytes_bar = console.bar
    console.training(TrainingStep(1, 2, 1, 3, 0.5))
    assert console.bar is not None
    assert console.bar is not bytes_bar
    assert console.bar.tasks[0].total == 6
    console.close()


def test_names_are_printed_as_they_are_but_never_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(as_json=False)
    name = "[bold]x[/]:smile:\x1b[2J"
    console.table(name, ("file", "score"), [(name, 1.0)])
    console.say(name)
    console.result({}, [name])
    out, err = capsys.readouterr()
    assert out.count(r"[bold]x[/]:smile:\x1b[2J") == 3
    assert err == "[bold]x[/]:smile:\\x1b[2J\n"


def test_a_narrow_terminal_cuts_no_number(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    console = Console(as_json=False)
    console.table("title", ("a long decision",) * 4, [("conformal", "0.0156789", "12.3%", "100.0%")])
    out = capsys.readouterr().out
    assert all(value in out for value in ("conformal", "0.0156789", "12.3%", "100.0%"))


def test_a_table_with_many_columns_breaks_lines_between_words(capsys: pytest.CaptureFixture[str]) -> None:
    columns, name = [f"column {number:02}" for number in range(12)], "thumbnails-32-normalised"
    Console(as_json=False).table("title", columns, [(name, *["0.123 to 0.456"] * 11)])
    out = capsys.readouterr().out
    assert out.count(name) == 1
    assert out.count("0.123") == out.count("0.456") == 11


def test_a_terminal_that_cannot_redraw_gets_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    console = Console(as_json=False)
    console.training(TrainingStep(1, 2, 3, 3, 0.5))
    assert console.bar is None
    assert capsys.readouterr().err.startswith("epoch 1/2: loss 0.5")
