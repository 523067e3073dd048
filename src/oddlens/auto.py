"""auto: picks, trains and weights the members of an ensemble, from normal images alone and within a budget."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from oddlens import artifact, metrics, models, synthetic, train
from oddlens.backends.torch import TorchBackend
from oddlens.config import (
    TRAINING,
    CrossfitSettings,
    DefectsSettings,
    DictionarySettings,
    EnsembleSettings,
    InputSpec,
    Member,
    MemberModel,
    ModelSettings,
    TrainingSettings,
    TransformsSettings,
    parse_model,
)
from oddlens.datasets import near_duplicate_groups, split_groups, thumbnails
from oddlens.errors import ArtifactError, DataError, DataNotFoundError, SettingsError
from oddlens.images import Pixels
from oddlens.models import Learner, Model
from oddlens.models.crossfit import Crossfit
from oddlens.models.ensemble import Ensemble
from oddlens.models.transforms import TURNS, Transforms, looks_the_same_turned
from oddlens.scoring import anomaly_scores, batch_size, in_batches, score_batches
from oddlens.train import Progress, Row

SMALL = 64  # longer side up to which a picture is taken for one object; larger ones are searched for defects
RESERVE = 0.05  # share of the budget kept for what nobody foresees
SAVING = 3.0  # seconds of it kept for finding the threshold and writing the file
MOST = 2.0  # weight of transforms that tell every turn; the dictionary's is 1
LITTLE = 0.2  # weight below which a member is left out
WEIGHED = 150  # pictures on which that is found out; each is turned four ways
TINY = 0.001  # weight of a member that is worth nothing
FEW = 20  # images apart from the training ones below which their scores' mean and spread say nothing
SHORT = 120.0  # seconds of budget below which transforms trains the faster form of its network
LEAST = 5.0  # seconds that gradient training must have to be worth starting
ALIKE = 1.1  # mirrored pictures are normal if they lie at most so much farther from the others than unmirrored ones


@dataclass(frozen=True)
class Task:
    """What is to be learned, and the means for it."""

    learn: Pixels  # (N, H, W, C) normal images to train on
    standard: Pixels  # (M, H, W, C) others, which bring the members to one scale and weight them
    spec: InputSpec
    roi: npt.NDArray[np.bool_] | None
    device: torch.device
    seed: int
    to_score: int = 0  # images that will be scored after training, within the same budget
    deadline: float = math.inf  # of time.perf_counter
    folder: Path | None = None
    resume: bool = False
    progress: Progress | None = None


@dataclass(frozen=True)
class Fitted:
    """A model that stands, its settings (an ensemble's are the plan that repeats it), and how it came about."""

    model: Model
    settings: ModelSettings
    history: list[Row]
    remarks: tuple[str, ...]
    peaks: npt.NDArray[np.float64] | None = None  # of crossfit: the training images' maps' largest values, out of fold


@dataclass(frozen=True)
class Trained:
    """A member that stands, and how it came about."""

    member: Member
    model: Model
    history: list[Row]


def fitted(wanted: ModelSettings | None, training: TrainingSettings, task: Task, held_out: Pixels) -> Fitted:
    """Train what is wanted: a single detector, a planned ensemble, or (None) whatever suits the pictures.

    `held_out` are normal pixels (N, H, W, C) on which a single detector may judge itself; they change nothing in it.
    """
    if task.folder and not task.resume:
        train.forget(task.folder)
    if wanted is None or isinstance(wanted, EnsembleSettings):
        found = train_auto(task) if wanted is None else train_planned(wanted, task)
        if task.folder:
            train.write_history(task.folder, found.history)
        return found
    if isinstance(wanted, CrossfitSettings):
        return train_folds(wanted, training, task)
    model = untrained(wanted, training.seed, task)
    deadline = task.deadline - (scoring_seconds([model], task) if task.deadline < math.inf else 0)
    one = train_member(model, Member(model=wanted, training=training), task, None, deadline)
    with torch.inference_mode():
        remark = model.remark(torch.from_numpy(held_out).to(task.device)) if len(held_out) else None
    return Fitted(model, wanted, one.history, (remark,) if remark else ())


def train_auto(task: Task) -> Fitted:
    """Choose members for these pictures, train them until the deadline, weight them, and say why.

    The settings that come back are the plan: the same images and `train_planned` give the same detector.
    """
    candidates, reasons = chosen(task)
    trained: list[Trained] = []  # each with the weight that it was found worth
    untried = [untrained(settings, task.seed, task) for settings in candidates]
    for settings in candidates:
        training = TRAINING[settings.family].model_copy(update={"seed": task.seed})
        left = task.deadline - scoring_seconds([*untried, *(one.model for one in trained)], task)
        started, learners = time.perf_counter(), sum(isinstance(model, Learner) for model in untried)
        share, model = (left - started) / max(1, learners), untried.pop(0)
        if isinstance(model, Learner) and share < LEAST and trained:
            reasons.append(f"{title(settings)}: left out, since the budget leaves no time for it")
            continue
        one = train_member(model, Member(model=settings, training=training), task, len(trained), started + share)
        weight, why = weighed(one.model, task)
        reasons.append(f"{title(settings)}: {time.perf_counter() - started:.0f} s of fitting; {why}")
        paced = training.model_copy(update={"pace": tuple(row["progress"] for row in one.history)})
        trained.append(replace(one, member=one.member.model_copy(update={"weight": weight, "training": paced})))
    best = max(one.member.weight for one in trained)
    kept = [one for one in trained if one.member.weight >= min(LITTLE, best)]
    reasons += [f"{title(one.member.model)}: left out, since it would add little" for one in trained if one not in kept]
    plan = EnsembleSettings(members=tuple(one.member for one in kept))
    return Fitted(assembled(plan, kept, task), plan, longest(kept), tuple(reasons))


def title(settings: MemberModel) -> str:
    """What a member is called in the reasons: its family, and its scale where it is not the pictures' own."""
    if isinstance(settings, DefectsSettings) and settings.shrink > 1:
        return f"{settings.family} at 1/{settings.shrink} of the size"
    return settings.family


def train_planned(settings: EnsembleSettings, task: Task) -> Fitted:
    """Train the members that a plan names, as it says."""
    trained = [
        train_member(untrained(member.model, member.training.seed, task), member, task, number, math.inf)
        for number, member in enumerate(settings.members)
    ]
    return Fitted(assembled(settings, trained, task), settings, longest(trained), ("plan: fitted as a plan says",))


def train_folds(settings: CrossfitSettings, training: TrainingSettings, task: Task) -> Fitted:
    """Train a detector without each fold in turn; near-duplicates lie in one fold.

    Raises:
        DataError: the images are near-duplicates of each other, too alike for so many folds.
    """
    count, folds = len(task.learn), settings.folds
    sizes = [(count + number) // folds for number in range(folds)]
    parts = split_groups(near_duplicate_groups(thumbnails(task.learn)), sizes, task.seed)
    if min(len(part) for part in parts) == 0:
        raise DataError(f"{count} images with their near-duplicates cannot be divided into {folds} folds; take fewer")
    model = untrained(settings, task.seed, task).eval()
    assert isinstance(model, Crossfit)  # noqa: S101 - the family of these settings
    trained, scores, peaks = [], [], []
    for number, fold in enumerate(parts):
        now = time.perf_counter()
        deadline = now + (task.deadline - now) / (folds - number)
        part = replace(task, learn=np.delete(task.learn, fold, axis=0), to_score=len(fold), deadline=deadline)
        one = untrained(settings.model, training.seed, part)
        if deadline < math.inf:
            deadline -= scoring_seconds([one], part)
        trained.append(train_member(one, Member(model=settings.model, training=training), part, number, deadline))
        model.members[number] = one
        outputs = list(
            score_batches(TorchBackend(one, task.device), in_batches(task.learn[fold], batch_size(task.spec)))
        )
        scores.append(np.concatenate([each.anomaly_score for each in outputs]))
        maps = [each.anomaly_map.max(axis=(1, 2)) for each in outputs if each.anomaly_map is not None]
        peaks.append(np.concatenate(maps).astype(np.float64) if maps else np.empty(0))
    model.rank_among(scores, peaks)
    scaled = [part / scale for part, scale in zip(peaks, model.peak.tolist(), strict=True)]
    return Fitted(model, settings, longest(trained), (), np.concatenate(scaled))


def longest(trained: list[Trained]) -> list[Row]:
    """The history of the member that trained for the most epochs; empty where none did."""
    return max((one.history for one in trained), key=len)


def load_plan(path: Path) -> EnsembleSettings:
    """The plan in a detector file, or in a JSON file (an ensemble's settings, or what `show --json` prints).

    Raises:
        DataNotFoundError: there is no such file.
        ArtifactError: the detector file is damaged.
        SettingsError: it holds no plan.
    """
    if path.suffix == ".json":
        if not path.exists():
            raise DataNotFoundError(f"{path}: no such plan; `oddlens show DETECTOR --json` prints a detector's")
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise SettingsError(f"{path}: cannot be read as a plan ({error}); give an ensemble's settings") from error
        if isinstance(values, dict) and isinstance(values.get("manifest"), dict):
            values = values["manifest"].get("model")
        found = parse_model(values, str(path))
    elif path.suffix == ".safetensors":
        found = artifact.load(path)[0].model
    else:
        raise ArtifactError(f"{path}: holds no plan; plans are in .safetensors detectors and .json files")
    if not isinstance(found, EnsembleSettings):
        raise SettingsError(f"{path}: is the plan of a single detector ({found.family}); use --detector {found.family}")
    return found


def chosen(task: Task) -> tuple[list[MemberModel], list[str]]:
    """The families to try on such pictures, and why."""
    spec, few = task.spec, len(task.standard) < FEW
    size = f"size: pictures of {spec.width} x {spec.height}"
    lone = [f"members: {len(task.standard)} images apart from the training ones are too few to weigh several"] * few
    if max(spec.height, spec.width) > SMALL:
        why = f"{size} are searched for local defects (more than {SMALL} px) by dictionary and defects"
        candidates: list[MemberModel] = [
            DictionarySettings(score="local"),
            DefectsSettings(shrink=2),
            DefectsSettings(),
        ]
        return candidates[-1:] if few else candidates, [why, *lone]
    ratio = mirrored_distance(task.learn, task.seed)
    mirror = ratio <= ALIKE and (task.roi is None or bool((task.roi == task.roi[:, ::-1]).all()))
    why = f"{size} are taken for one object each (up to {SMALL} px), by dictionary and transforms"
    told = f"mirroring: mirrored pictures {'count' if mirror else 'do not count'} as normal"
    short = task.deadline - time.perf_counter() < SHORT
    candidates = [DictionarySettings(mirror=mirror), TransformsSettings(mirror=mirror, strided=short)]
    if not looks_the_same_turned(task.roi):
        lone.append("transforms: left out, since the region of interest by itself tells how a picture was turned")
    reasons = [why, f"{told}: they lie {ratio:.2f} times as far from the others", *lone]
    if short and not lone:
        reasons.append("transforms: strided, since the budget is short")
    return candidates[:1] if lone else candidates, reasons


def mirrored_distance(pixels: Pixels, seed: int) -> float:
    """How far mirrored pictures lie from the other ones, in units of how far unmirrored pictures do.

    From thumbnails of at most 1,000 pictures (N, H, W, C): medians of the largest correlation's distance from 1.
    """
    some = pixels[np.random.default_rng(seed).permutation(len(pixels))[:1000]]
    known, mirrored = thumbnails(some), thumbnails(np.ascontiguousarray(some[:, :, ::-1]))
    if len(known) < 2:
        return 1.0
    plain, turned = known @ known.T, mirrored @ known.T
    for similar in (plain, turned):
        np.fill_diagonal(similar, -1)
    usual = float(np.median(1 - plain.max(axis=1)))
    return float(np.median(1 - turned.max(axis=1))) / max(usual, 1e-6)


def untrained(settings: ModelSettings, seed: int, task: Task) -> Model:
    """A model before training, on its device and with its region of interest."""
    model = models.build(settings, task.spec, seed)
    if task.roi is not None:
        model.set_roi(task.roi)
    return model.to(task.device)


def train_member(model: Model, member: Member, task: Task, number: int | None, deadline: float) -> Trained:
    """Train one member; with a number, in a folder of its own."""
    folder = task.folder
    if folder and number is not None:
        folder = folder / f"{number}-{member.model.family}"
    history = train.train(
        model,
        task.learn,
        member.training,
        task.device,
        folder=folder,
        resume=task.resume,
        progress=task.progress,
        deadline=deadline,
    )
    return Trained(member, model, history)


def scoring_seconds(members: list[Model], task: Task) -> float:
    """How long all that is scored once the networks stand will take, judged by a first batch of pictures."""
    pixels = torch.from_numpy(task.learn[: min(32, batch_size(task.spec))]).to(task.device)
    total = 0.0
    for model in members:
        model.eval()
        with torch.inference_mode():
            batch = model.scale(pixels)
            model(batch)
            started = time.perf_counter()
            model(batch)
            once = (time.perf_counter() - started) / len(pixels)
            judged = len(task.standard) + 2 * min(WEIGHED, len(task.standard))
            total += once * (task.to_score + judged + model.visits(len(task.learn)))
    return total


def weighed(model: Model, task: Task) -> tuple[float, str]:
    """How much a member's standardised score should count (below `LITTLE` it is left out), and why."""
    if not len(task.standard):
        return 1.0, "weight 1"
    if isinstance(model, Transforms):
        with torch.inference_mode():
            accuracy = model.accuracy(torch.from_numpy(task.standard[:WEIGHED]).to(task.device))
        weight = round(max(TINY, MOST * max(0.0, (accuracy - 1 / TURNS) / (1 - 1 / TURNS)) ** 2), 3)
        told = f"quarter turns of pictures that it did not learn are told with {accuracy:.0%} accuracy"
        return weight, f"{told}; weight {weight:.2f}"
    if max(task.spec.height, task.spec.width) <= SMALL:
        return 1.0, "weight 1"
    found = separation(model, task)
    weight = round(max(TINY, max(0.0, 2 * found - 1) ** 2), 3)
    told = f"synthetic defects in pictures that it did not learn are ranked with AUROC {found:.3f}"
    return weight, f"{told}; weight {weight:.2f}"


def separation(model: Model, task: Task) -> float:
    """AUROC of a member on held-out normal pictures and on the same with synthetic defects, drawn anew.

    The `defects` family has practised on such ones: the exam favours it.
    """
    standard = task.standard[:WEIGHED]
    damaged, _ = synthetic.defects(standard, task.seed, task.spec.value_max)
    scores = [
        anomaly_scores(TorchBackend(model, task.device), in_batches(pixels, batch_size(task.spec)))
        for pixels in (standard, damaged)
    ]
    return metrics.auroc(np.repeat([0, 1], len(damaged)), np.concatenate(scores))


def assembled(settings: EnsembleSettings, trained: list[Trained], task: Task) -> Ensemble:
    """The ensemble of trained members, on one scale."""
    model = untrained(settings, task.seed, task).eval()
    assert isinstance(model, Ensemble)  # noqa: S101 - the family of these settings
    for number, one in enumerate(trained):
        model.members[number] = one.model
    with torch.inference_mode():
        model.standardise(torch.from_numpy(task.standard if len(task.standard) else task.learn).to(task.device))
    return model
