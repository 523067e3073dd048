"""`oddlens run`: whole recipes, resumable to the bit."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

from command_line import error_of, run_json

RECIPE = """
name = "small"
[data]
source = "digits"
calibration = "test_half"
distort = true
[model]
family = "autoencoder"
architecture = "pooling"
widths = [8]
[training]
epochs = {epochs}
[decision]
method = "train_percentile"
"""


def test_a_recipe_writes_everything_to_one_folder(tmp_path: Path) -> None:
    (tmp_path / "small.toml").write_text(RECIPE.format(epochs=2))
    result = run_json("run", tmp_path / "small.toml", "--out", tmp_path / "out", "--threads", 1)
    files, figures = result["files"], result["files"]["figures"]
    for name, file in {"detector": "detector.safetensors", "history": "history.jsonl", "verdicts": "verdicts.csv",
                       "metrics": "metrics.json", "report": "report.html"}.items():  # fmt: skip
        assert files[name] == str(tmp_path / "out" / file)
    expected = {
        "verdicts",
        "histogram",
        "roc",
        "training",
        *(f"reconstructions-{kind}" for kind in result["per_class"]),
    }
    assert set(figures) == expected
    assert all(
        Path(path).stat().st_size > 0
        for path in [*figures.values(), *(files[name] for name in files if name != "figures")]
    )
    assert set(result["seconds"]) == {"fit", "calibrate", "score"}
    assert result["method"] == "train_percentile"
    assert result["n_normal_rates"] < result["n_normal"]
    saved = json.loads((tmp_path / "out/metrics.json").read_text())
    assert saved["image_auroc"] == result["image_auroc"]


def test_a_run_that_was_killed_and_resumed_gives_bitwise_the_same_scores(tmp_path: Path) -> None:
    (tmp_path / "small.toml").write_text(RECIPE.format(epochs=12))
    arguments = ["run", str(tmp_path / "small.toml"), "--threads", "1", "--out"]
    run_json(*arguments, tmp_path / "whole")
    command = [sys.executable, "-m", "oddlens", *arguments, str(tmp_path / "killed")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    history = tmp_path / "killed/history.jsonl"
    for _ in range(3000):
        if history.exists() and len(history.read_text().splitlines()) >= 3:
            break
        time.sleep(0.02)
    assert process.poll() is None, "still training"
    assert len(history.read_text().splitlines()) >= 3
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed/detector.safetensors").exists()
    run_json(*arguments, tmp_path / "killed", "--resume")
    whole, resumed = ((tmp_path / name / "verdicts.csv").read_bytes() for name in ("whole", "killed"))
    assert whole == resumed


def test_a_recipe_with_a_wrong_setting_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    (tmp_path / "wrong.toml").write_text(RECIPE.format(epochs=2).replace("epochs", "epoch"))
    message = error_of("run", tmp_path / "wrong.toml", "--out", tmp_path / "out")
    assert "did you mean 'epochs'?" in message
    assert not (tmp_path / "out").exists()


def test_a_reference_recipe_on_real_data_has_the_expected_size(real_data: Path, tmp_path: Path) -> None:
    """One epoch of the second reference recipe: the whole recipe takes minutes and is a benchmark, not a test."""
    result = run_json("run", "cifar10-airplane", "--data", real_data, "--out", tmp_path, "--epochs", 1)
    assert (result["n_normal"], result["n_anomalous"], result["n_normal_rates"]) == (1000, 9000, 500)
    assert len(result["per_class"]) == 10
    assert result["per_class"]["airplane"]["auroc"] is None
    assert 0.55 < result["image_auroc"] < 0.75
