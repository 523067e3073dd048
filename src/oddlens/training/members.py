"""Members: models that are trained alone, for an ensemble or for folds, within the time that is left."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

from oddlens.config.base import InputSpec, TrainingSettings
from oddlens.config.detectors import FamilySettings, Member
from oddlens.data.image_io import Pixels
from oddlens.data.near_duplicates import near_duplicate_groups, thumbnails
from oddlens.data.pixel_store import take_rows
from oddlens.data.splitting import split_groups
from oddlens.errors import DataError
from oddlens.inference.scoring import batch_size, in_batches, score_batches
from oddlens.inference.torch_backend import TorchBackend
from oddlens.models import registry
from oddlens.models.backbones.onnx_graph import BackboneFile
from oddlens.models.base import GradientModel, Model
from oddlens.models.cross_conformal import CrossConformal
from oddlens.models.ensemble import Ensemble
from oddlens.models.ranks import ALONE, Ranks
from oddlens.training import loop
from oddlens.training.distributed import announce, lost_processes
from oddlens.training.history import HistoryRow, Progress, TrainingRecord, count_epochs
from oddlens.training.time_limit import TimeLimit

MAX_WEIGHTING_IMAGES = 150  # images by which a member is weighted; each is rotated four ways
CLOSED_FORM_COST = 2.0  # of fitting a model in closed form to an image, relative to scoring it
MIN_FITTING_IMAGES = 500  # to which a model is fitted in closed form, however little time is left
MAX_TIMED_IMAGES, MAX_TIMED_PIXELS = 16, 2**17  # of the batch whose time is that of all scoring

M = TypeVar("M", bound=Model)


@dataclass(frozen=True)
class TrainingTask:
    """The images to train on, and how long, where and on what device."""

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
    training: TrainingSettings = field(default_factory=TrainingSettings)  # of a single detector, or of each fold
    calibration: Pixels | None = None  # (n, H, W, C) held-out images, on which a single detector may judge itself
    fit_to_all: bool = False  # fit in closed form to all images, however long that takes, as each of them calibrates
    backbone: BackboneFile | None = None  # the user's own
    ranks: Ranks = ALONE  # the processes that train together
    tiles_per_image: int = 1  # where the images are tiles: image i is one of the image i // tiles_per_image


@dataclass(frozen=True)
class TrainedModel:
    """A trained model with its settings (for an ensemble, the plan that repeats it), history and remarks."""

    model: Model
    settings: FamilySettings
    history: list[HistoryRow]
    remarks: tuple[str, ...]
    records: tuple[TrainingRecord, ...] = ()  # of the members, also of those that the time was too short for
    peaks: npt.NDArray[np.float64] | None = None  # folds: largest value of each training image's map, out of fold


@dataclass(frozen=True)
class TrainedMember:
    """A trained member of an ensemble or a cross-conformal detector."""

    member: Member
    model: Model
    history: list[HistoryRow]
    record: TrainingRecord


def build_untrained(settings: FamilySettings, seed: int, task: TrainingTask) -> Model:
    """A model before training, on its device, with its region of interest and the user's own backbone."""
    model = registry.build(settings, task.spec, seed)
    if task.roi is not None:
        model.set_roi(task.roi)
    if task.backbone is not None and settings.own_backbone is not None:
        model.set_graph(task.backbone.graph)
    model.tiles_per_image = task.tiles_per_image
    return model.to(task.device)


def build_composite(model_class: type[M], settings: FamilySettings, task: TrainingTask) -> M:
    """A model of several members, which are put into it once they are trained."""
    model = build_untrained(settings, task.seed, task)
    if not isinstance(model, model_class):
        raise TypeError(f"the family {settings.family} is registered for {type(model)}, not for {model_class}")
    return model.eval()


def train_member(
    model: Model, member: Member, task: TrainingTask, number: int | None, limit: TimeLimit | None = None
) -> TrainedMember:
    """Train one member; with a number, in a folder of its own. In closed form, on as many images as the time allows."""
    started, folder = time.perf_counter(), task.folder
    if limit is not None and not isinstance(model, GradientModel):
        member = with_fewer_images(member, task, affordable_images(model, task, limit))
    if folder and number is not None:
        folder = folder / "checkpoints" / f"{number}-{member.model.family}"
    ranks = announce(model, task.train, member.training, task.device, task.ranks)
    with lost_processes(ranks):
        history = loop.train(
            model,
            task.train,
            member.training,
            task.device,
            folder=folder,
            resume=task.resume,
            progress=task.progress,
            limit=limit,
            ranks=ranks,
        )
    return TrainedMember(member, model, history, training_record(member, history, task, time.perf_counter() - started))


