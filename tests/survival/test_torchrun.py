"""`torchrun -m oddlens fit` gives what one process gives, and ends soon after one of its processes was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.survive
PYTHON = [sys.executable, "-m"]
TORCHRUN = [*PYTHON, "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
EPOCHS = {"autoencoder": "4", "defects": "6"}
# In bfloat16, the default where the processor is fast at it, the first step already rounds to three digits.
FLOAT32 = {
    "epochs": 6, "epoch_images": 512, "learning_rate": 3e-3, "optimizer": "muon", "schedule": "linear",
    "precision": "fp32",
}  # fmt: skip
PLAN = {"family": "ensemble", "members": [{"model": {"family": "rotation"}, "training": FLOAT32}]}


def fit(command: list[str], data: str, output: Path, family: str, *options: str) -> list[str]:
    """The command line of a fit; a plan says itself how long it trains."""
    epochs = ["--epochs", EPOCHS[family]] if family in EPOCHS else []
    return [
        *command,
        "oddlens",
        "fit",
        data,
        "-o",
        str(output),
        *([] if "--plan" in options else ["--detector", family]),
        "--threads",
        "1",
        *epochs,
        *options,
    ]


def evaluate(detector: Path, data: str, *options: str) -> float:
    done = subprocess.run(
        [*PYTHON, "oddlens", "eval", str(detector), data, "--json", *options], stdout=subprocess.PIPE, check=True
    )
    auroc: float = json.loads(done.stdout)["image_auroc"]
    return auroc


@pytest.mark.parametrize(
    ("family", "data", "options"),
    [
        ("autoencoder", "digits", ["--normal", "3"]),
        ("rotation", "digits", ["--normal", "3"]),
        ("defects", "tiles", []),
        ("padim", "tiles", []),
        ("patchcore", "tiles", []),
        ("features", "digits", ["--normal", "3"]),
    ],
)
def test_two_processes_give_the_detector_of_one(family: str, data: str, options: list[str], tmp_path: Path) -> None:
    values: list[dict[str, Any]] = []
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps(PLAN))
    planned = ["--plan", str(plan)] if family == "rotation" else []
    for name, command in (("one", PYTHON), ("two", TORCHRUN)):
        output = tmp_path / f"{name}.safetensors"
        done = subprocess.run(
            [*fit(command, data, output, family, *options, *planned), "--json"],
            capture_output=True,
            text=True,
            check=True,
        )
        history = json.loads(done.stdout)["history"]
        values.append({**history, "image_auroc": evaluate(output, data, *options)})
    print(family, values)
    one, two = values
    assert two["image_auroc"] == pytest.approx(one["image_auroc"], abs=0.005)
    if family in (*EPOCHS, "rotation"):
        assert two["first_loss"] == pytest.approx(one["first_loss"], abs=1e-2 if family == "defects" else 1e-4)


def processes_of(parent: int) -> dict[int, int]:
    """The processes that torchrun started, by their ranks."""
    ranks = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if int(path.joinpath("stat").read_text().rpartition(")")[2].split()[1]) == parent:
                variables = dict(
                    item.split("=", 1) for item in path.joinpath("environ").read_text().split("\0") if "=" in item
                )
                ranks[int(variables["RANK"])] = int(path.name)
        except (OSError, KeyError, ValueError):
            continue
    return ranks


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_the_job_which_resumes(rank: int, tmp_path: Path) -> None:
    output, whole = tmp_path / "part.safetensors", tmp_path / "whole.safetensors"
    options = ["--normal", "3", "--epochs", "200"]
    with subprocess.Popen(
        fit(TORCHRUN, "digits", output, "autoencoder", *options), stderr=subprocess.PIPE, text=True
    ) as job:
        while not list(tmp_path.glob("*.training/checkpoints/epoch-000005.safetensors")):
            assert job.poll() is None, job.communicate()
            time.sleep(0.05)
        os.kill(processes_of(job.pid)[rank], signal.SIGKILL)
        killed = time.monotonic()
        errors = job.communicate(timeout=120)[1]
    seconds = time.monotonic() - killed
    print(f"rank {rank} killed: ended after {seconds:.1f} s with {job.returncode}")
    assert job.returncode == 1
    assert seconds < 60
    assert not output.exists()
    assert len(list(tmp_path.glob("*.training"))) == 1, errors
    subprocess.run([*fit(TORCHRUN, "digits", output, "autoencoder", *options), "--resume"], check=True)
    subprocess.run(fit(PYTHON, "digits", whole, "autoencoder", *options), check=True)
    aurocs = [evaluate(path, "digits", "--normal", "3") for path in (output, whole)]
    assert aurocs[0] == pytest.approx(aurocs[1], abs=0.005)
    assert not list(tmp_path.glob("*.training"))
