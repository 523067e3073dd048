"""A leaderboard: detectors fitted on one data set and judged on its labelled test part, beside a trivial baseline.

The baseline finds the nearest training thumbnail of each test image. A detector that does no better has learned
nothing worth its time; and where thumbnails alone do very well, the test part may hold copies of training images.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from oddlens import evaluation, metrics
from oddlens.calibration import Decision
from oddlens.config import FAMILIES, DecisionSettings, InputSpec, TrainingSettings
from oddlens.datasets import DataSet, ImageSet
from oddlens.detector import Detector
from oddlens.errors import DataError, MissingExtraError, OddlensError, SettingsError
from oddlens.images import Pixels
from oddlens.normals import split_normals
from oddlens.page import BODY, INK, MARGIN, MUTED, NORMAL, RULE, SMALL, Sheet, label_axes
from oddlens.report import Table, Value
from oddlens.scoring import fingerprints

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from oddlens.train import Progress

DETECTORS = ("auto", *(family for family in FAMILIES if family != "ensemble"))  # an ensemble needs a plan
SIDES = (8, 32)  # of the baseline's thumbnails
LEAK = 0.95  # AUROC of the smaller thumbnails above which the split is doubted
TIMED = 256  # images on which scoring is timed

Distances = npt.NDArray[np.float64]
Row = dict[str, Any]


@dataclass(frozen=True)
class Task:
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
    seconds of fitting for each detector. A detector that fails gets a row with its `error`.

    Raises:
        SettingsError: there is no such detector (found before anything is fitted).
        DataError: the data has no training images or no labelled test part, or every detector fails on it.
        MissingExtraError: training needs packages that are not installed.
    """
    names = list(dict.fromkeys(detectors))
    for name in names:
        check(name)
    if not len(data.train):
        raise DataError(f"{data.name}: has no normal training images; a comparison needs some (see docs/data.md)")
    spec = data.train.choose_spec(None)
    test = evaluation.labelled_images(data, spec, seed, distort=data.normal == "all" and not data.test.labels.any())
    if len(set(test.labels.tolist())) < 2:
        raise DataError(
            f"{data.name}: its test part has {int((test.labels == 0).sum())} normal and "
            f"{int((test.labels == 1).sum())} anomalous images; a comparison needs both kinds (see docs/data.md)"
        )
    task = Task(data, test, spec, data.train.load(spec), test.load(spec), seed, budget, device, progress)
    work = {f"thumbnails-{side}": partial(thumbnails_row, side, task) for side in SIDES}
    work |= {name: partial(detector_row, name, task) for name in names}
    rows = []
    for name, judged in work.items():
        row = {"detector": name, "baseline": name not in names, "error": None, **attempt(judged)}
        rows.append(row)
        if say:
            say(in_words(row))
    if all(row["error"] is not None for row in rows):
        raise DataError(f"{data.name}: nothing could be compared, since every detector failed: {rows[0]['error']}")
    rows.sort(key=lambda row: -row["image_auroc"] if row["error"] is None else 2.0)
    settings = {"seed": seed, "budget": budget, "n_train": len(data.train)}
    area = leak_auroc(task)
    return {
        "data": data.name, "normal": data.normal, **settings,
        "leaderboard": rows, "leak_auroc": area, "notes": [] if area is None or area <= LEAK else [doubt(area)],
    }  # fmt: skip


def check(name: str) -> None:
    """Refuse what cannot be compared, before hours are spent on the others.

    Raises:
        SettingsError: there is no such detector, or it needs a plan.
    """
    if name == "ensemble":
        raise SettingsError("--detectors: an ensemble needs a plan; compare its members, or auto, which plans one")
    if name not in DETECTORS:
        raise SettingsError(f"--detectors: '{name}' is not a detector; there are {', '.join(DETECTORS)}")


def attempt(judged: Callable[[], Row]) -> Row:
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


