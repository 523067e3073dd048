"""Fourth step of fitting: train a single detector, a planned ensemble, folds, or what `auto` selects."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from oddlens.config.detectors import FamilySettings
from oddlens.data.splitting import SplitImages
from oddlens.io.own_folder import TRAINING_FILES, claim
from oddlens.training.auto import train_auto
from oddlens.training.checkpoints import clear_checkpoints
from oddlens.training.history import Progress, write_history
from oddlens.training.members import TrainedModel, TrainingTask, train_folds, train_planned, train_single
from oddlens.training.resolve import FitPlan

TRAINERS: dict[str, Callable[[FamilySettings, TrainingTask], TrainedModel]] = {
    "plan": train_planned,
    "folds": train_folds,
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
    settings, calibration = plan.settings, split.calibration.pixels
    task = TrainingTask(
        train=split.train,
        standardization=split.standardization,
        spec=split.spec,
        roi=split.roi,
        device=plan.device,
        seed=plan.training.seed,
        training=plan.training,
        calibration=calibration,
        to_score=plan.n_images_to_score(split.train, calibration),
        deadline=plan.deadline,
        folder=folder,
        resume=resume,
        progress=progress,
        robust=settings.tolerates_contamination,
        fit_to_all=plan.leaves_one_out,
    )
    if folder:
        claim(folder, TRAINING_FILES)
        if not resume:
            clear_checkpoints(folder)
    result = TRAINERS[settings.strategy](settings, task) if isinstance(settings, FamilySettings) else train_auto(task)
    if folder and plan.strategy != "single":  # a single detector's training writes its own
        write_history(folder, result.history)
    return result
