"""Results of fits: what a page shows of a detector, another threshold, two detectors side by side, and deployment."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from oddlens.config.base import DecisionSettings
from oddlens.config.parse import parse
from oddlens.data.image_set import ImageSet
from oddlens.detector.detector import Detector
from oddlens.detector.verdicts import Verdicts
from oddlens.errors import DataNotFoundError, StateError
from oddlens.evaluation.evaluate import Evaluation
from oddlens.io.atomic import translate_os_errors
from oddlens.io.own_folder import lock
from oddlens.pages.learning.job import Job
from oddlens.pages.learning.workspace import read_json, write_json

RESULT, DETECTOR, EXPORTED, REPORT = "result.json", "detector.safetensors", "detector.onnx", "report.html"
RETUNED = "retuned"  # folder of the same detector with other thresholds, each in a folder named by its rate
FIGURES = (  # of `Evaluation.metrics`, that a result has
    "image_auroc", "image_auroc_ci", "image_ap", "detection_rate", "false_alarm_rate_measured",
    "false_alarm_rate_measured_ci", "n_normal", "n_anomalous", "n_normal_rates", "n_left_out_trained", "per_class",
    "pixel_auroc", "aupro",
)  # fmt: skip

Scored = dict[str, Any]  # an image of a result: id, name, part, kind, label, score, p_value, threshold, verdict, counts


def decision_figures(detector: Detector) -> dict[str, Any]:
    """How a detector decides: `digest`, `threshold`, `false_alarm_rate`, `guaranteed_rate` and `guarantee`."""
    decision = detector.decisions_
    return {
        "digest": detector.manifest.digest,
        "threshold": as_plain(decision.threshold),
        "false_alarm_rate": decision.false_alarm_rate,
        "guaranteed_rate": decision.guaranteed_rate,
        "guarantee": " ".join(decision.promises()),
    }


def verdict_figures(verdicts: Verdicts) -> list[dict[str, Any]]:
    """For each image score, p-value, threshold and verdict."""
    columns = (verdicts.anomaly_score, verdicts.p_value, verdicts.threshold, verdicts.verdict)
    names = ("score", "p_value", "threshold", "verdict")
    return [dict(zip(names, row, strict=True)) for row in zip(*(list(map(as_plain, c)) for c in columns), strict=True)]


def as_plain(value: Any) -> Any:
    """A number as JSON has it, which lacks infinity."""
    if isinstance(value, str):
        return value
    return float(value) if math.isfinite(value) else None


def test_figures(evaluation: Evaluation) -> dict[str, Any]:
    """The figures of an evaluation that a result has; those that its images do not give are None."""
    metrics = evaluation.metrics
    return {name: metrics.get(name) for name in FIGURES} | {"alarms_p_value": evaluation.alarms_p_value}


def result_of(job: Job, rate: str = "") -> dict[str, Any]:
    """The result of a fit, or with a rate that of the detector that was retuned to it.

    Raises:
        StateError: the job is not done, or was not retuned to this rate.
        ArtifactError: the result is damaged.
    """
    return read_json(job.own(place(job, rate, RESULT)))


def rates(job: Job) -> list[str]:
    """The rates that a detector was retuned to, the lowest first."""
    return sorted((path.parent.name for path in job.folder.glob(f"{RETUNED}/*/{RESULT}")), key=float)


def place(job: Job, rate: str, name: str) -> str:
    """Where a file of a result is, below the folder of its job.

    Raises:
        DataNotFoundError: the detector was not retuned to this rate.
    """
    if rate and rate not in rates(job):
        raise DataNotFoundError(f"the detector of job {job.id} was not retuned to the rate {rate[:20]!r}")
    return f"{RETUNED}/{rate}/{name}" if rate else name


def for_deployment(job: Job, rate: str = "") -> Path:
    """The .onnx file of a fit, or with a rate that of the detector that was retuned to it.

    Raises:
        StateError, DataNotFoundError: there is none.
    """
    return job.own(place(job, rate, EXPORTED))


def retune(job: Job, false_alarm_rate: float) -> str:
    """Move the threshold of a detector; its new files lie beside the old ones. Returns the rate as text, its name.

    Raises:
        StateError: the job is not a fit that is done, or is being retuned by somebody else.
        SettingsError: it is no rate.
        CalibrationError: the calibration images cannot guarantee it; nothing is written.
        DiskFullError, OddlensError: a file cannot be written.
    """
    result, rate = result_of(job), f"{false_alarm_rate:g}"
    files = [DETECTOR, EXPORTED]
    detectors = [Detector.load(job.own(name), device="cpu") for name in files]
    for detector in detectors:
        values = detector.manifest.decision.model_dump() | {"method": "conformal"}
        detector.set_decision(parse(DecisionSettings, values | {"false_alarm_rate": false_alarm_rate}, "threshold"))
    retuned = job.folder / RETUNED  # locked by itself: a worker that is done may still be ending, with its lock
    with translate_os_errors(retuned):
        retuned.mkdir(exist_ok=True)
    with lock(retuned) as is_free:
        if not is_free:
            raise StateError(f"the job {job.id} is being changed by somebody else; try again")
        folder = retuned / rate
        for detector, name in zip(detectors, files, strict=True):
            detector.save(folder / name)
        exported = Detector.load(folder / EXPORTED)
        write_json(folder / RESULT, result | redecided(exported, result) | {"sizes": sizes(folder)})
    return rate


def redecided(detector: Detector, result: dict[str, Any]) -> dict[str, Any]:
    """What of a result changes with the decision of its detector; the scores stay the same."""
    images: list[Scored] = result["images"]
    scores = np.array([image["score"] for image in images], dtype=np.float64)
    verdicts = detector.predict_from_scores([image["name"] for image in images], scores)
    changed = [image | row for image, row in zip(images, verdict_figures(verdicts), strict=True)]
    figures = result["test"]
    if figures is not None:
        evaluation = Evaluation(
            images=scored_set(images),
            scores=scores,
            rate_mask=np.array([image["counts"] for image in images], dtype=bool),
            reconstruction_errors=None,
            pixel_metrics={},
            decisions=detector.decisions_,
            n_excluded=figures["n_left_out_trained"],
        )
        unchanged = {name: figures[name] for name in ("pixel_auroc", "aupro")}
        figures = test_figures(evaluation) | unchanged
    return {**decision_figures(detector), "images": changed, "test": figures}


def scored_set(images: Sequence[Scored]) -> ImageSet:
    """The images of a result as a set, of which only names, kinds and labels are used."""
    names, kinds, labels = ([image[field] for image in images] for field in ("name", "kind", "label"))
    return ImageSet.from_files(names, kind=kinds, label=labels)


def sizes(folder: Path) -> dict[str, int]:
    """The sizes in bytes of the detector's files."""
    return {name: (folder / name).stat().st_size for name in (DETECTOR, EXPORTED)}


def compare(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Two results side by side: `figures` of each, and `images` that both have, with the score and verdict of each.

    Raises:
        StateError: they are of different photographs.
    """
    if first["folder"] != second["folder"]:
        names = f"{first['folder_name']!r} and {second['folder_name']!r}"
        raise StateError(f"these detectors were fitted to different photographs, {names}; compare two of one folder")
    pair = (first, second)
    by_id = [{image["id"]: image for image in result["images"]} for result in pair]
    common = [image for image in first["images"] if image["id"] in by_id[1]]
    differ = [image["id"] for image in common if len({rows[image["id"]]["verdict"] for rows in by_id}) > 1]
    left = ("images", "calibration_scores")
    return {
        "figures": [{name: value for name, value in result.items() if name not in left} for result in pair],
        "images": [
            {name: image[name] for name in ("id", "name", "part", "kind", "label")}
            | {"each": [{name: rows[image["id"]][name] for name in ("score", "verdict")} for rows in by_id]}
            for image in common
        ],
        "n_only": [len(rows) - len(common) for rows in by_id],
        "differ": differ,
    }