def detector_row(name: str, task: Task) -> Row:
    """Fit one detector and judge it."""
    started = time.perf_counter()
    training = TrainingSettings(seed=task.seed)
    detector = Detector(name, training=training, device=task.device, budget=task.budget)
    detector.fit(task.data.train, source=task.data.name, normal=task.data.normal, progress=task.progress)
    fitted = time.perf_counter()
    found = evaluation.evaluate(detector, task.test)
    judged = time.perf_counter()
    sample = task.test.subset(np.arange(len(task.test))[:: -(-len(task.test) // TIMED)]).load(detector.spec)
    timed = time.perf_counter()
    detector.score(sample)
    scoring = time.perf_counter() - timed
    size = sum(tensor.nbytes for tensor_name, tensor in detector.tensors.items() if tensor_name.startswith("model."))
    return {
        **measured(found),
        "n_training": detector.manifest.data.n_training,
        "n_calibration": detector.manifest.data.n_calibration,
        "seconds": {"fit": round(fitted - started, 3), "score": round(judged - fitted, 3)},
        "score_ms": round(1000 * scoring / len(sample), 4),
        "model_bytes": size,
        "remarks": list(detector.manifest.remarks),
    }


def thumbnails_row(side: int, task: Task) -> Row:
    """The baseline: how far each image's thumbnail lies from the nearest one that was learned."""
    started = time.perf_counter()
    decision = DecisionSettings()
    learn, _, hold = split_normals(task.learnable, decision, task.seed)
    known = shrunk(task.learnable[learn], side, task.spec)
    calibration = nearest(known, shrunk(task.learnable[hold], side, task.spec))
    fitted = time.perf_counter()
    scores = nearest(known, shrunk(task.shown, side, task.spec))
    scoring = time.perf_counter() - fitted
    prints = fingerprints(task.shown)
    fresh = np.flatnonzero(~np.isin(prints, fingerprints(task.learnable[learn])))
    found = evaluation.Evaluation(
        images=task.test.subset(fresh),
        scores=scores[fresh],
        in_rates=~np.isin(prints[fresh], fingerprints(task.learnable[hold])),
        errors=None,
        pixel={},
        decision=Decision(decision, calibration, np.empty(0)),
        left_out=len(scores) - len(fresh),
    )
    return {
        **measured(found),
        "n_training": len(learn),
        "n_calibration": len(hold),
        "seconds": {"fit": round(fitted - started, 3), "score": round(scoring, 3)},
        "score_ms": round(1000 * scoring / len(scores), 4),
        "model_bytes": known.nbytes,
        "remarks": [],
    }


def shrunk(pixels: Pixels, side: int, spec: InputSpec) -> npt.NDArray[np.float32]:
    """(N, H, W, C) pixels -> (N, side * side * C) thumbnails in 0..1."""
    small = ImageSet.from_array(pixels).load(spec.model_copy(update={"height": side, "width": side}))
    return (small.reshape(len(small), -1) / np.float32(spec.value_max)).astype(np.float32)


def nearest(known: npt.NDArray[np.float32], new: npt.NDArray[np.float32], block: int = 512) -> Distances:
    """(N, D) and (M, D) -> (M,): root mean square difference from the nearest of N; found by products, then exact."""
    halves, found = np.square(known).sum(axis=1) / 2, np.empty(len(new))
    for start in range(0, len(new), block):
        part = new[start : start + block]
        closest = known[np.argmax(part @ known.T - halves, axis=1)]
        found[start : start + block] = np.sqrt(np.square(part.astype(np.float64) - closest).mean(axis=1))
    return found


def measured(found: evaluation.Evaluation) -> Row:
    """The figures of the leaderboard."""
    every = found.metrics
    names = (
        "image_auroc", "image_auroc_ci", "image_ap", "pixel_auroc", "aupro", "threshold", "false_alarm_rate",
        "false_alarm_rate_measured", "false_alarm_rate_measured_ci", "detection_rate",
        "n_normal", "n_anomalous", "n_normal_rates", "n_left_out_trained",
    )  # fmt: skip
    return {name: every.get(name) for name in names}


def leak_auroc(task: Task) -> float | None:
    """What the smallest thumbnails of all training images tell, held-out ones too; None without two labels.

    Test images that are exact copies of training images are left out: class folders hold those by design.
    """
    fresh = ~np.isin(fingerprints(task.shown), fingerprints(task.learnable))
    labels = task.test.labels[fresh]
    if len(set(labels.tolist())) < 2:
        return None
    known = shrunk(task.learnable, SIDES[0], task.spec)
    return metrics.auroc(labels, nearest(known, shrunk(task.shown[fresh], SIDES[0], task.spec)))


def doubt(area: float) -> str:
    """What a reader should know where thumbnails alone tell the anomalies."""
    return (
        f"the nearest training thumbnail of {SIDES[0]} x {SIDES[0]} pixels alone reaches an AUROC of {area:.3f}: "
        "either the anomalies are plain to see, or the split leaks, test images being near-duplicates of training "
        "images; `oddlens check` names those"
    )


def in_words(row: Row) -> str:
    """One row as it is finished."""
    if row["error"] is not None:
        return f"{row['detector']}: failed: {row['error']}"
    low, high = row["image_auroc_ci"]
    return f"{row['detector']}: AUROC {row['image_auroc']:.3f} ({low:.3f} to {high:.3f}), {row['seconds']['fit']:.1f} s"


def table(result: dict[str, Any]) -> Table:
    """The leaderboard to read."""
    rows = result["leaderboard"]
    masks = any(row.get("pixel_auroc") is not None for row in rows)
    columns = ("detector", "AUROC", "95% interval", *(("pixel AUROC", "AUPRO") if masks else ()))
    columns += ("false alarms", "caught", "fit s", "ms/image", "MB")
    return Table(columns, tuple(cells(row, masks) for row in rows))


def cells(row: Row, masks: bool) -> tuple[Value, ...]:
    """One row of the table."""
    name = row["detector"] + (" (baseline)" if row["baseline"] else "")
    if row["error"] is not None:
        return (name, None, "failed", *((None, None) if masks else ()), None, None, None, None, None)
    low, high = row["image_auroc_ci"]
    rates = (row["false_alarm_rate_measured"], row["detection_rate"])
    return (
        name,
        row["image_auroc"],
        f"{low:.3f} to {high:.3f}",
        *((row["pixel_auroc"], row["aupro"]) if masks else ()),
        *(None if rate is None else f"{rate:.1%}" for rate in rates),
        f"{row['seconds']['fit']:.1f}",
        f"{row['score_ms']:.3g}",
        f"{row['model_bytes'] / 1e6:.2f}",
    )


def leaderboard(result: dict[str, Any]) -> Figure:
    """Draw each detector's AUROC with its interval, the best on top; baselines are hollow.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    rows = result["leaderboard"]
    step, left, top = 0.36, 1.75, MARGIN + 0.52
    sheet = Sheet(7.6, top + step * len(rows) + 0.62)
    asked = f"{result['data']}, normal: {result['normal']}"
    sheet.text(MARGIN, MARGIN, asked, sheet.width - 2 * MARGIN, 11, weight="bold")
    axes = sheet.axes(left, top, 3.35, step * len(rows))
    lowest = min([0.5, *(row["image_auroc_ci"][0] for row in rows if row["error"] is None)])
    axes.set(xlim=(max(0, lowest - 0.03), 1.01), ylim=(len(rows) - 0.5, -0.5), yticks=[])
    axes.axvline(0.5, color=RULE, linewidth=1, linestyle=(0, (4, 2)))
    places = (left + 3.55, sheet.width - MARGIN)
    for place, title, side in zip(places, ("AUROC (95%)", "seconds of fitting"), ("left", "right"), strict=True):
        sheet.text(place, top - 0.06, title, size=SMALL, color=MUTED, ha=side, va="bottom")
    for number, row in enumerate(rows):
        middle, color = top + (number + 0.5) * step, MUTED if row["baseline"] else INK
        sheet.text(MARGIN, middle, row["detector"], left - MARGIN - 0.1, BODY, color=color, va="center")
        if row["error"] is not None:
            sheet.text(places[0], middle, f"failed: {row['error']}", 2.0, SMALL, color=MUTED, va="center")
            continue
        low, high = row["image_auroc_ci"]
        shade, face = (MUTED, "white") if row["baseline"] else (NORMAL, NORMAL)
        axes.plot([low, high], [number, number], color=shade, linewidth=2, solid_capstyle="butt")
        axes.plot(row["image_auroc"], number, "o", color=shade, markerfacecolor=face, markersize=7, clip_on=False)
        figures = f"{row['image_auroc']:.3f} ({low:.3f}–{high:.3f})"
        sheet.text(places[0], middle, figures, size=BODY, color=color, va="center")
        sheet.text(places[1], middle, f"{row['seconds']['fit']:,.1f}", size=BODY, color=color, ha="right", va="center")
    axes.spines["left"].set_visible(False)
    label_axes(axes, "image AUROC with its 95% interval (dashed: chance; hollow: baseline)", "")
    return sheet.figure
