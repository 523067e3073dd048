"""Tests of the shared options and Markdown tables."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import one_class
import pytest
import tables
from benchmark_cells import BENCHMARKS, cell

from oddlens.errors import OddlensError


def test_markdown_aligns_all_columns_but_the_first_to_the_right() -> None:
    table = tables.markdown(("class", "AUROC", "caught"), [("cat", "0.500", "1.0%")])
    assert table.splitlines() == ["| class | AUROC | caught |", "| --- | ---: | ---: |", "| cat | 0.500 | 1.0% |"]


def test_missing_values_are_dashes() -> None:
    assert (tables.number(None), tables.percent(None)) == ("–", "–")


def test_mean_ignores_missing_values() -> None:
    assert tables.mean([0.5, None, 1.0]) == 0.75
    assert tables.mean([None]) is None


def test_number_has_a_dagger_only_for_other_code() -> None:
    assert tables.number(0.5, cell()) == "0.500"
    assert tables.number(0.5, cell(code="older")) == "0.500 †"


def test_typed_command_replaces_local_paths_and_drops_options_that_do_not_change_the_table() -> None:
    typed = ["/home/me/one_class.py", "--data", "/home/me/data", "--cache=/tmp/x", "--print", "--set", "mnist"]
    assert tables.typed_command(typed) == "python benchmarks/one_class.py --data $DATA --set mnist"
    assert tables.typed_command(["/home/me/peers/run.py"]) == "python benchmarks/peers/run.py"


def test_an_error_in_a_row_is_one_line_and_no_table(capsys: pytest.CaptureFixture[str]) -> None:
    def rows() -> Iterator[list[str]]:
        yield ["a", "1"]
        raise OddlensError("there are no images")

    assert tables.print_table(("set", "n"), rows(), ["light.py"]) == 1
    assert capsys.readouterr() == ("", "error: there are no images\n")
    assert tables.print_table(("set", "n"), [["a", "1"]], ["light.py", "--data", "/home"], "; 3 repeats") == 0
    assert capsys.readouterr().out.endswith("Table: `python benchmarks/light.py --data $DATA`; 3 repeats.\n")


def test_print_computes_no_cells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "cache"
    assert one_class.main(["--set", "mnist", "cifar10", "--print", "--fresh", "--cache", str(folder)]) == 0
    assert capsys.readouterr().out.count("There are no cells yet") == 2
    assert not folder.exists()


def test_every_option_is_documented_in_the_readme(capsys: pytest.CaptureFixture[str]) -> None:
    readme = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
    with pytest.raises(SystemExit):
        one_class.main(["--help"])
    options = set(re.findall(r"(?<![\w-])--[a-z]+", capsys.readouterr().out)) - {"--help"}
    assert len(options) > 8
    assert {option for option in options if f"| `{option}` |" not in readme} == set()
