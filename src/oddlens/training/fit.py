"""What `Detector.fit` does before it calibrates: settles what is asked, divides the images, trains, takes stock."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import math
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from oddlens.artifact import detector_file
from oddlens.config.base import DecisionSettings, InputSpec, TrainingSettings
from oddlens.config.detectors import (
    DEFAULT_BUDGET,
    DEFAULT_TRAINING,
    AutoSettings,
    CrossfitSettings,
    EnsembleSettings,
    ModelSettings,
)
from oddlens.config.manifest import DataSummary, Manifest
from oddlens.config.parse import parse_model
from oddlens.conformal.ranks import threshold_rank
from oddlens.data.image_io import Pixels
from oddlens.data.image_set import ImageSet
from oddlens.data.near_duplicates import fingerprints
from oddlens.data.pixel_store import take_rows
from oddlens.data.preprocessing import read_roi
from oddlens.data.splitting import CalibrationSet, split_normals
from oddlens.errors import DataError, SettingsError
from oddlens.inference.golden import golden_scores
from oddlens.inference.scoring import anomaly_scores, batch_size, in_batches
from oddlens.inference.torch_backend import TorchBackend, resolve_device
from oddlens.models.base import leave_one_out
from oddlens.training import checkpoints, history
from oddlens.training.auto import train_auto
from oddlens.training.history import HistoryRow, Progress
from oddlens.training.members import TrainedModel, TrainingTask, train_folds, train_planned, train_single

RESERVE = 0.05  # share of the budget kept for what nobody foresees
SAVING = 3.0  # seconds of it kept for finding the threshold and writing the file
AUTO_SIDE = 192  # longer side that `auto` gives pictures at most: small defects need more than the usual 128
TRAINING_SCORED = 500  # training images at most that are scored where scoring one is not nearly free


@dataclass(frozen=True)
class FitConfig:
    """What a detector was asked to be: the parameters of `Detector`, and whether to hold images out."""

    model: str | ModelSettings | AutoSettings
    training: TrainingSettings | None
    decision: DecisionSettings
    size: int | None
    roi: str | None
    device: str
    budget: float | None
    hold_out: bool

    @property
    def model_settings(self) -> ModelSettings | None:
        """The settings of the model to make; None where `auto` chooses them."""
        if self.model == "auto" or isinstance(self.model, AutoSettings):
            return None
        if self.model == "ensemble":
            raise SettingsError("an ensemble needs members: take auto, which chooses them, or give a plan (--plan)")
        return parse_model({"family": self.model}, "--detector") if isinstance(self.model, str) else self.model

    @property
    def is_composite(self) -> bool:
        """Whether several detectors are to work together."""
        wanted = self.model_settings
        return wanted is None or isinstance(wanted, EnsembleSettings)

    @property
    def seconds(self) -> float:
        """How long fitting may take."""
        wanted = self.model_settings
        if self.budget is None:
            return DEFAULT_BUDGET if wanted is None else math.inf
        if self.budget <= 0:
            raise SettingsError(f"the budget of {self.budget:g} s leaves no time to fit; give at least some seconds")
        if isinstance(wanted, EnsembleSettings):
            raise SettingsError("a plan is trained as it says and takes no budget; leave one of the two out")
        return self.budget

    @property
    def resolved_training(self) -> TrainingSettings:
        """The family's usual training, changed by what was set."""
        wanted = self.model_settings.model if isinstance(self.model_settings, CrossfitSettings) else self.model_settings
        usual = DEFAULT_TRAINING["ensemble" if wanted is None else wanted.family]
        asked = self.training or usual
        changes = {name: getattr(asked, name) for name in asked.model_fields_set}
        if isinstance(wanted, EnsembleSettings):  # a plan is repeated with its own seed
            changes.setdefault("seed", wanted.members[0].training.seed)
        family, others = "auto" if wanted is None else wanted.family, sorted(changes.keys() - {"seed"})
        if family in ("auto", "ensemble") and others:
            raise SettingsError(
                f"{', '.join(others)} cannot be set for auto and ensembles, whose members train each in its own way; "
                "set the budget, or choose a single detector"
            )
        if family == "dictionary" and others:
            raise SettingsError(f"{', '.join(others)} cannot be set for the dictionary, which is learned in one step")
        if family == "autoencoder" and changes.get("optimizer") == "muon":
            raise SettingsError("muon is for networks with normalisation; the autoencoder has none: use adam")
        return usual.model_copy(update=changes)


