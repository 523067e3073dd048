"""Fifth step of fitting: the trained model as a backend, with its statistics and its manifest."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from oddlens.artifact.detector_file import Tensors
from oddlens.config.manifest import DataSummary, Manifest
from oddlens.data.image_io import Index, Pixels
from oddlens.data.near_duplicates import fingerprints
from oddlens.data.preprocessing import mean_brightness
from oddlens.data.splitting import CalibrationSet, SplitImages
from oddlens.inference.backend import Backend
from oddlens.inference.golden import golden_scores
from oddlens.inference.scoring import anomaly_scores, batch_size, in_batches, score_batches
from oddlens.inference.tiling import with_tiles
from oddlens.inference.torch_backend import TorchBackend
from oddlens.io.digests import digest
from oddlens.io.text import as_text
from oddlens.models.base import Model, leave_groups_out, leave_one_out
from oddlens.training.history import HistoryRow, TrainingRecord
from oddlens.training.members import TrainedModel
from oddlens.training.resolve import MIN_SCORED_TRAINING_IMAGES, FitPlan, spaced

MAX_TIMED_IMAGES = 16  # whose scoring is timed, to know how many training images there is time for
MAX_TIMED_PIXELS = 2**22  # of these, but for the first
SCORING_SHARE = 0.5  # of that number: a large batch can take twice as long for each image as a small one


@dataclass(frozen=True)
class FitResult:
    """A detector that is trained but, unless its training images calibrate it, not calibrated yet."""

    backend: Backend
    roi: npt.NDArray[np.bool_] | None  # (H, W)
    statistics: Tensors
    manifest: Manifest
    history: list[HistoryRow]
    records: tuple[TrainingRecord, ...]
    calibration: CalibrationSet | None  # None where the calibration is complete: out of fold, or by leave-one-out
    seconds: float

    @property
    def folds(self) -> int:
        """Number of folds in which it was trained; 1 without folds."""
        return self.manifest.model.n_folds


def summarize(plan: FitPlan, split: SplitImages, result: TrainedModel, started: float) -> FitResult:
    """Score the training images, and collect what is known about the model; `started` is of time.perf_counter."""
    backend = with_tiles(TorchBackend(result.model, plan.device), split.spec, plan.tiling, split.roi)
    prints = np.sort(np.concatenate([fingerprints(split.train), fingerprints(split.standardization)]))
    calibration: CalibrationSet | None = None
    if plan.strategy == "folds":
        statistics = out_of_fold_statistics(prints, np.empty(0) if result.peaks is None else np.sort(result.peaks))
    elif plan.leaves_one_out:
        statistics = leave_one_out_statistics(backend, result.model, split.train, split.train_clusters)
    else:
        calibration = split.calibration
        statistics = {"training.scores": np.empty(0)}
        if not result.settings.uses_pretrained:  # Gaussians of features are too close to the images they are fitted to
            pixels = affordable_images(backend, plan, split)
            statistics["training.scores"] = training_scores(backend, result.model, pixels)
    statistics["training.fingerprints"] = prints
    data = DataSummary(
        source=as_text(split.source),
        normal=as_text(split.normal),
        n_training=len(split.train),
        n_standardising=len(split.standardization),
        fingerprint=digest([prints.tobytes()]),
        folds=plan.settings.n_folds,
        calibration="leave_one_out" if plan.leaves_one_out else "held_out",
        calibration_source=calibration_source(plan),
        count_by="image" if plan.strategy == "folds" else plan.count_by,
    )
    manifest = build_manifest(plan, split, result, data, golden_scores(backend))
    seconds = round(time.perf_counter() - started, 3)
    return FitResult(backend, split.roi, statistics, manifest, result.history, result.records, calibration, seconds)


def affordable_images(backend: Backend, plan: FitPlan, split: SplitImages) -> Pixels:
    """The training images (n, H, W, C) that are scored: fewer where calibration leaves too little time for all."""
    pixels = plan.scored_images(split.train)
    if not plan.may_score_fewer or len(pixels) <= MIN_SCORED_TRAINING_IMAGES:
        return pixels
    batch = pixels[: max(1, min(MAX_TIMED_IMAGES, MAX_TIMED_PIXELS // pixels[0].size))]
    started = time.perf_counter()
    backend(batch)
    now = time.perf_counter()
    affordable = (plan.deadline - now) * len(batch) / max(1e-9, now - started) - len(split.calibration.pixels)
    return spaced(pixels, max(MIN_SCORED_TRAINING_IMAGES, int(affordable * SCORING_SHARE)))


def training_scores(backend: Backend, model: Model, pixels: Pixels) -> npt.NDArray[np.float64]:
    """Sorted scores (n,) of training images (n, H, W, C), none of which is compared with itself."""
    with leave_one_out(model):
        return np.sort(anomaly_scores(backend, in_batches(pixels, batch_size(backend.spec))))


def out_of_fold_statistics(prints: npt.NDArray[np.uint64], peaks: npt.NDArray[np.float64]) -> Tensors:
    """The calibration of crossfit, whose scores are ranks: among n images, the one at rank r from the top has -r."""
    return {
        "training.scores": np.empty(0),
        "calibration.scores": -np.arange(len(prints), 0, -1, dtype=np.float64),
        "calibration.map_peaks": peaks,
        "calibration.fingerprints": np.sort(prints),
        "calibration.groups": np.empty(0, dtype=np.uint64),
        "calibration.clusters": np.empty(0, dtype=np.uint64),
        "calibration.brightness": np.empty(0),
    }


def leave_one_out_statistics(backend: Backend, model: Model, pixels: Pixels, clusters: Index) -> Tensors:
    """The calibration by leave-one-out, from training images (n, H, W, C) and the groups (n,) left out together.

    The model of a tiled backend scores the tiles of one image at a time, which all belong to its group.
    """
    scores, peaks, size = [], [], batch_size(backend.spec) if isinstance(backend, TorchBackend) else 1
    groups = torch.from_numpy(clusters).to(model.roi.device)
    training_groups = groups.repeat_interleave(model.tiles_per_image)
    for start in range(0, len(pixels), size):
        rows = slice(start, start + size)
        with leave_groups_out(model, training_groups, groups[rows]):
            (predictions,) = score_batches(backend, [pixels[rows]])
        scores.append(predictions.anomaly_score)
        if predictions.anomaly_map is not None:
            peaks.append(predictions.anomaly_map.max(axis=(1, 2)).astype(np.float64))
    all_scores = np.concatenate(scores)
    order = np.argsort(all_scores, kind="stable")
    has_clusters = len(np.unique(clusters)) < len(clusters)
    return {
        "training.scores": all_scores[order],
        "calibration.scores": all_scores[order],
        "calibration.map_peaks": np.sort(np.concatenate(peaks)) if peaks else np.empty(0),
        "calibration.fingerprints": np.sort(fingerprints(pixels)),
        "calibration.groups": np.empty(0, dtype=np.uint64),
        "calibration.clusters": clusters[order if has_clusters else slice(0)].astype(np.uint64),
        "calibration.brightness": mean_brightness(pixels, backend.spec.value_max)[order],
    }


def calibration_source(plan: FitPlan) -> str:
    """Where a calibration that is complete after training comes from; "none" where it is still to come."""
    if plan.leaves_one_out:
        return "the training images, each left out once"
    return f"out of fold, {plan.settings.n_folds} folds" if plan.strategy == "folds" else "none"


def build_manifest(
    plan: FitPlan, split: SplitImages, result: TrainedModel, data: DataSummary, golden: tuple[float, ...]
) -> Manifest:
    """The manifest of a trained model."""
    return Manifest(
        model=result.settings,
        training=plan.training,
        input=split.spec,
        tiling=plan.tiling,
        decision=plan.decision,
        data=data,
        history=summarize_history(result.history),
        remarks=(*split.remarks, *result.remarks),
        versions=package_versions(),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        notices=result.model.notices(),
        golden=golden,
    )


def summarize_history(history: Sequence[HistoryRow]) -> dict[str, float]:
    """The training history in four numbers; empty for models without gradient training."""
    if not history:
        return {}
    return {
        "epochs": float(len(history)),
        "first_loss": history[0]["loss"],
        "last_loss": history[-1]["loss"],
        "seconds": round(sum(row["seconds"] for row in history), 3),
    }


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that made a detector."""
    packages = {name: importlib.metadata.version(name) for name in ("oddlens", "numpy", "pillow", "torch")}
    return {"python": platform.python_version(), **packages}
