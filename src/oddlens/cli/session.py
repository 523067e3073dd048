"""How a command begins and ends, and a few words about detectors."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oddlens.cli.console import Console
from oddlens.errors import SettingsError, UnreadableImageError

if TYPE_CHECKING:
    from oddlens.data.image_set import ImageSet
    from oddlens.detector.detector import Detector
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from oddlens.config.base import DecisionSettings
    from oddlens.detector.detector import Detector


@contextlib.contextmanager
def command(as_json: bool, threads: int | None, skips: bool = False) -> Iterator[Console]:
    """What every computing command begins and ends with; `skips`: it can leave out unreadable images."""
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(threads)  # read by torch and ONNX Runtime when they start
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(threads)
    terminal = Console(as_json)
    try:
        yield terminal
    except UnreadableImageError as error:
        hint = "; or leave it out with --skip-unreadable" if skips else ""
        raise UnreadableImageError(error.name, error.reason + hint) from error
    finally:
        terminal.close()


def drop_unreadable(images: ImageSet, skip_unreadable: bool, terminal: Console) -> tuple[ImageSet, list[str]]:
    """The images to go on with and, where that was asked for, the names of unreadable ones that were left out."""
    if not skip_unreadable:
        return images, []
    good, problems = images.readable()
    for problem in problems:
        terminal.say(f"left out: {problem}")
    return good, [problem.name for problem in problems]


def with_groups(images: ImageSet, asked: str | None, part: Detector | None = None) -> ImageSet:
    """The images, each with its group, where that is asked for or a detector that is there decides by folders.

    Raises:
        SettingsError: a detector decides by groups of a CSV file and none is named, or by no groups at all.
    """
    from oddlens.data.groups import FOLDER, assign_groups

    if part is not None and asked is None and part.decisions_.grouped:
        how = part.manifest.data.grouped_by
        if how != FOLDER:
            column = how.removeprefix("column ") or "COLUMN"
            raise SettingsError(f"this detector decides for each group by itself: add --group-by FILE.csv:{column}")
        asked = FOLDER
    elif part is not None and asked is not None and not part.decisions_.grouped:
        raise SettingsError(
            "this detector decides alike for all images: leave --group-by out, or give it to `oddlens calibrate`"
        )
    return images if asked is None else assign_groups(images, asked)


def command_line() -> str:
    """What the user typed."""
    return shlex.join(["oddlens", *sys.argv[1:]])


def detector_summary(part: Detector) -> dict[str, Any]:
    """What `fit` and `show` say of a detector in JSON."""
    manifest = part.manifest
    return {
        "family": manifest.model.family,
        "input": manifest.input.model_dump(),
        "runtime": manifest.runtime.model_dump(),
        "n_training": manifest.data.n_training,
        "n_calibration": manifest.data.n_calibration,
        "method": manifest.decision.method,
        **part.decisions_.as_json(),
        "history": manifest.history,
        "remarks": list(manifest.remarks),
    }


def changed_decision(
    now: DecisionSettings,
    false_alarm_rate: float | None,
    confidence: float | None,
    on_average: bool,
    train_percentile: float | None,
) -> DecisionSettings:
    """The decision with what was asked for; a rate asks for the promise, a percentile for none."""
    from oddlens.config.base import DecisionSettings
    from oddlens.config.parse import parse

    if on_average and confidence is not None:
        raise SettingsError("--on-average and --confidence contradict each other; leave one of them out")
    promised = false_alarm_rate is not None or confidence is not None or on_average
    if promised and train_percentile is not None:
        raise SettingsError("a percentile of the training scores promises no rate; leave --train-percentile out")
    asked: dict[str, Any] = {"false_alarm_rate": false_alarm_rate, "confidence": confidence}
    values = now.model_dump() | {name: value for name, value in asked.items() if value is not None}
    if promised:
        values["method"] = "conformal"
    if on_average:
        values["confidence"] = None
    if train_percentile is not None:
        values |= {"method": "train_percentile", "train_percentile": train_percentile}
    return parse(DecisionSettings, values, "options")


def decision_before(part: Detector) -> dict[str, Any]:
    """What a detector decides by: for "before"."""
    return {
        "runtime": part.manifest.runtime.model_dump(),
        "threshold": part.decisions_.threshold,
        "false_alarm_rate": part.decisions_.false_alarm_rate,
        "n_calibration": part.manifest.data.n_calibration,
    }


def decision_result(part: Detector, before: dict[str, Any], output: Path) -> tuple[dict[str, Any], list[str]]:
    """What both commands say in the end: JSON, and lines."""
    now = decision_before(part)
    moved = [f"{value['threshold']:.6g}" if value["threshold"] is not None else "by group" for value in (before, now)]
    lines = [
        f"{output}: threshold {moved[0]} -> {moved[1]}, "
        f"{before['n_calibration']} -> {now['n_calibration']} calibration images",
        *part.decisions_.summary_lines(),
    ]
    return {"files": {"detector": str(output)}, "before": before, **detector_summary(part)}, lines
