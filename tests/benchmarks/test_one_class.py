"""Tests of the one-class tables."""

from __future__ import annotations

from pathlib import Path

import cells as c
import one_class
import pytest
from benchmark_cells import eval_result, put, table_rows
from dataset_files import write_idx_files

KINDS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def cifar(folder: Path, budget: str | None = "5m") -> None:
    """Synthetic cells of all classes, with AUROCs of 0.90, 0.91 and so on; airplane with three seeds."""
    for index, kind in enumerate(KINDS):
        repeated = (0, 1, 2) if kind == "airplane" else (0,)
        for seed in repeated:
            fit = {"seconds": {"fit": 200.0 + index + 50 * seed}}
            put(folder, c.fit_and_eval("cifar10", kind, "auto", seed, budget=budget), fit,
                eval_result(0.90 + index / 100 + seed * 0.02))  # fmt: skip


def test_class_table_shows_every_class_with_mean_and_spread(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cifar(tmp_path)
    assert one_class.main(["--set", "cifar10", "--print", "--cache", str(tmp_path)]) == 0
    table = table_rows(capsys.readouterr().out)
    assert [kind for kind in KINDS if kind in table] == list(KINDS)
    airplane, truck, mean = table["airplane"], table["truck"], table["**mean** of 10"]
    assert airplane == ["0.900", "0.890 to 0.910", "0.920 ± 0.020 (3)", "0.8% (1.0%)", "50.0%", "300.0"]
    assert truck[2] == "–"
    assert mean == ["**0.945**", "", "", "0.8%", "50.0%", "longest 300.0"]


def test_mean_of_an_incomplete_table_states_the_number_of_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cifar(tmp_path)
    c.Cells(tmp_path).path(c.fit_and_eval("cifar10", "truck", "auto", 0, budget="5m")).unlink()
    one_class.main(["--set", "cifar10", "--print", "--cache", str(tmp_path)])
    table = table_rows(capsys.readouterr().out)
    assert table["**mean** of 10"][0] == "**0.940** (9 of 10)"
    assert table["truck"][0] == "–"


def test_cells_of_another_budget_are_not_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cifar(tmp_path, budget="60s")
    one_class.main(["--set", "cifar10", "--print", "--cache", str(tmp_path)])
    assert table_rows(capsys.readouterr().out)["airplane"][0] == "–"
    one_class.main(["--set", "cifar10", "--budget", "60s", "--print", "--cache", str(tmp_path)])
    assert table_rows(capsys.readouterr().out)["airplane"][0] == "0.900"


def test_provenance_shows_commands_without_local_paths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cifar(tmp_path)
    one_class.main(["--set", "cifar10", "--data", "/home/me/data", "--print", f"--cache={tmp_path}", "--threads=2"])
    capsys.readouterr()
    one_class.main(["--set", "cifar10", "--data", "/home/me/data", "--print", f"--cache={tmp_path}"])
    text = capsys.readouterr().out
    assert "Table: `python benchmarks/one_class.py --set cifar10 --data $DATA`." in text
    assert "oddlens fit cifar10 --normal airplane --data $DATA --detector auto --budget 5m --seed 0 --json" in text
    assert "Longest fit: 300.0 s (`seconds.fit`), 2.0 s for the whole process." in text
    assert "Machine: a machine; load before the cells 0.1 to 0.1." in text
    assert "/home/me" not in text
    assert str(tmp_path) not in text


def test_a_failed_cell_does_not_stop_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "--set",
        "mnist",
        "--detector",
        "autoencoder",
        "--classes",
        "3",
        "--cache",
        str(tmp_path),
        "--threads",
        "1",
    ]
    write_idx_files(tmp_path / "MNIST/raw")
    assert one_class.main([*words, "--data", str(tmp_path), "--", "--no-such-option"]) == 1
    out, err = capsys.readouterr()
    assert table_rows(out)["3"] == ["–"] * 6
    assert "error: 1 cells failed: mnist-3-autoencoder-s0" in err


@pytest.mark.usefixtures("no_data_elsewhere")
def test_missing_data_set_is_reported_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--set", "fashion-mnist", "--data", str(tmp_path), "--cache", str(tmp_path / "cache")]
    assert one_class.main(words) == 1
    out, err = capsys.readouterr()
    assert table_rows(out)["ankle boot"][0] == "–"
    assert len([line for line in err.splitlines() if "FashionMNIST/raw" in line]) == 1
    assert not (tmp_path / "cache").exists()
