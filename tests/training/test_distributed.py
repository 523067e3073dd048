"""Two processes train what one would, and the loss of one of them ends the training with an error."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pretrained_extra import needs_pretrained

from oddlens import cli
from oddlens.detector.detector import Detector
from oddlens.errors import SettingsError, StateError, TrainingError
from oddlens.models.ranks import ALONE, Ranks
from oddlens.training import distributed

SCRIPT = Path(__file__).parent.parent / "two_ranks.py"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What two processes report; torchrun would set the same variables."""
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    environment["OMP_NUM_THREADS"] = "1"
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error", SCRIPT, folder],
            env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        errors = [process.communicate(timeout=600)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, -9], errors
    values: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return values


@pytest.mark.parametrize("family", ["autoencoder", "rotation", "defects"])
def test_two_processes_have_the_loss_curve_of_one(results: dict[str, Any], family: str) -> None:
    alone, together = results[family]["losses"]
    assert len(together) == 2
    assert together == pytest.approx(alone, abs=1e-5)


@pytest.mark.parametrize("case", ["rotation-muon", "defects-muon"])
def test_two_processes_have_the_first_epoch_of_one_with_large_steps(results: dict[str, Any], case: str) -> None:
    alone, together = results[case]["losses"]
    assert together[0] == pytest.approx(alone[0], abs=1e-4)  # from then on, a step multiplies what differs


@pytest.mark.parametrize("family", ["autoencoder", "defects", "dictionary"])
def test_scores_are_those_of_one_process(results: dict[str, Any], family: str) -> None:
    assert results[family]["scores"] < 1e-2


@needs_pretrained
@pytest.mark.parametrize("family", ["padim", "padim-with-head", "patchcore", "features"])
def test_scores_of_a_backbones_features_are_those_of_one_process(results: dict[str, Any], family: str) -> None:
    assert results[family]["scores"] < 1e-4


def test_processes_agree_when_the_time_is_over(results: dict[str, Any]) -> None:
    assert results["limited"]["epochs"] < 50
    assert results["limited"]["last"] == 1


def test_a_process_that_is_killed_ends_the_training_with_an_error(results: dict[str, Any]) -> None:
    assert "process 0 of 2 lost the connection to another one" in results["lost"]["message"]
    assert "--resume" in results["lost"]["message"]
    assert results["lost"]["seconds"] < 60


def test_a_training_that_lost_a_process_is_resumed_from_its_checkpoint(results: dict[str, Any]) -> None:
    assert results["lost"]["first_epoch"] == 3
    whole, resumed = results["lost"]["losses"]
    assert resumed == pytest.approx(whole, abs=1e-4)


def test_a_process_that_waits_ends_silently_with_the_first_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Ranks, value: object) -> object:
        raise RuntimeError("gloo: connection closed by peer")

    monkeypatch.setattr(Ranks, "from_first", fail)
    with pytest.raises(SystemExit, match="1"):
        distributed.follow(Ranks(1, 2))


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    distributed.check_gpus(1)
    with pytest.raises(SettingsError, match=r"2 processes on a machine with 1 GPU.*--nproc-per-node=1"):
        distributed.check_gpus(2)


def test_processes_of_other_versions_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    second = Ranks(1, 2)
    monkeypatch.setattr(Ranks, "from_first", lambda self, value: value | {"oddlens": "0.0.1"})
    with pytest.raises(SettingsError, match=r"process 1 runs .* make them the same"):
        distributed.check_versions(second)


def test_only_errors_of_communication_are_taken_for_lost_processes() -> None:
    two = Ranks(0, 2)
    with pytest.raises(TrainingError, match="lost the connection"), distributed.lost_processes(two):
        raise RuntimeError("[/gloo/transport/tcp/pair.cc:547] Connection closed by peer")
    with pytest.raises(RuntimeError, match="shape"), distributed.lost_processes(two):
        raise RuntimeError("the shape is wrong")
    with pytest.raises(RuntimeError, match="gloo"), distributed.lost_processes(ALONE):
        raise RuntimeError("gloo")


@pytest.mark.parametrize("rank", [0, 1])
def test_only_the_first_process_runs_the_command_line(rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ranks, calls = Ranks(rank, 2), list[tuple[str, object]]()
    for name, value in zip(cli.RANK_VARIABLES, (str(rank), "2", "localhost", "1"), strict=True):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(distributed, "process_group", lambda: contextlib.nullcontext(ranks))
    monkeypatch.setattr(distributed, "follow", lambda own: calls.append(("follow", own)))
    monkeypatch.setattr(cli, "app", lambda obj=None: calls.append(("app", obj)))
    cli.main()
    assert calls == [("follow" if rank else "app", ranks)]
    monkeypatch.delenv("RANK")  # without it, nobody else waits
    cli.main()
    assert calls[1:] == [("app", None)]


def test_processes_that_cannot_connect_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in cli.RANK_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with (
        pytest.raises(TrainingError, match=r"cannot connect .*RANK.*; start them with torchrun"),
        distributed.process_group(),
    ):
        pass


def test_a_process_that_follows_does_not_fit() -> None:
    with pytest.raises(StateError, match="process 1 follows the first one"):
        Detector().fit(np.zeros((5, 8, 8), np.uint8), ranks=Ranks(1, 2))
