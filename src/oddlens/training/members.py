"""Members: single detectors that are trained, alone or for an ensemble or for folds, within the time that there is."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from oddlens.config.base import InputSpec, TrainingSettings
from oddlens.config.detectors import CrossfitSettings, EnsembleSettings, Member, MemberModel, ModelSettings
from oddlens.data.image_io import Pixels
from oddlens.data.near_duplicates import near_duplicate_groups, thumbnails
from oddlens.data.pixel_store import take_rows
from oddlens.data.splitting import split_groups
from oddlens.errors import DataError
from oddlens.inference.scoring import batch_size, in_batches, score_batches
from oddlens.inference.torch_backend import TorchBackend
from oddlens.models import registry
from oddlens.models.base import Model
from oddlens.models.cross_conformal import CrossConformal
from oddlens.models.ensemble import Ensemble
from oddlens.training import loop
from oddlens.training.history import HistoryRow, Progress

MAX_EXAM_IMAGES = 150  # pictures on which a member's worth is found out; each is turned four ways


@dataclass(frozen=True)
class TrainingTask:
    """What is to be learned, and the means for it."""

    train: Pixels  # (N, H, W, C) normal images to train on
    standardization: Pixels  # (M, H, W, C) others, which bring the members to one scale and weight them
    spec: InputSpec
    roi: npt.NDArray[np.bool_] | None
    device: torch.device
    seed: int
    to_score: int = 0  # images that will be scored after training, within the same budget
    deadline: float = math.inf  # of time.perf_counter
    folder: Path | None = None
    resume: bool = False
    progress: Progress | None = None
    robust: bool = False  # see AutoSettings


@dataclass(frozen=True)
class TrainedModel:
    """A model that stands, its settings (an ensemble's are the plan that repeats it), and how it came about."""

    model: Model
    settings: ModelSettings
    history: list[HistoryRow]
    remarks: tuple[str, ...]
    peaks: npt.NDArray[np.float64] | None = None  # of crossfit: the training images' maps' largest values, out of fold


@dataclass(frozen=True)
class TrainedMember:
    """A member that stands, and how it came about."""

    member: Member
    model: Model
    history: list[HistoryRow]


def build_untrained(settings: ModelSettings, seed: int, task: TrainingTask) -> Model:
    """A model before training, on its device and with its region of interest."""
    model = registry.build(settings, task.spec, seed)
    if task.roi is not None:
        model.set_roi(task.roi)
    return model.to(task.device)


def train_member(
    model: Model, member: Member, task: TrainingTask, number: int | None, deadline: float
) -> TrainedMember:
    """Train one member; with a number, in a folder of its own."""
    folder = task.folder
    if folder and number is not None:
        folder = folder / f"{number}-{member.model.family}"
    history = loop.train(
        model,
        task.train,
        member.training,
        task.device,
        folder=folder,
        resume=task.resume,
        progress=task.progress,
        deadline=deadline,
    )
    return TrainedMember(member, model, history)


def train_single(
    settings: MemberModel, training: TrainingSettings, task: TrainingTask, held_out: Pixels
) -> TrainedModel:
    """Train one detector by itself.

    `held_out` are normal pixels (N, H, W, C) on which it may judge itself; they change nothing in it.
    """
    model = build_untrained(settings, training.seed, task)
    deadline = task.deadline - (scoring_seconds([model], task) if task.deadline < math.inf else 0)
    one = train_member(model, Member(model=settings, training=training), task, None, deadline)
    with torch.inference_mode():
        remark = model.remark(torch.from_numpy(held_out).to(task.device)) if len(held_out) else None
    return TrainedModel(model, settings, one.history, (remark,) if remark else ())


def train_planned(settings: EnsembleSettings, task: TrainingTask) -> TrainedModel:
    """Train the members that a plan names, as it says."""
    trained = [
        train_member(build_untrained(member.model, member.training.seed, task), member, task, number, math.inf)
        for number, member in enumerate(settings.members)
    ]
    return TrainedModel(
        build_ensemble(settings, trained, task), settings, longest_history(trained), ("plan: fitted as a plan says",)
    )


def train_folds(settings: CrossfitSettings, training: TrainingSettings, task: TrainingTask) -> TrainedModel:
    """Train a detector without each fold in turn; near-duplicates lie in one fold.

    Raises:
        DataError: the images are near-duplicates of each other, too alike for so many folds.
    """
    count, folds = len(task.train), settings.folds
    sizes = [(count + number) // folds for number in range(folds)]
    parts = split_groups(near_duplicate_groups(thumbnails(task.train)), sizes, task.seed)
    if min(len(part) for part in parts) == 0:
        raise DataError(f"{count} images with their near-duplicates cannot be divided into {folds} folds; take fewer")
    model = build_untrained(settings, task.seed, task).eval()
    assert isinstance(model, CrossConformal)  # noqa: S101 - the family of these settings
    trained, scores, peaks = [], [], []
    for number, fold in enumerate(parts):
        now = time.perf_counter()
        deadline = now + (task.deadline - now) / (folds - number)
        others = np.delete(np.arange(count), fold)
        part = replace(task, train=take_rows(task.train, others), to_score=len(fold), deadline=deadline)
        one = build_untrained(settings.model, training.seed, part)
        if deadline < math.inf:
            deadline -= scoring_seconds([one], part)
        trained.append(train_member(one, Member(model=settings.model, training=training), part, number, deadline))
        model.members[number] = one
        outputs = list(
            score_batches(
                TorchBackend(one, task.device), in_batches(take_rows(task.train, fold), batch_size(task.spec))
            )
        )
        scores.append(np.concatenate([each.anomaly_score for each in outputs]))
        maps = [each.anomaly_map.max(axis=(1, 2)) for each in outputs if each.anomaly_map is not None]
        peaks.append(np.concatenate(maps).astype(np.float64) if maps else np.empty(0))
    model.rank_among(scores, peaks)
    scaled = [part / scale for part, scale in zip(peaks, model.peak.tolist(), strict=True)]
    return TrainedModel(model, settings, longest_history(trained), (), np.concatenate(scaled))


def longest_history(trained: list[TrainedMember]) -> list[HistoryRow]:
    """The history of the member that trained for the most epochs; empty where none did."""
    return max((one.history for one in trained), key=len)


def scoring_seconds(members: list[Model], task: TrainingTask) -> float:
    """How long all that is scored once the networks stand will take, judged by a first batch of pictures."""
    pixels = torch.from_numpy(task.train[: min(32, batch_size(task.spec))]).to(task.device)
    total = 0.0
    for model in members:
        model.eval()
        with torch.inference_mode():
            batch = model.scale(pixels)
            model(batch)
            started = time.perf_counter()
            model(batch)
            once = (time.perf_counter() - started) / len(pixels)
            judged = len(task.standardization) + 2 * min(MAX_EXAM_IMAGES, len(task.standardization))
            total += once * (task.to_score + judged + model.n_closed_form_images(len(task.train)))
    return total


def build_ensemble(settings: EnsembleSettings, trained: list[TrainedMember], task: TrainingTask) -> Ensemble:
    """The ensemble of trained members, on one scale."""
    model = build_untrained(settings, task.seed, task).eval()
    assert isinstance(model, Ensemble)  # noqa: S101 - the family of these settings
    for number, one in enumerate(trained):
        model.members[number] = one.model
    with torch.inference_mode():
        model.standardise(
            torch.from_numpy(task.standardization if len(task.standardization) else task.train).to(task.device)
        )
    return model