@dataclass(frozen=True)
class FitResult:
    """A detector that is trained and not calibrated yet."""

    backend: TorchBackend
    roi: npt.NDArray[np.bool_] | None
    statistics: detector_file.Tensors
    manifest: Manifest  # without the images' origin
    history: list[HistoryRow]
    held_out: CalibrationSet | None  # None where it is calibrated already: out of fold
    seconds: float


def fit(asked: FitConfig, known: ImageSet, folder: Path | None, resume: bool, progress: Progress | None) -> FitResult:
    """Train on a part of the normal images `known`; see `Detector.fit`."""
    started = time.perf_counter()
    training, device, combined = asked.resolved_training, resolve_device(asked.device), asked.is_composite
    deadline = started + asked.seconds * (1 - RESERVE) - SAVING
    if len(known) < 2:
        raise DataError(f"{len(known)} normal image(s) found; fitting needs at least 2, and about 200 to promise 1%")
    spec = choose_spec(known, asked.size, AUTO_SIDE if combined else None)
    pixels = known.load(spec)
    roi = read_roi(asked.roi, spec) if asked.roi else None
    learn, standard, hold = np.arange(len(pixels)), np.arange(0), np.arange(0)
    crossed = isinstance(asked.model_settings, CrossfitSettings)
    if crossed:
        check_folds(asked, known, len(pixels))
    elif asked.hold_out or combined:
        learn, standard, hold = split_normals(
            pixels, asked.decision, training.seed, hold_out=asked.hold_out, standardise=combined, groups=known.groups
        )
    scored = learn[:: max(1, -(-len(learn) // TRAINING_SCORED))] if combined else learn
    task = TrainingTask(
        take_rows(pixels, learn), take_rows(pixels, standard), spec, roi, device, training.seed,
        to_score=len(scored) + len(hold), deadline=deadline, folder=folder, resume=resume, progress=progress,
        robust=isinstance(asked.model, AutoSettings) and asked.model.robust,
    )  # fmt: skip
    held_out = take_rows(pixels, hold)
    found = train_model(asked.model_settings, training, task, held_out)
    backend = TorchBackend(found.model, device)
    statistics: detector_file.Tensors = {}
    if crossed:
        peaks = np.empty(0) if found.peaks is None else np.sort(found.peaks)
        statistics |= {"training.scores": np.empty(0), **out_of_fold_statistics(fingerprints(pixels), peaks)}
    else:
        with leave_one_out(found.model):
            statistics["training.scores"] = np.sort(
                anomaly_scores(backend, in_batches(take_rows(pixels, scored), batch_size(spec)))
            )
    learned = np.sort(np.concatenate([fingerprints(task.train), fingerprints(task.standardization)]))
    data = DataSummary(
        source="",
        normal="",
        n_training=len(learn),
        n_standardising=len(standard),
        fingerprint=hashlib.blake2b(learned.tobytes(), digest_size=16).hexdigest(),
    )
    golden = golden_scores(backend)
    return FitResult(
        backend,
        roi,
        statistics | {"training.fingerprints": learned},
        build_manifest(found, training, spec, asked.decision, data, golden),
        found.history,
        None if crossed else CalibrationSet(held_out, known.subset(hold).groups, known.grouped_by),
        round(time.perf_counter() - started, 3),
    )


def train_model(
    wanted: ModelSettings | None, training: TrainingSettings, task: TrainingTask, held_out: Pixels
) -> TrainedModel:
    """Train what is wanted: a single detector, a planned ensemble, folds, or (None) whatever suits the pictures.

    `held_out` are normal pixels (N, H, W, C) on which a single detector may judge itself; they change nothing in it.
    """
    if task.folder and not task.resume:
        checkpoints.clear_checkpoints(task.folder)
    if wanted is None:
        found = train_auto(task)
    elif isinstance(wanted, EnsembleSettings):
        found = train_planned(wanted, task)
    elif isinstance(wanted, CrossfitSettings):
        found = train_folds(wanted, training, task)
    else:
        return train_single(wanted, training, task, held_out)
    if task.folder:
        history.write_history(task.folder, found.history)
    return found


def check_folds(asked: FitConfig, known: ImageSet, count: int) -> None:
    """What crossfit cannot do, said before training.

    Raises:
        SettingsError: groups, a confidence, a percentile or no held-out images were asked for.
        DataError: there are no more images than folds.
        CalibrationError: so many images in so many folds cannot promise the asked rate.
    """
    assert isinstance(asked.model_settings, CrossfitSettings)  # noqa: S101 - the caller saw to it
    if known.groups or asked.decision.confidence is not None or not asked.hold_out:
        raise SettingsError(
            "folds go neither with groups, nor with a confidence, nor with images held out elsewhere: leave those "
            "out, or the folds"
        )
    rate, folds = asked.decision.false_alarm_rate, asked.model_settings.folds
    if asked.decision.method != "conformal":
        raise SettingsError("folds score no image that they learned, so that there is no percentile of training scores")
    if count <= folds:
        raise DataError(f"{count} images in {folds} folds can promise nothing; give more, or take fewer folds")
    if rate is not None:
        threshold_rank(count, rate, None, folds)


def out_of_fold_statistics(prints: npt.NDArray[np.uint64], peaks: npt.NDArray[np.float64]) -> detector_file.Tensors:
    """The calibration of crossfit, whose scores are ranks: among n images, the one at rank r from the top has -r."""
    return {
        "calibration.scores": -np.arange(len(prints), 0, -1, dtype=np.float64),
        "calibration.map_peaks": peaks,
        "calibration.fingerprints": np.sort(prints),
        "calibration.groups": np.empty(0, dtype=np.uint64),
    }


def build_manifest(
    found: TrainedModel,
    training: TrainingSettings,
    spec: InputSpec,
    decision: DecisionSettings,
    data: DataSummary,
    golden: tuple[float, ...],
) -> Manifest:
    """The manifest of what was fitted."""
    return Manifest(
        model=found.settings,
        training=training,
        input=spec,
        decision=decision,
        data=data,
        history=summarize_history(found.history),
        remarks=found.remarks,
        versions=versions(),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        golden=golden,
    )


def choose_spec(images: ImageSet, size: int | None, largest: int | None) -> InputSpec:
    """The pixels that a detector of these images takes: of the asked size, or as usual, or up to `largest`."""
    spec = images.choose_spec(size)
    if size is not None or largest is None or max(spec.height, spec.width) < 128:
        return spec
    found = max(max(info.height, info.width) for info in images.infos())
    return images.choose_spec(min(largest, found // 8 * 8))


def summarize_history(history: Sequence[HistoryRow]) -> dict[str, float]:
    """The training history in four numbers; empty for what does not train by gradients."""
    if not history:
        return {}
    return {
        "epochs": float(len(history)),
        "first_loss": history[0]["loss"],
        "last_loss": history[-1]["loss"],
        "seconds": round(sum(row["seconds"] for row in history), 3),
    }


def versions() -> dict[str, str]:
    """What made this detector."""
    packages = {name: importlib.metadata.version(name) for name in ("oddlens", "numpy", "pillow", "torch")}
    return {"python": platform.python_version(), **packages}
