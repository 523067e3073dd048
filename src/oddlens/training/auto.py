"""auto: picks, trains and weights the members of an ensemble, from normal images alone and within a budget."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from oddlens import metrics
from oddlens.artifact import detector_file
from oddlens.config.detectors import (
    DEFAULT_TRAINING,
    DefectsSettings,
    DictionarySettings,
    EnsembleSettings,
    Member,
    MemberModel,
    TransformsSettings,
)
from oddlens.config.parse import parse_model
from oddlens.data import synthetic_defects
from oddlens.data.image_io import Pixels
from oddlens.data.near_duplicates import thumbnails
from oddlens.errors import ArtifactError, DataNotFoundError, SettingsError
from oddlens.inference.scoring import anomaly_scores, batch_size, in_batches
from oddlens.inference.torch_backend import TorchBackend
from oddlens.models.base import GradientModel, Model
from oddlens.models.rotation import N_ROTATIONS, Rotation, is_rotation_symmetric
from oddlens.training.members import (
    MAX_EXAM_IMAGES,
    TrainedMember,
    TrainedModel,
    TrainingTask,
    build_ensemble,
    build_untrained,
    longest_history,
    scoring_seconds,
    train_member,
)

MAX_OBJECT_SIDE = 64  # longer side up to which a picture is taken for one object; larger ones are searched for defects
MAX_ROTATION_WEIGHT = 2.0  # weight of transforms that tell every turn; the dictionary's is 1
MIN_MEMBER_WEIGHT = 0.2  # weight below which a member is left out
USELESS_WEIGHT = 0.001  # weight of a member that is worth nothing
MIN_STANDARDIZATION_IMAGES = (
    20  # images apart from the training ones below which their scores' mean and spread say nothing
)
SHORT_BUDGET = 120.0  # seconds of budget below which transforms trains the faster form of its network
MIN_TRAINING_SECONDS = 5.0  # seconds that gradient training must have to be worth starting
MAX_ROBUST_NEIGHBOURS, ROBUST_SURPRISE, ROBUST_DICTIONARY_WEIGHT = (
    100,
    10.0,
    0.5,
)  # robust: neighbours at most, weights of surprise and of the dictionary
MAX_MIRROR_RATIO = (
    1.1  # mirrored pictures are normal if they lie at most so much farther from the others than unmirrored ones
)


def train_auto(task: TrainingTask) -> TrainedModel:
    """Choose members for these pictures, train them until the deadline, weight them, and say why.

    The settings that come back are the plan: the same images and `train_planned` give the same detector.
    """
    candidates, reasons = select_candidates(task)
    trained: list[TrainedMember] = []  # each with the weight that it was found worth
    untried = [build_untrained(settings, task.seed, task) for settings in candidates]
    for settings in candidates:
        training = DEFAULT_TRAINING[settings.family].model_copy(update={"seed": task.seed})
        left = task.deadline - scoring_seconds([*untried, *(one.model for one in trained)], task)
        started, learners = time.perf_counter(), sum(isinstance(model, GradientModel) for model in untried)
        share, model = (left - started) / max(1, learners), untried.pop(0)
        if isinstance(model, GradientModel) and share < MIN_TRAINING_SECONDS and trained:
            reasons.append(f"{member_title(settings)}: left out, since the budget leaves no time for it")
            continue
        one = train_member(model, Member(model=settings, training=training), task, len(trained), started + share)
        weight, why = member_weight(one.model, task)
        reasons.append(f"{member_title(settings)}: {time.perf_counter() - started:.0f} s of fitting; {why}")
        paced = training.model_copy(update={"pace": tuple(row["progress"] for row in one.history)})
        trained.append(replace(one, member=one.member.model_copy(update={"weight": weight, "training": paced})))
    best = max(one.member.weight for one in trained)
    kept = [one for one in trained if one.member.weight >= min(MIN_MEMBER_WEIGHT, best)]
    reasons += [
        f"{member_title(one.member.model)}: left out, since it would add little" for one in trained if one not in kept
    ]
    plan = EnsembleSettings(members=tuple(one.member for one in kept))
    return TrainedModel(build_ensemble(plan, kept, task), plan, longest_history(kept), tuple(reasons))


def member_title(settings: MemberModel) -> str:
    """What a member is called in the reasons: its family, and its scale where it is not the pictures' own."""
    if isinstance(settings, DefectsSettings) and settings.shrink > 1:
        return f"{settings.family} at 1/{settings.shrink} of the size"
    return settings.family


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
        found = detector_file.load(path)[0].model
    else:
        raise ArtifactError(f"{path}: holds no plan; plans are in .safetensors detectors and .json files")
    if not isinstance(found, EnsembleSettings):
        raise SettingsError(f"{path}: is the plan of a single detector ({found.family}); use --detector {found.family}")
    return found


