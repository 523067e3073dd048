"""Feedback: what people judged, as a proposal for a new calibration. The detector itself is never changed."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from oddlens.conformal.ranks import Scores
from oddlens.data.image_set import ImageSet
from oddlens.detector.detector import Detector
from oddlens.errors import DataError, DataNotFoundError

NORMAL, ANOMALY = 0, 1
JUDGEMENTS = {"false alarm": NORMAL, "normal": NORMAL, "missed": ANOMALY, "anomaly": ANOMALY}
COLUMNS = ("file", "judgement")
MAX_MISSED_SHOWN = 5  # rates named that would catch more of what is missed


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
        files.append(resolve_image(path, str(line["file"] or ""), number))
        labels.append(JUDGEMENTS[judged])
    return ImageSet.from_files(files, kind="judged", label=labels)


def resolve_image(path: Path, name: str, number: int) -> Path:
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
    count, shown = detector.manifest.data.n_calibration, detector.decisions_.threshold
    before = detector.decisions_.thresholds(len(judged), judged.groups)
    normal = judged.labels == NORMAL
    if normal.any():
        origin = f"{detector.manifest.data.calibration_source}; judged normal: {source}"
        detector.calibrate(judged.subset(normal), source=origin, add=True)
    after = detector.decisions_.thresholds(len(judged), judged.groups)

    def flagged(which: npt.NDArray[np.bool_], thresholds: Scores) -> str:
        return f"{int((scores > thresholds)[which].sum())} of {int(which.sum())}"

    moved = () if shown is None else (("threshold", shown, detector.decisions_.threshold),)
    rows = (
        *moved,
        ("calibration images", count, detector.manifest.data.n_calibration),
        ("judged normal, flagged", flagged(normal, before), flagged(normal, after)),
        ("judged anomalous, caught", flagged(~normal, before), flagged(~normal, after)),
    )
    added = detector.manifest.data.n_calibration - count
    p_values = detector.decisions_.p_values(scores, judged.groups)
    missed = np.sort(p_values[~normal & (scores <= after)])
    only_alarms = bool(normal.any() and (scores > before)[normal].all())
    return Proposal(detector, rows, notes(only_alarms, missed), added)


def notes(only_alarms: bool, missed: Scores) -> tuple[str, ...]:
    """What to know of a proposal; `missed` are the p-values of what is still missed, rising."""
    told = []
    if only_alarms:
        told.append(
            "only false alarms were judged normal: they are no fair sample, and raise the threshold more than it must "
            "be; judge some images too that passed"
        )
    for place, rate in enumerate(missed[:MAX_MISSED_SHOWN].tolist(), 1):
        told.append(f"catching {place} of the {len(missed)} missed takes a false-alarm rate of {rate:.2%}")
    return tuple(told)


def next_version(path: Path) -> Path:
    """part.safetensors -> part-v2.safetensors, or the first number that is free."""
    stem, _, number = path.stem.rpartition("-v")
    base, first = (stem, int(number) + 1) if stem and number.isdecimal() else (path.stem, 2)
    while (place := path.with_name(f"{base}-v{first}{path.suffix}")).exists():
        first += 1
    return place
