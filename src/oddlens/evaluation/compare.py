"""A leaderboard: detectors fitted on one data set and judged on its labelled test part, beside a trivial baseline.

The baseline finds the nearest training thumbnail of each test image. A detector that does no better has learned
nothing worth its time; and where thumbnails alone do very well, the test part may hold copies of training images.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from oddlens import metrics
from oddlens.config.base import DecisionSettings, InputSpec, TrainingSettings
from oddlens.config.detectors import FAMILIES
from oddlens.conformal.decision import Decision
from oddlens.conformal.grouped import EVERYTHING, GroupedDecision
from oddlens.data.image_io import Pixels
from oddlens.data.image_set import DataSet, ImageSet
from oddlens.data.near_duplicates import fingerprints
from oddlens.data.splitting import split_normals
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
from oddlens.reporting.leaderboard import Row

if TYPE_CHECKING:
    from oddlens.training.history import Progress

DETECTORS = (
    "auto",
    *(family for family in FAMILIES if family not in ("ensemble", "crossfit")),
)  # those need a plan, or folds
MIN_LEAK_AUROC = 0.95  # AUROC of the smallest thumbnails above which the split is doubted
MAX_TIMED_IMAGES = 256  # images on which scoring is timed

Index = npt.NDArray[np.intp]


@dataclass(frozen=True)
class ComparisonInputs:
    """What every detector of a comparison is given."""

    data: DataSet
    test: ImageSet  # labelled, as it is shown to the detectors
    spec: InputSpec
    learnable: Pixels  # the training images, for the baselines
    shown: Pixels  # the test images, likewise
    seed: int
    budget: float | None
    device: str
    progress: Progress | None

    @cached_property
    def division(self) -> tuple[Index, Index]:
        """The training images that the baselines know, and those that they are calibrated on."""
        learn, _, hold = split_normals(self.learnable, DecisionSettings(), self.seed)
        return learn, hold


def compare(
    data: DataSet,
    detectors: Sequence[str],
    *,
    seed: int = 0,
    budget: float | None = None,
    device: str = "auto",
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Fit each of `detectors` on the data's training images, and judge it on the test part; the best comes first.

    A data set in which every class is normal is shown with distorted test images beside its own. `budget` is
    seconds of fitting for each detector. A detector that fails gets a row with its `error`, and the others go on.

    Raises:
        SettingsError: there is no such detector (found before anything is fitted).
        DataError: the data has no training images or no labelled test part.
        OddlensError: every one of `detectors` fails, whatever the baselines do.
        MissingExtraError: training needs packages that are not installed.
    """
    names = list(dict.fromkeys(detectors))
    for name in names:
        check_detector_name(name)
    if not len(data.train):
        raise DataError(f"{data.name}: has no normal training images; a comparison needs some (see docs/data.md)")
    spec = data.train.choose_spec(None)
    test = test_sets.labelled_images(data, spec, seed, distort=data.normal == "all" and not data.test.labels.any())
    if len(set(test.labels.tolist())) < 2:
        raise DataError(
            f"{data.name}: its test part has {int((test.labels == 0).sum())} normal and "
            f"{int((test.labels == 1).sum())} anomalous images; a comparison needs both kinds (see docs/data.md)"
        )
    contest = ComparisonInputs(data, test, spec, data.train.load(spec), test.load(spec), seed, budget, device, progress)
    baselines = {
        f"thumbnails-{kind}".replace(" ", "-"): partial(thumbnails_row, kind, contest) for kind in THUMBNAIL_KINDS
    }
    work = baselines | {name: partial(detector_row, name, contest) for name in names}
    rows = []
    for name, judged in work.items():
        row = {"detector": name, "baseline": name in baselines, "error": None, **row_or_error(judged)}
        rows.append(row)
        if say:
            say(describe_row(row))
    failed = [row["error"] for row in rows if row["error"] is not None and not row["baseline"]]
    if names and len(failed) == len(names):
        raise OddlensError(f"{data.name}: nothing was compared, since every detector failed; the first: {failed[0]}")
    rows.sort(key=lambda row: -row["image_auroc"] if row["error"] is None else 2.0)
    settings = {"seed": seed, "budget": budget, "n_train": len(data.train)}
    area = leak_auroc(contest)
    return {
        "data": data.name, "normal": data.normal, **settings,
        "leaderboard": rows, "leak_auroc": area,
        "notes": [] if area is None or area <= MIN_LEAK_AUROC else [leak_warning(area)],
    }  # fmt: skip


def check_detector_name(name: str) -> None:
    """Refuse what cannot be compared, before hours are spent on the others.

    Raises:
        SettingsError: there is no such detector, or it needs a plan.
    """
    if name == "ensemble":
        raise SettingsError("--detectors: an ensemble needs a plan; compare its members, or auto, which plans one")
    if name not in DETECTORS:
        raise SettingsError(f"--detectors: '{name}' is not a detector; there are {', '.join(DETECTORS)}")


