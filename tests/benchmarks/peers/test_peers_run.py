"""Tests of the comparison with peers."""

from __future__ import annotations

import argparse
import runpy
from pathlib import Path
from typing import Any

import pytest
from benchmark_cells import BENCHMARKS, cell
from cells import Cells

from oddlens.errors import OddlensError

OURS = [{"seconds": {"fit": 12.0}}, {"history": {"epochs": 2, "seconds": 10.0, "last_loss": 0.5}}]
THEIRS = {"seconds_fit": 20.0, "seconds_threshold": 1.0, "seconds_epochs": [9.0, 11.0], "loss": 0.4}


@pytest.fixture(scope="module")
def run() -> dict[str, Any]:
    """The names of the script."""
    return runpy.run_path(str(BENCHMARKS / "peers/run.py"))


def test_seconds_include_the_threshold_and_extrapolate_by_the_mean_epoch(run: dict[str, Any]) -> None:
    pair = cell(("a", "b", "c"), *OURS, THEIRS)
    assert [run["seconds"](pair, ours=ours, as_if=None) for ours in (True, False)] == [12.0, 21.0]
    assert [run["seconds"](pair, ours=ours, as_if=10) for ours in (True, False)] == [52.0, 101.0]


def test_extrapolation_without_seconds_per_epoch_is_an_error(run: dict[str, Any]) -> None:
    pair = cell(("a", "b", "c"), *OURS, {"seconds_fit": 20.0})
    with pytest.raises(OddlensError, match="--as-if needs the seconds per epoch"):
        run["seconds"](pair, ours=False, as_if=10)


def test_qualities_have_a_standard_deviation_over_several_pairs(run: dict[str, Any]) -> None:
    pair = cell(("a", "b", "c"), *OURS, THEIRS)
    other = cell(("a", "b", "c"), *OURS, THEIRS | {"loss": 0.6})
    assert run["qualities"]([pair], "loss", ours=True) == "0.5000"
    assert run["qualities"]([pair, other], "loss", ours=False) == "0.5000 ± 0.1414"
    assert run["qualities"]([pair], "auroc", ours=True) == "–"


def test_rates_are_those_of_scoring_files_on_both_sides(run: dict[str, Any]) -> None:
    ours, theirs = {"n": 80, "seconds": {"score": 2.0}}, {"images_per_second": 10.0, "seconds_pass": [8.0]}
    assert run["rates"]([cell(("a", "b", "c"), *OURS, ours, theirs)]) == "10.0, 40.0, **4.00**"
    assert run["rates"]([cell(("a", "b", "c"), *OURS, THEIRS)]) == "–"
    evaluated = {"image_auroc": 0.9, "seconds": {"score": 2.0}}  # of `oddlens eval`
    assert run["rates"]([cell(("a", "b", "c"), *OURS, evaluated, theirs)]) == "–"


def test_pairs_use_one_random_seed_on_both_sides(run: dict[str, Any]) -> None:
    options = argparse.Namespace(epochs=3, threads=2, extra=["--images", "200"])
    *ours, theirs = run["pair"]("torch-cifar", 4, options).commands
    assert ours[0].startswith("oddlens run cifar10-airplane")
    assert "--epochs 3 --seed 4 --threads 2 --json" in ours[0]
    assert theirs.endswith("plain_pytorch.py cifar --data $DATA --epochs 3 --seed 4 --threads 2 --images 200")


def test_print_shows_a_table_without_running_anything(
    run: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "cache"
    assert run["main"](["--peer", "torch-mnist", "--print", "--cache", str(folder), "--data", str(tmp_path)]) == 0
    assert "| MNIST recipe, plain PyTorch | –" in capsys.readouterr().out
    assert Cells(folder).used == {}
    assert not folder.exists()
