"""The job that fits a detector: fit, export, evaluate on the test images or score the photographs, and report."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from oddlens.config.base import DecisionSettings, TrainingSettings
from oddlens.config.detectors import DetectorSettings
from oddlens.config.parse import parse, parse_detector, with_light
from oddlens.conformal.ranks import Scores
from oddlens.data.image_set import DataSet, ImageSet
from oddlens.detector.detector import Detector
from oddlens.errors import DataError, MissingExtraError, StateError
from oddlens.evaluation.data_checks import check_for_report
from oddlens.evaluation.diagnosis import counted
from oddlens.evaluation.evaluate import evaluate
from oddlens.io.own_folder import find_working_folders, make_working_folder, remove_working_folder
from oddlens.pages.learning import results
from oddlens.pages.learning.checking import describe
from oddlens.pages.learning.folders import EXCLUDED, below, open_photographs, photos
from oddlens.pages.learning.job import REGION, Job, Request
from oddlens.pages.learning.progress import Progress
from oddlens.pages.learning.projects import FitSettings
from oddlens.pages.learning.results import DETECTOR, EXPORTED, REPORT, RESULT
from oddlens.pages.learning.workspace import read_json, write_json
from oddlens.reporting.evaluation_report import write_evaluation_report
from oddlens.reporting.score_report import write_score_report

PHASES: Mapping[str, float] = {"reading": 0.02, "training": 0.78, "exporting": 0.05, "scoring": 0.1, "reporting": 0.05}
PHOTOGRAPHS = "photographs.json"  # names, sizes and times of what is fitted to, by which a change is noticed
FIT = "fit.json"  # seconds and history of a fit that is done


def fit_detector(job: Job, request: Request, progress: Progress) -> None:
    """Fit the detector of a job, or continue; writes the files of `results` to its folder.

    Raises:
        OddlensError: it cannot be fitted, says why.
    """
    progress.begin("reading", "reading the photographs")
    data = open_photographs(Path(request.path), request.settings.normal, frozenset(request.excluded))
    excluded = data.left_out.get(EXCLUDED, ())
    source = request.folder_name + (f", without {counted(len(excluded), 'excluded image')}" if excluded else "")
    data = replace(data, name=source, train=replace(data.train, source=source))
    check_unchanged(job, data)
    if not (job.folder / FIT).exists():
        fit(job, request.settings, data.train, progress)
    progress.begin("exporting", "writing the files of the detector")
    detector = export(job)
    present = evaluate_detector if len(data.test) else score_photographs
    figures = present(job, request, data, detector, progress)
    summary = describe_fit(job, request, detector) | {"n_excluded": len(excluded)}
    write_json(job.folder / RESULT, summary | figures)


def check_unchanged(job: Job, data: DataSet) -> None:
    """Note the photographs of a job that begins; refuse to continue a job whose photographs have changed since.

    Raises:
        StateError: names one of them.
    """
    present = {}
    for name in (*data.train.names, *data.test.names):
        try:
            status = Path(name).stat()
        except OSError as error:
            raise DataError(f"{name}: cannot be read ({error.strerror}); check the folder, then try again") from error
        present[name] = [status.st_size, status.st_mtime_ns]
    before = read_json(job.folder / PHOTOGRAPHS).get("images")
    if before is None:
        write_json(job.folder / PHOTOGRAPHS, {"images": present})
    elif before != present:
        changed = next(name for name in {**before, **present} if before.get(name) != present.get(name))
        raise StateError(f"{changed}: has changed since the work began, so that it cannot be continued; fit anew")


def fit(job: Job, settings: FitSettings, images: ImageSet, progress: Progress) -> None:
    """Fit and save the detector, from the checkpoints that are there; they are removed once it is saved."""
    output = job.folder / DETECTOR
    if not len(images):
        raise DataError("there are no normal photographs to fit to; put them into train/good, or choose another folder")
    model = detector_settings(settings)
    budget = settings.budget or model.default_budget
    decision = {} if settings.false_alarm_rate is None else {"false_alarm_rate": settings.false_alarm_rate}
    region = job.folder / REGION
    detector = Detector(
        model,
        training=parse(TrainingSettings, {} if settings.epochs is None else {"epochs": settings.epochs}, "settings"),
        decision=parse(DecisionSettings, decision, "settings"),
        size=settings.size,
        tile=settings.tile,
        roi=str(region) if region.exists() else None,
        budget=budget,
    )
    earlier = find_working_folders(output)
    folder = earlier[0] if earlier else make_working_folder(output)
    progress.begin("training", f"fitting {model.title} to {len(images)} photographs", budget)
    detector.fit(images, folder=folder, resume=bool(earlier), progress=progress.training)
    detector.save(output)
    write_json(job.folder / FIT, {"seconds": detector.seconds_, "history": detector.history_})
    for path in find_working_folders(output):
        remove_working_folder(path)


def detector_settings(settings: FitSettings) -> DetectorSettings:
    """The settings of the detector to fit."""
    model = parse_detector(settings.detector, "detector")
    return model if settings.light is None else with_light(model, settings.light, "light")


def export(job: Job) -> Detector:
    """Export the detector of a job, unless that is done. Returns it as it will run, from its .onnx file.

    Raises:
        ArtifactError: the exported file would give other scores.
    """
    path = job.folder / EXPORTED
    if not path.exists():
        try:
            from oddlens.detector.export import export as export_detector
        except ModuleNotFoundError as error:
            raise MissingExtraError("exporting a detector", "train") from error
        export_detector(Detector.load(job.folder / DETECTOR, device="cpu"), path)
    return Detector.load(path)


def describe_fit(job: Job, request: Request, detector: Detector) -> dict[str, Any]:
    """What a result says about the detector itself."""
    data = detector.manifest.data
    return {
        "job": request.id,
        "project": request.project,
        "project_name": request.project_name,
        "revision": request.revision,
        "folder": request.folder,
        "folder_name": request.folder_name,
        "detector": request.settings.detector,
        "family": detector.manifest.model.family,
        "n_training": data.n_training,
        "n_calibration": data.n_calibration,
        "remarks": list(detector.manifest.remarks),
        "calibration_scores": detector.decision_.calibration_scores.tolist(),
        "seconds": read_json(job.folder / FIT)["seconds"],
        "sizes": results.sizes(job.folder),
        **results.decision_figures(detector),
    }


def evaluate_detector(
    job: Job, request: Request, data: DataSet, detector: Detector, progress: Progress
) -> dict[str, Any]:
    """Evaluate the detector on the test images that can be read, and write the report. Returns their figures."""
    images, problems = data.test.readable()
    progress.begin("scoring", f"scoring {len(images)} test images")
    started = time.perf_counter()
    evaluation = evaluate(detector, images, lambda done: progress.advance(done, len(images)))
    seconds = time.perf_counter() - started
    progress.begin("reporting", "writing the report")
    write_evaluation_report(
        job.folder / REPORT,
        title(request, detector),
        detector,
        replace(evaluation, images=named_below(Path(request.path), evaluation.images)),
        describe(request),
        EXPORTED,
        read_json(job.folder / FIT)["history"],
        check_for_report(data, detector.decisions_.false_alarm_rate),
    )
    verdicts = detector.predict_from_scores(evaluation.images.names, evaluation.scores)
    rows = zip(
        photos(Path(request.path), "test", evaluation.images),
        results.verdict_figures(verdicts),
        evaluation.rate_mask.tolist(),
        strict=True,
    )
    return {
        "images": [vars(photo) | row | {"counts": counts} for photo, row, counts in rows],
        "test": results.test_figures(evaluation),
        "skipped": [str(problem) for problem in problems],
        **speed(seconds, len(images)),
    }


def score_photographs(
    job: Job, request: Request, data: DataSet, detector: Detector, progress: Progress
) -> dict[str, Any]:
    """Score the photographs that the detector was fitted to, and write the report. Returns their figures."""
    images, scores = data.train, list[Scores]()
    progress.begin("scoring", f"scoring {len(images)} photographs")
    started = time.perf_counter()
    for predictions in detector.iter_predictions(images):
        scores.append(predictions.anomaly_score)
        progress.advance(sum(map(len, scores)), len(images))
    seconds = time.perf_counter() - started
    verdicts = detector.predict_from_scores(images.names, np.concatenate(scores))
    progress.begin("reporting", "writing the report")
    named = named_below(Path(request.path), images)
    write_score_report(
        job.folder / REPORT,
        title(request, detector),
        detector,
        named,
        replace(verdicts, files=named.names),
        None,
        (),
        describe(request),
        EXPORTED,
    )
    rows = zip(photos(Path(request.path), "train", images), results.verdict_figures(verdicts), strict=True)
    return {
        "images": [vars(photo) | row | {"counts": False} for photo, row in rows],
        "test": None,
        "skipped": [],
        **speed(seconds, len(images)),
    }


def named_below(folder: Path, images: ImageSet) -> ImageSet:
    """Images with their paths below the folder as names: pages show no paths of the server."""
    return replace(images, names=tuple(below(folder, name) for name in images.names))


def title(request: Request, detector: Detector) -> str:
    """The title of a report."""
    return f"{request.project_name}: {detector.manifest.model.title}"


def speed(seconds: float, count: int) -> dict[str, float]:
    """How fast so many images were scored, with reading them."""
    return {"seconds_score": round(seconds, 3), "images_per_second": round(count / seconds, 2)}
