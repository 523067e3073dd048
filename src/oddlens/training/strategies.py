"""Fourth step of fitting: train a single detector, a planned ensemble, folds, or what `auto` selects."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from oddlens.config.base import TrainingSettings
from oddlens.data.image_io import Pixels
from oddlens.data.splitting import SplitImages
from oddlens.training.auto import train_auto
from oddlens.training.checkpoints import clear_checkpoints
from oddlens.training.history import Progress, write_history
from oddlens.training.members import TrainedModel, TrainingTask, train_folds, train_planned, train_single
from oddlens.training.resolve import FitPlan
from oddlens.training.summary import scored_training_images

_TRAINERS: dict[str, Callable[[Any, TrainingSettings, TrainingTask, Pixels], TrainedModel]] = {
    "auto": lambda _, training, task, calibration: train_auto(task),
    "plan": lambda settings, training, task, calibration: train_planned(settings, task),
    "folds": lambda settings, training, task, calibration: train_folds(settings, training, task),
    "single": train_single,
}


def train_model(
    plan: FitPlan, split: SplitImages, folder: Path | None, resume: bool, progress: Progress | None
) -> TrainedModel:
    """Train as the plan says, on the training part of the split.

    A single detector may say something about itself on the calibration images (`Model.remark`); they change nothing.

    Raises:
        TrainingError: training diverged, or a checkpoint in `folder` belongs to another run.
    """
    calibration = split.calibration.pixels
    task = TrainingTask(
        train=split.train,
        standardization=split.standardization,
        spec=split.spec,
        roi=split.roi,
        device=plan.device,
        seed=plan.training.seed,
        to_score=len(scored_training_images(plan, split)) + len(calibration),
        deadline=plan.deadline,
        folder=folder,
        resume=resume,
        progress=progress,
        robust=plan.robust,
    )
    if folder and not resume:
        clear_checkpoints(folder)
    result = _TRAINERS[plan.strategy](plan.settings, plan.training, task, calibration)
    if folder and plan.strategy != "single":  # a single detector's training writes its own
        write_history(folder, result.history)
    return result
