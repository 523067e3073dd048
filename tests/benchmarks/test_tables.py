"""Tests of the shared options and Markdown tables."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import industrial
import one_class
import pytest
import tables
from benchmark_cells import BENCHMARKS, cell


def test_markdown_aligns_all_columns_but_the_first_to_the_right() -> None:
    table = tables.markdown(("class", "AUROC", "caught"), [("cat", "0.500", "1.0%")])
    assert table.splitlines() == ["| class | AUROC | caught |", "| --- | ---: | ---: |", "| cat | 0.500 | 1.0% |"]


def test_missing_values_are_dashes() -> None:
    assert (tables.number(None), tables.percent(None), tables.interval(None), tables.alarms(None)) == ("–",) * 4
    assert tables.thumbnail_aurocs(None) == [None] * len(tables.THUMBNAILS)


def test_mean_ignores_missing_values() -> None:
    assert tables.mean([0.5, None, 1.0]) == 0.75
    assert tables.mean([None]) is None


def test_number_has_a_dagger_only_for_other_code() -> None:
    assert tables.number(0.5, cell()) == "0.500"
    assert tables.number(0.5, cell(code="older")) == "0.500 †"


def test_typed_command_replaces_local_paths_and_drops_options_that_do_not_change_the_table() -> None:
    typed = ["/home/me/one_class.py", "--data", "/home/me/data", "--cache=/tmp/x", "--print", "--set", "mnist"]
    assert tables.typed_command(typed) == "python benchmarks/one_class.py --data $DATA --set mnist"


def test_ranking_sorts_by_the_first_column_with_unreported_results_first() -> None:
    published = [tables.Published("A", (80.0,)), tables.Published("B", (None,), pretrained=True)]
    lines = tables.ranking("ours", [0.7], published, ("mean",)).splitlines()
    assert lines[2:] == [
        "| B | – | pretrained elsewhere |", "| **ours** | 70.0 | from scratch |", "| A | 80.0 | from scratch |",
    ]  # fmt: skip


def test_print_computes_no_cells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "cache"
    assert one_class.main(["--set", "mnist", "mnist-all", "--print", "--cache", str(folder)]) == 0
    assert industrial.main(["--set", "tiles", "--print", "--fresh", "--cache", str(folder)]) == 0
    assert capsys.readouterr().out.count("There are no cells yet") == 3
    assert not folder.exists()


@pytest.mark.parametrize("script", ["one_class", "industrial"])
def test_every_option_is_documented_in_the_readme(script: str, capsys: pytest.CaptureFixture[str]) -> None:
    readme = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
    with pytest.raises(SystemExit):
        importlib.import_module(script).main(["--help"])
    options = set(re.findall(r"(?<![\w-])--[a-z]+", capsys.readouterr().out)) - {"--help"}
    assert len(options) > 8
    assert {option for option in options if f"| `{option}` |" not in readme} == set()