def training_record(member: Member, history: list[HistoryRow], task: TrainingTask, seconds: float) -> TrainingRecord:
    """How much of its plan a member trained; a fit in closed form is planned to go through all images once."""
    training, count = member.training, len(task.train)
    epochs, planned = count_epochs(history), training.epochs
    if not history:
        epochs, planned = min(1.0, (training.epoch_images or count) / count), 1
    elif training.pace:
        epochs, planned = len(history), len(training.pace)
    return TrainingRecord(member.model.title, epochs, planned, round(seconds, 3))


def affordable_images(model: Model, task: TrainingTask, limit: TimeLimit) -> float:
    """Number of training images to which the model can be fitted in closed form in the time that is left."""
    count, fixed = len(task.train), model.n_closed_form_images(0)
    passes = max(1.0, (model.n_closed_form_images(count) - fixed) / count)  # through the model, of each image
    return (limit.left() / (CLOSED_FORM_COST * seconds_per_image(model, task)) - fixed) / passes


def with_fewer_images(member: Member, task: TrainingTask, affordable: float) -> Member:
    """The member, trained on the affordable number of images where that is less than all."""
    if affordable >= len(task.train):
        return member
    count = min(len(task.train), max(MIN_FITTING_IMAGES, int(affordable)))
    return member.model_copy(update={"training": member.training.model_copy(update={"epoch_images": count})})


def train_single(settings: FamilySettings, task: TrainingTask) -> TrainedModel:
    """Train one detector by itself. It may evaluate itself on the calibration images; they do not change it."""
    model = build_untrained(settings, task.training.seed, task)
    limit = None if task.fit_to_all else time_limit([], [model], task)
    member = train_member(model, Member(model=settings, training=task.training), task, None, limit)
    remark: str | None = None
    if task.calibration is not None and len(task.calibration):
        with torch.inference_mode():
            remark = model.remark(torch.from_numpy(task.calibration).to(task.device))
    remarks = (*fitting_remarks([member]), *([remark] if remark else []))
    return TrainedModel(model, settings, member.history, remarks, (member.record,))


def train_planned(settings: FamilySettings, task: TrainingTask) -> TrainedModel:
    """Train the members of a plan as it says."""
    members = [
        train_member(build_untrained(member.model, member.training.seed, task), member, task, number)
        for number, member in enumerate(settings.planned_members)
    ]
    ensemble = build_ensemble(settings, members, task)
    remarks = ("plan: fitted as a plan says", *fitting_remarks(members))
    records = tuple(member.record for member in members)
    return TrainedModel(ensemble, settings, longest_history(members), remarks, records)