def select_candidates(task: TrainingTask) -> tuple[list[MemberModel], list[str]]:
    """The families to try on such pictures, and why."""
    spec, few = task.spec, len(task.standardization) < MIN_STANDARDIZATION_IMAGES
    robust = (
        {"neighbours": min(MAX_ROBUST_NEIGHBOURS, max(5, len(task.train) // 25)), "surprise": ROBUST_SURPRISE}
        if task.robust
        else {}
    )
    size = f"size: pictures of {spec.width} x {spec.height}"
    lone = [
        f"members: {len(task.standardization)} images apart from the training ones are too few to weigh several"
    ] * few
    if max(spec.height, spec.width) > MAX_OBJECT_SIDE:
        why = f"{size} are searched for local defects (more than {MAX_OBJECT_SIDE} px) by dictionary and defects"
        candidates: list[MemberModel] = [
            DictionarySettings(score="local"),
            DefectsSettings(shrink=2),
            DefectsSettings(),
        ]
        return candidates[-1:] if few else candidates, [why, *lone]
    ratio = mirrored_distance(task.train, task.seed)
    mirror = ratio <= MAX_MIRROR_RATIO and (task.roi is None or bool((task.roi == task.roi[:, ::-1]).all()))
    why = f"{size} are taken for one object each (up to {MAX_OBJECT_SIDE} px), by dictionary and transforms"
    told = f"mirroring: mirrored pictures {'count' if mirror else 'do not count'} as normal"
    short = task.deadline - time.perf_counter() < SHORT_BUDGET
    transforms = TransformsSettings.model_validate({"mirror": mirror, "strided": short, **robust})
    candidates = [DictionarySettings(mirror=mirror), transforms]
    if not is_rotation_symmetric(task.roi):
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


def member_weight(model: Model, task: TrainingTask) -> tuple[float, str]:
    """How much a member's standardised score should count (below `LITTLE` it is left out), and why."""
    if not len(task.standardization):
        return 1.0, "weight 1"
    if isinstance(model, Rotation):
        with torch.inference_mode():
            accuracy = model.accuracy(torch.from_numpy(task.standardization[:MAX_EXAM_IMAGES]).to(task.device))
        weight = round(
            max(
                USELESS_WEIGHT,
                MAX_ROTATION_WEIGHT * max(0.0, (accuracy - 1 / N_ROTATIONS) / (1 - 1 / N_ROTATIONS)) ** 2,
            ),
            3,
        )
        told = f"quarter turns of pictures that it did not learn are told with {accuracy:.0%} accuracy"
        return weight, f"{told}; weight {weight:.2f}"
    if max(task.spec.height, task.spec.width) <= MAX_OBJECT_SIDE:
        return (ROBUST_DICTIONARY_WEIGHT, f"weight {ROBUST_DICTIONARY_WEIGHT}") if task.robust else (1.0, "weight 1")
    found = synthetic_defect_auroc(model, task)
    weight = round(max(USELESS_WEIGHT, max(0.0, 2 * found - 1) ** 2), 3)
    told = f"synthetic defects in pictures that it did not learn are ranked with AUROC {found:.3f}"
    return weight, f"{told}; weight {weight:.2f}"


def synthetic_defect_auroc(model: Model, task: TrainingTask) -> float:
    """AUROC of a member on held-out normal pictures and on the same with synthetic defects, drawn anew.

    The `defects` family has practised on such ones: the exam favours it.
    """
    standard = task.standardization[:MAX_EXAM_IMAGES]
    damaged, _ = synthetic_defects.add_defects(standard, task.seed, task.spec.value_max)
    scores = [
        anomaly_scores(TorchBackend(model, task.device), in_batches(pixels, batch_size(task.spec)))
        for pixels in (standard, damaged)
    ]
    return metrics.auroc(np.repeat([0, 1], len(damaged)), np.concatenate(scores))
