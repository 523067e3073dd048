"""Feedback: what people judged, as a proposal for a new calibration. The detector itself is never changed."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from oddlens.datasets import ImageSet
from oddlens.detector import Detector
from oddlens.errors import DataError, DataNotFoundError

NORMAL, ANOMALY = 0, 1
JUDGEMENTS = {"false alarm": NORMAL, "normal": NORMAL, "missed": ANOMALY, "anomaly": ANOMALY}
COLUMNS = ("file", "judgement")
MISSED_SHOWN = 5  # rates named that would catch more of what is missed


@dataclass(frozen=True)
class Proposal:
    """A detector with a new calibration, and what it would change."""

    detector: Detector
    rows: tuple[tuple[str, Any, Any], ...]  # what, before, after: the table
    notes: tuple[str, ...]
    added: int  # judged normal images that joined the calibration


def read_judged(path: Path) -> ImageSet:
    """The images of a CSV file with the columns `file` and `judgement`; files are relative to it, or to where we are.

    A judgement is "false alarm" or "normal" (label 0), "missed" or "anomaly" (label 1).

    Raises:
        DataNotFoundError: there is no such file, or an image in it is not there.
        DataError: it is no such CSV file.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            lacking = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if lacking:
                raise DataError(f"{path}: lacks the column {lacking[0]}; it needs {', '.join(COLUMNS)}")
            lines = list(reader)
    except FileNotFoundError as error:
        raise DataNotFoundError(f"{path}: no such file; give a CSV file with {', '.join(COLUMNS)}") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as CSV ({error}); save it as UTF-8") from error
    if not lines:
        raise DataError(f"{path}: judges no image; add lines with {' and '.join(COLUMNS)}")
    files, labels = [], []
    for number, line in enumerate(lines, 2):
        judged = str(line["judgement"] or "").strip().lower().replace("_", " ")
        if judged not in JUDGEMENTS:
            raise DataError(f"{path}, line {number}: {judged!r} is no judgement; write {', '.join(JUDGEMENTS)}")
        files.append(found(path, str(line["file"] or ""), number))
        labels.append(JUDGEMENTS[judged])
    return ImageSet.from_files(files, kind="judged", label=labels)


def found(path: Path, name: str, number: int) -> Path:
    """The image that a line names."""
    for place in (Path(name), path.parent / name):
        if name and place.is_file():
            return place
    raise DataNotFoundError(f"{path}, line {number}: {name or 'nothing'} is not there; name an image file")


def propose(detector: Detector, judged: ImageSet, source: str) -> Proposal:
    """Let judged normal images join the calibration, and compare the decision before and after.

    `detector` must be one's own copy: its decision changes. Nothing is written.

    Raises:
        DataError: an image cannot be read, or the detector was trained on one.
        CalibrationError: the decision's promise cannot be kept.
    """
    scores = detector.score(judged)
    before, count = detector.decision_.threshold, detector.manifest.data.n_calibration
    normal = judged.labels == NORMAL
    if normal.any():
        origin = f"{detector.manifest.data.calibration_source}; judged normal: {source}"
        detector.calibrate(judged.subset(normal), source=origin, add=True)
    after = detector.decision_.threshold

    def flagged(which: npt.NDArray[np.bool_], threshold: float) -> str:
        return f"{int((scores[which] > threshold).sum())} of {int(which.sum())}"

    rows = (
        ("threshold", before, after),
        ("calibration images", count, detector.manifest.data.n_calibration),
        ("judged normal, flagged", flagged(normal, before), flagged(normal, after)),
        ("judged anomalous, caught", flagged(~normal, before), flagged(~normal, after)),
    )
    added = detector.manifest.data.n_calibration - count
    return Proposal(detector, rows, notes(detector, scores, normal, before, after), added)


def notes(
    detector: Detector, scores: npt.NDArray[np.float64], normal: npt.NDArray[np.bool_], before: float, after: float
) -> tuple[str, ...]:
    """What to know of a proposal."""
    told = []
    if normal.any() and (scores[normal] > before).all():
        told.append(
            "only false alarms were judged normal: they are no fair sample, and raise the threshold more than it must "
            "be; judge some images too that passed"
        )
    missed = np.sort(scores[~normal & (scores <= after)])[::-1]
    for place, rate in enumerate(rates_that_catch(detector, missed)[:MISSED_SHOWN], 1):
        told.append(f"catching {place} of the {len(missed)} missed takes a false-alarm rate of {rate:.2%}")
    return tuple(told)


def rates_that_catch(detector: Detector, missed: npt.NDArray[np.float64]) -> Sequence[float]:
    """For the largest scores that are missed, falling: the smallest false-alarm rate that flags them, on average."""
    return [float(p) for p in detector.decision_.p_values(missed)]


def next_version(path: Path) -> Path:
    """part.safetensors -> part-v2.safetensors, or the first number that is free."""
    stem, _, number = path.stem.rpartition("-v")
    base, first = (stem, int(number) + 1) if stem and number.isdecimal() else (path.stem, 2)
    while (place := path.with_name(f"{base}-v{first}{path.suffix}")).exists():
        first += 1
    return place