def train_folds(settings: FamilySettings, task: TrainingTask) -> TrainedModel:
    """Train a detector without each fold in turn, and score that fold with it; near-duplicates lie in one fold.

    Raises:
        DataError: the images are near-duplicates of each other, too similar for this many folds.
    """
    count, n_folds = len(task.train), settings.n_folds
    sizes = [(count + number) // n_folds for number in range(n_folds)]
    folds = split_groups(near_duplicate_groups(thumbnails(task.train)), sizes, task.seed)
    if min(len(fold) for fold in folds) == 0:
        raise DataError(f"{count} images with their near-duplicates cannot be split into {n_folds} folds; use fewer")
    model = build_composite(CrossConformal, settings, task)
    members, scores, peaks = [], [], []
    for number, fold in enumerate(folds):
        now = time.perf_counter()
        deadline = now + (task.deadline - now) / (n_folds - number)
        rest = take_rows(task.train, np.delete(np.arange(count), fold))
        fold_task = replace(task, train=rest, to_score=len(fold), deadline=deadline)
        fold_model = build_untrained(settings.base, task.training.seed, fold_task)
        member, limit = Member(model=settings.base, training=task.training), time_limit([], [fold_model], fold_task)
        members.append(train_member(fold_model, member, fold_task, number, limit))
        model.members[number] = fold_model
        fold_scores, fold_peaks = score_fold(fold_model, take_rows(task.train, fold), task)
        scores.append(fold_scores)
        peaks.append(fold_peaks)
    model.set_held_out_scores(scores, peaks)
    scaled = [fold_peaks / scale for fold_peaks, scale in zip(peaks, model.peak.tolist(), strict=True)]
    records = tuple(member.record for member in members)
    remarks = fitting_remarks(members[:1])
    return TrainedModel(model, settings, longest_history(members), remarks, records, np.concatenate(scaled))


def score_fold(
    model: Model, pixels: Pixels, task: TrainingTask
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Scores (n,) of a fold's pixels (n, H, W, C), and the largest values (n,) of their maps; none without maps."""
    batches = in_batches(pixels, batch_size(task.spec))
    predictions = list(score_batches(TorchBackend(model, task.device), batches))
    maps = [batch.anomaly_map.max(axis=(1, 2)) for batch in predictions if batch.anomaly_map is not None]
    peaks = np.concatenate(maps).astype(np.float64) if maps else np.empty(0)
    return np.concatenate([batch.anomaly_score for batch in predictions]), peaks


def fitting_remarks(members: Sequence[TrainedMember]) -> tuple[str, ...]:
    """What fitting in closed form left out, for the user."""
    return tuple(
        f"{member.member.model.title}: {member.model.fitting_remark}"
        for member in members
        if member.model.fitting_remark
    )


def longest_history(members: list[TrainedMember]) -> list[HistoryRow]:
    """The history of the member that trained for the most epochs; empty where none did."""
    return max((member.history for member in members), key=len)


def time_limit(finished: Sequence[Model], untrained: Sequence[Model], task: TrainingTask) -> TimeLimit | None:
    """The time limit of the first untrained model, which shares the time with the others; None without a deadline.

    A fit in closed form comes first. It has its share before the scoring of the others, which may be left out, counts;
    with a backbone, it has all the time that it needs, as it does more in a second than what follows.
    """
    if task.deadline == math.inf:
        return None
    first = untrained[0]
    if isinstance(first, GradientModel):
        return TimeLimit(task.deadline, lambda: seconds_after_training(finished, untrained, task), len(untrained))
    sharers = 1 if first.settings.uses_pretrained else len(untrained)
    return TimeLimit(task.deadline, lambda: seconds_after_training([*finished, first], [], task), sharers)


def seconds_after_training(finished: Sequence[Model], untrained: Sequence[Model], task: TrainingTask) -> float:
    """Estimated seconds of all scoring that follows gradient training, at the present speed of the machine."""
    n_scored = task.to_score + len(task.standardization)
    n_weighting = 2 * min(MAX_WEIGHTING_IMAGES, len(task.standardization))
    seconds = sum(seconds_per_image(model, task) * n_scored for model in finished)
    for model in untrained:
        n_closed_form = model.n_closed_form_images(len(task.train))
        seconds += seconds_per_image(model, task) * (n_scored + n_weighting + n_closed_form)
    return seconds


def seconds_per_image(model: Model, task: TrainingTask) -> float:
    """Seconds that scoring an image takes now, from the times of one small batch, of which the first is too long."""
    count = max(1, min(MAX_TIMED_IMAGES, MAX_TIMED_PIXELS // (task.spec.height * task.spec.width)))
    pixels = torch.from_numpy(task.train[:count]).to(task.device)
    in_training = model.training
    model.eval()
    seconds = []
    with torch.inference_mode():
        batch = model.scale(pixels)
        for _ in range(3):
            started = time.perf_counter()
            float(model(batch).anomaly_score.sum())  # the number waits for the device
            seconds.append(time.perf_counter() - started)
    model.train(in_training)
    return max(1e-9, min(seconds) / len(pixels))


def build_ensemble(settings: FamilySettings, members: list[TrainedMember], task: TrainingTask) -> Ensemble:
    """The ensemble of trained members, brought to one scale."""
    ensemble = build_composite(Ensemble, settings, task)
    for number, member in enumerate(members):
        ensemble.members[number] = member.model
    pixels = task.standardization if len(task.standardization) else task.train
    with torch.inference_mode():
        ensemble.fit_standardization(torch.from_numpy(pixels).to(task.device))
    return ensemble