def row_or_error(judged: Callable[[], Row]) -> Row:
    """A row, or what went wrong in it: one broken detector does not end an evening of comparing."""
    try:
        return judged()
    except MissingExtraError:  # the others would fail alike
        raise
    except OddlensError as error:
        return {"error": str(error)}
    except Exception as error:
        reason = (str(error).splitlines() or ["no reason given"])[0]
        return {"error": f"{type(error).__name__}: {reason}"}


def detector_row(name: str, contest: ComparisonInputs) -> Row:
    """Fit one detector and judge it."""
    started = time.perf_counter()
    training = TrainingSettings(seed=contest.seed)
    detector = Detector(name, training=training, device=contest.device, budget=contest.budget)
    detector.fit(contest.data.train, source=contest.data.name, normal=contest.data.normal, progress=contest.progress)
    fitted = time.perf_counter()
    found = evaluate.evaluate(detector, contest.test)
    judged = time.perf_counter()
    sample = contest.test.subset(np.arange(len(contest.test))[:: -(-len(contest.test) // MAX_TIMED_IMAGES)]).load(
        detector.spec
    )
    timed = time.perf_counter()
    detector.score(sample)
    scoring = time.perf_counter() - timed
    size = sum(tensor.nbytes for tensor_name, tensor in detector.tensors.items() if tensor_name.startswith("model."))
    return {
        **leaderboard_metrics(found),
        "n_training": detector.manifest.data.n_training,
        "n_calibration": detector.manifest.data.n_calibration,
        "seconds": {"fit": round(fitted - started, 3), "score": round(judged - fitted, 3)},
        "score_ms": round(1000 * scoring / len(sample), 4),
        "model_bytes": size,
        "remarks": list(detector.manifest.remarks),
    }


def thumbnails_row(kind: ThumbnailKind, contest: ComparisonInputs) -> Row:
    """The baseline: how far each image's thumbnail lies from the nearest one that was learned."""
    learn, hold = contest.division
    started = time.perf_counter()
    known = make_thumbnails(contest.learnable[learn], kind, contest.spec)
    calibration = nearest_distances(known, make_thumbnails(contest.learnable[hold], kind, contest.spec))
    fitted = time.perf_counter()
    scores = nearest_distances(known, make_thumbnails(contest.shown, kind, contest.spec))
    scoring = time.perf_counter() - fitted
    prints = fingerprints(contest.shown)
    fresh = np.flatnonzero(~np.isin(prints, fingerprints(contest.learnable[learn])))
    found = evaluate.Evaluation(
        images=contest.test.subset(fresh),
        scores=scores[fresh],
        in_rates=~np.isin(prints[fresh], fingerprints(contest.learnable[hold])),
        errors=None,
        pixel={},
        decisions=GroupedDecision({EVERYTHING: Decision(DecisionSettings(), calibration, np.empty(0))}),
        left_out=len(scores) - len(fresh),
    )
    return {
        **leaderboard_metrics(found),
        "n_training": len(learn),
        "n_calibration": len(hold),
        "seconds": {"fit": round(fitted - started, 3), "score": round(scoring, 3)},
        "score_ms": round(1000 * scoring / len(scores), 4),
        "model_bytes": known.nbytes,
        "remarks": [],
    }


def leaderboard_metrics(found: evaluate.Evaluation) -> Row:
    """The figures of the leaderboard."""
    every = found.metrics
    names = (
        "image_auroc", "image_auroc_ci", "image_ap", "pixel_auroc", "aupro", "threshold", "false_alarm_rate",
        "false_alarm_rate_measured", "false_alarm_rate_measured_ci", "detection_rate",
        "n_normal", "n_anomalous", "n_normal_rates", "n_left_out_trained",
    )  # fmt: skip
    return {name: every.get(name) for name in names}


def leak_auroc(contest: ComparisonInputs) -> float | None:
    """What the smallest thumbnails of all training images tell at best, held-out ones too; None without two labels.

    Test images that are exact copies of training images are left out: class folders hold those by design.
    """
    fresh = ~np.isin(fingerprints(contest.shown), fingerprints(contest.learnable))
    labels = contest.test.labels[fresh]
    if len(set(labels.tolist())) < 2:
        return None
    areas = []
    for kind in SMALLEST_KINDS:
        known, new = (
            make_thumbnails(pixels, kind, contest.spec) for pixels in (contest.learnable, contest.shown[fresh])
        )
        areas.append(metrics.auroc(labels, nearest_distances(known, new)))
    return max(areas)


def leak_warning(area: float) -> str:
    """What a reader should know where thumbnails alone tell the anomalies."""
    side = SMALLEST_KINDS[0].side
    return (
        f"the nearest training thumbnail of {side} x {side} pixels alone reaches an AUROC of {area:.3f}: "
        "either the anomalies are plain to see, or the split leaks, test images being near-duplicates of training "
        "images; `oddlens check` names those"
    )


def describe_row(row: Row) -> str:
    """One row as it is finished."""
    if row["error"] is not None:
        return f"{row['detector']}: failed: {row['error']}"
    low, high = row["image_auroc_ci"]
    return f"{row['detector']}: AUROC {row['image_auroc']:.3f} ({low:.3f} to {high:.3f}), {row['seconds']['fit']:.1f} s"
