"""What `Detector.fit` does before it calibrates, in five steps: resolve settings, load, split, train, summarize."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from oddlens.data.image_header import ImageInfo
from oddlens.data.open import Images, as_training_images
from oddlens.data.splitting import split_training_images
from oddlens.data.training_images import load_training_images
from oddlens.inference.torch_threads import fork_safe
from oddlens.io.own_folder import TRAINING_FILES, check_claim
from oddlens.training.history import Log, Progress
from oddlens.training.resolve import FitConfig, FitPlan, resolve
from oddlens.training.strategies import train_model
from oddlens.training.summary import FitResult, summarize
from oddlens.training.tiling import choose_tiling, describe_tiling


@fork_safe()
def fit(
    config: FitConfig,
    images: Images,
    folder: Path | None,
    resume: bool,
    progress: Progress | None,
    log: Log | None = None,
    budget_started: float | None = None,
) -> FitResult:
    """Train on normal images; see `Detector.fit`. The budget began at `budget_started` (of `time.perf_counter`).

    Raises:
        SettingsError, DataError, CalibrationError: before training; see the five steps.
        TrainingError: training diverged.
    """
    started = time.perf_counter()
    if folder:
        check_claim(folder, TRAINING_FILES)
    image_set = as_training_images(images)
    plan = resolve(config, len(image_set), bool(image_set.groups), budget_started or started)
    infos, tile_remarks = image_set.infos(), tuple[str, ...]()
    canvas = choose_tiling(infos, plan.tile, plan.size, plan.max_sides, plan.seconds)
    if canvas is not None:
        plan, tile_remarks = replace(plan, tiling=canvas.tiling), (describe_tiling(infos, canvas),)
    shape = whole_shape(plan, infos) if canvas is None else (canvas.height, canvas.width)
    loaded = load_training_images(image_set, shape, plan.max_sides, plan.roi, infos)
    loaded = replace(loaded, remarks=tile_remarks + loaded.remarks)
    if log is not None:
        for remark in loaded.remarks:
            log(remark)
    split = split_training_images(
        loaded,
        plan.decision,
        plan.training.seed,
        hold_out=plan.holds_out,
        standardize=plan.is_ensemble,
        count_by=plan.count_by,
        leave_one_out=plan.leaves_one_out,
    )
    result = train_model(plan, split, folder, resume, progress)
    return summarize(plan, split, result, started)


def whole_shape(plan: FitPlan, infos: Sequence[ImageInfo]) -> int | tuple[int, int] | None:
    """The size of images that are scored whole: `size`, or that of the user's own backbone where it prescribes one.

    Images that are all smaller, or smaller and as large, stay as they are, and the model enlarges them.
    """
    if plan.size is not None or plan.backbone is None or not infos:
        return plan.size
    height, width = plan.backbone.graph.fixed
    if height is None or width is None:
        return None
    is_larger = any(info.height > height or info.width > width for info in infos)
    is_exact = all(info.height == height and info.width == width for info in infos)
    return (height, width) if is_larger or is_exact else None
