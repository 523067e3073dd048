"""Fourth step of fitting: train a single detector, a planned ensemble, folds, or what `auto` selects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from oddlens.config.detectors import FamilySettings
from oddlens.data.splitting import SplitImages
from oddlens.inference.tiling import TileGrid
from oddlens.io.own_folder import TRAINING_FILES, claim
from oddlens.training.auto import train_auto
from oddlens.training.checkpoints import clear_checkpoints
from oddlens.training.history import Progress, write_history
from oddlens.training.members import TrainedModel, TrainingTask, train_folds, train_planned, train_single
from oddlens.training.own_backbone import describe_parts
from oddlens.training.resolve import FitPlan
from oddlens.training.tile_pixels import training_tiles

TRAINERS: dict[str, Callable[[Any, TrainingTask], TrainedModel]] = {  # each takes the settings of its strategy
    "auto": train_auto,
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
        fit_to_all=plan.leaves_one_out,
        backbone=plan.backbone,
        ranks=plan.ranks,
    )
    remarks: tuple[str, ...] = ()
    if plan.tiling is not None:
        task, remarks = in_tiles(task, TileGrid(split.spec, plan.tiling, split.roi))
    if isinstance(settings, FamilySettings):
        settings, more = describe_parts(settings, task.backbone, task.spec)
        remarks += more
    if folder:
        claim(folder, TRAINING_FILES)
        if not resume:
            clear_checkpoints(folder)
    result = TRAINERS[settings.strategy](settings, task)
    if folder and plan.strategy != "single":  # a single detector's training writes its own
        write_history(folder, result.history)
    return replace(result, remarks=remarks + result.remarks)


def in_tiles(task: TrainingTask, grid: TileGrid) -> tuple[TrainingTask, tuple[str, ...]]:
    """The task of training on the tiles of its images, and a remark where these are not all tiles.

    A tile has no region of interest: pixels outside the image's are 0.
    """
    train, count = training_tiles(task.train, grid, task.seed)
    others = None if task.calibration is None else training_tiles(task.calibration, grid, task.seed)[0]
    task = replace(
        task,
        train=train,
        standardization=training_tiles(task.standardization, grid, task.seed)[0],
        calibration=others,
        spec=grid.tile_spec,
        roi=None,
        to_score=task.to_score * len(grid),
        tiles_per_image=count,
    )
    if count == len(grid):
        return task, ()
    learned = f"{count:,} of the {len(grid):,} tiles of each training image are learned"
    return task, (f"tiles: {learned}, at places that differ from image to image",)
