"""Feedback: a proposal for a new calibration from what people judged; the detector file stays as it is."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from oddlens.conformal.ranks import Scores
from oddlens.data.csv_files import read_rows, spellings
from oddlens.data.image_set import ImageSet
from oddlens.detector.detector import Detector
from oddlens.errors import DataError, DataNotFoundError

NORMAL, ANOMALY = 0, 1
JUDGEMENTS = {"false alarm": NORMAL, "normal": NORMAL, "missed": ANOMALY, "anomaly": ANOMALY}
COLUMNS = ("file", "judgement")
MAX_NAME = 500  # characters of a name in a message
ONLY_ALARMS = (
    "only false alarms were judged normal; reviewing only those biases the calibration and raises the threshold too "
    "far: include images that passed"
)
MAX_MISSED_SHOWN = 5  # missed anomalies whose false-alarm rate is given


@dataclass(frozen=True)
class Proposal:
    """A detector with a new calibration, and what that changes."""

    detector: Detector
    rows: tuple[tuple[str, Any, Any], ...]  # what, before, after: the table
    notes: tuple[str, ...]
    added: int  # number of new calibration images


def read_judged(path: Path) -> ImageSet:
    """Read the judged images from a CSV file with the columns `file` and `judgement`.

    Paths in it are relative to the working directory or to the CSV file. A judgement is "false alarm" or "normal"
    (label 0), "missed" or "anomaly" (label 1).

    Raises:
        DataNotFoundError: the CSV file or an image in it does not exist.
        DataError: it is not such a CSV file, or has no rows.
    """
    rows = read_rows(path, COLUMNS)
    if not rows:
        raise DataError(f"{path}: contains no judgement; add rows with {' and '.join(COLUMNS)}")
    files, labels = [], []
    for line, row in rows:
        judgement = " ".join(re.split(r"[\s_-]+", row["judgement"].lower()))
        if judgement not in JUDGEMENTS:
            raise DataError(f"{path}, line {line}: {judgement!r} is not a judgement; write {', '.join(JUDGEMENTS)}")
        files.append(resolve_image(path, row["file"], line))
        labels.append(JUDGEMENTS[judgement])
    return ImageSet.from_files(files, kind="judged", label=labels)


def resolve_image(path: Path, name: str, line: int) -> Path:
    """The path of the image that a line of the CSV file names."""
    if not name:
        raise DataNotFoundError(f"{path}, line {line}: names no file; give the path of an image")
    for spelling in spellings(name):
        for file in (Path(spelling), path.parent / spelling):
            if os.path.isfile(file):  # noqa: PTH113 - False for a name that is too long
                return file
    fix = "give the path of an image" + ("" if name.isascii() else ", or save the table as UTF-8")
    raise DataNotFoundError(f"{path}, line {line}: {name[:MAX_NAME]} does not exist; {fix}")


def propose(detector: Detector, judged: ImageSet, source: str) -> Proposal:
    """Add images that were judged normal to the calibration, and compare the decision before and after.

    The decision of `detector` changes; nothing is written.

    Raises:
        DataError: an image cannot be read, or the detector was trained on it.
        CalibrationError: the decision's guarantee is impossible.
    """
    scores = detector.score(judged)
    count, threshold = detector.manifest.data.n_calibration, detector.decisions_.threshold
    before = detector.decisions_.thresholds(len(judged), judged.groups)
    normal = judged.labels == NORMAL
    if normal.any():
        source = f"{detector.manifest.data.calibration_source}; judged normal: {source}"
        detector.calibrate(judged.subset(normal), source=source, add=True)
    after = detector.decisions_.thresholds(len(judged), judged.groups)

    def flagged(selected: npt.NDArray[np.bool_], thresholds: Scores) -> str:
        return f"{int((scores > thresholds)[selected].sum())} of {int(selected.sum())}"

    rows = (
        *(() if threshold is None else (("threshold", threshold, detector.decisions_.threshold),)),
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
    """What to know about a proposal; `missed` holds the p-values of the anomalies that are still missed, ascending."""
    lines = [ONLY_ALARMS] if only_alarms else []
    for number, rate in enumerate(missed[:MAX_MISSED_SHOWN].tolist(), 1):
        lines.append(f"catching {number} of the {len(missed)} missed takes a false-alarm rate of {rate:.2%}")
    return tuple(lines)


def next_version(path: Path) -> Path:
    """The path of the next version: part.safetensors -> part-v2.safetensors, or the first number that is free."""
    stem, _, number = path.stem.rpartition("-v")
    base, version = (stem, int(number) + 1) if stem and number.isdecimal() else (path.stem, 2)
    while (candidate := path.with_name(f"{base}-v{version}{path.suffix}")).exists():
        version += 1
    return candidate
