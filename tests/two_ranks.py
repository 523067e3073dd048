"""What two processes train together, and one of them alone; run by `tests/training/test_distributed.py`.

    RANK=0 WORLD_SIZE=2 MASTER_ADDR=localhost MASTER_PORT=29500 python tests/two_ranks.py FOLDER

The first process writes `results.json`. At the end it kills the second one in the middle of a training, and resumes it
alone.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from oddlens.config.base import TrainingSettings
from oddlens.config.detectors import (
    AutoencoderSettings,
    DefectsSettings,
    DictionarySettings,
    FamilySettings,
    FeaturesSettings,
    PadimSettings,
    PatchcoreSettings,
    RotationSettings,
)
from oddlens.data.image_io import Pixels
from oddlens.detector.detector import Detector
from oddlens.errors import OddlensError
from oddlens.models.backbones.efficientnet_lite import is_installed
from oddlens.models.ranks import Ranks
from oddlens.training.distributed import follow, process_group
from oddlens.training.history import TrainingStep

# 33 images: the last batch has one, which both compute.
GRADIENT = TrainingSettings(epochs=2, batch_size=16, precision="fp32", optimizer="adam", seed=3)
MUON = GRADIENT.model_copy(update={"optimizer": "muon"})
ROTATION = RotationSettings(side=16, widths=(8, 8, 16), bank=20)
AUTOENCODER = AutoencoderSettings(widths=(8, 16), latent_dim=8, noise=0.1)
CASES: dict[str, tuple[FamilySettings, TrainingSettings | None]] = {
    "autoencoder": (AUTOENCODER, GRADIENT),
    "rotation": (ROTATION, GRADIENT),
    "rotation-muon": (ROTATION, MUON),
    "defects": (DefectsSettings(widths=(8, 16)), GRADIENT),
    "defects-muon": (DefectsSettings(widths=(8, 16)), MUON),
    "dictionary": (DictionarySettings(atoms=10), None),
}
PRETRAINED: dict[str, tuple[FamilySettings, TrainingSettings | None]] = {
    "padim": (PadimSettings(depths=(1, 2), map_depths=(0, 2), side=16), None),
    "padim-with-head": (PadimSettings(depths=(1, 2), map_depths=(0, 2), side=16, defect_weight=0.5), None),
    "patchcore": (PatchcoreSettings(depths=(1, 2), side=16, bank_megabytes=0.1), None),
    "features": (FeaturesSettings(depths=(1, 2), side=24), None),
}


def images(count: int, seed: int) -> Pixels:
    """Waves in colour with noise, (count, 16, 16, 3)."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:16, :16]
    waves = 100 + 40 * np.sin((rows + 2 * columns)[..., None] / 2 + rng.uniform(0, 1, (count, 1, 1, 3)))
    pixels: Pixels = (waves + rng.normal(0, 6, (count, 16, 16, 3))).astype(np.uint8)
    return pixels


def compare(settings: FamilySettings, training: TrainingSettings | None, ranks: Ranks) -> dict[str, Any]:
    """The loss of each epoch, alone and together, and the largest difference of scores relative to their range."""
    detectors = [
        Detector(settings, training=training).fit(images(33, 0), hold_out=False, ranks=which) for which in (None, ranks)
    ]
    alone, together = (detector.score(images(20, 1)) for detector in detectors)
    difference = float(np.abs(alone - together).max() / np.ptp(alone))
    return {"losses": [[row["loss"] for row in detector.history_] for detector in detectors], "scores": difference}


def limited(ranks: Ranks) -> dict[str, Any]:
    """A training whose time is over from the start: the processes stop after the same step."""
    detector = Detector(AUTOENCODER, training=GRADIENT.model_copy(update={"epochs": 50}), budget=1.0)
    detector.fit(images(33, 0), hold_out=False, ranks=ranks)
    return {"epochs": len(detector.history_), "last": detector.history_[-1]["progress"]}


def lose_second(folder: Path, ranks: Ranks) -> dict[str, Any]:
    """Kill the second process in the third epoch; resume alone, and compare with a run without interruption."""
    training, killed = GRADIENT.model_copy(update={"epochs": 4}), list[float]()

    def kill(step: TrainingStep) -> None:
        if step.epoch == 3 and not killed:
            os.kill(int((folder / "second.pid").read_text()), signal.SIGKILL)
            killed.append(time.monotonic())

    message = ""
    try:
        Detector(AUTOENCODER, training=training).fit(
            images(33, 0), hold_out=False, ranks=ranks, folder=folder, progress=kill
        )
    except OddlensError as error:
        message = str(error)
    seconds = time.monotonic() - killed[0]
    steps = list[TrainingStep]()
    resumed = Detector(AUTOENCODER, training=training).fit(
        images(33, 0), hold_out=False, folder=folder, resume=True, progress=steps.append
    )
    whole = Detector(AUTOENCODER, training=training).fit(images(33, 0), hold_out=False)
    losses = [[row["loss"] for row in detector.history_] for detector in (whole, resumed)]
    return {"message": message, "seconds": seconds, "first_epoch": steps[0].epoch, "losses": losses}


def main() -> None:
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    with process_group() as ranks:
        if not ranks.is_first:
            (folder / "second.pid").write_text(str(os.getpid()))
            follow(ranks)
            return
        cases = CASES | (PRETRAINED if is_installed() else {})
        results: dict[str, Any] = {name: compare(*case, ranks) for name, case in cases.items()}
        results["limited"] = limited(ranks)
        results["lost"] = lose_second(folder, ranks)
        (folder / "results.json").write_text(json.dumps(results))
        os._exit(0)  # there is nobody left to release


if __name__ == "__main__":
    main()
