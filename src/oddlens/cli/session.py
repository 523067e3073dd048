"""What commands share: how they begin and end, unreadable images, groups, and what is said about a detector."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from oddlens.cli.console import Console
from oddlens.errors import ImageError, SettingsError, UnreadableImageError
from oddlens.io.allocator import keep_freed_memory
from oddlens.io.paths import check_output, check_outside_data
from oddlens.io.text import list_names

if TYPE_CHECKING:
    from oddlens.config.base import DecisionSettings
    from oddlens.conformal.lot import LotTest
    from oddlens.data.image_set import ImageSet, LeftOut
    from oddlens.detector.detector import Detector
    from oddlens.store.inspection import Verdict
    from oddlens.store.store import Store

SPIN_COUNT = "1000"  # times that a waiting thread looks before it sleeps: what OpenMP itself takes on a full machine
SCHEDULER_STATISTICS = Path("/proc/thread-self/schedstat")  # of Linux: nanoseconds run, nanoseconds waited, times run


@contextlib.contextmanager
def command(as_json: bool, threads: int | None, skips: bool = False) -> Iterator[Console]:
    """Run a command that computes: sets threads and memory of the process, and closes progress bars at the end.

    With `skips`, the command can leave out unreadable images, and its errors say so.
    """
    console = Console(as_json, set_threads(threads))
    try:
        with keep_freed_memory():
            yield console
    except UnreadableImageError as error:
        hint = "; or leave it out with --skip-unreadable" if skips else ""
        raise UnreadableImageError(error.name, error.reason + hint) from error
    except KeyboardInterrupt:
        console.close()
        console.say("interrupted" + (f"; to continue: {resuming_command()}" if console.can_resume() else ""))
        raise typer.Exit(1) from None
    finally:
        console.close()


def set_threads(threads: int | None) -> int | None:
    """Set the number of threads of this process; by default what $OMP_NUM_THREADS says, if it is a plain number.

    Threads without work soon sleep, unless $OMP_WAIT_POLICY or $GOMP_SPINCOUNT says otherwise: on a busy machine they
    would take the processor from the threads that they wait for.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)  # read by torch when it is imported
    if threads is None:
        variable = os.environ.get("OMP_NUM_THREADS", "")  # may be a list, which is for OpenMP alone
        return int(variable) if variable.isdecimal() and int(variable) else None
    os.environ["OMP_NUM_THREADS"] = str(threads)  # read by torch when it is imported
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    return threads


def waiting_seconds() -> float | None:
    """Seconds that this thread was ready to run and waited for a processor; None where the system does not say it."""
    try:
        return int(SCHEDULER_STATISTICS.read_text(encoding="ascii").split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return None


def report_left_out(left_out: LeftOut, console: Console) -> dict[str, list[str]]:
    """Say which files and folders were not read, and why. Returns all of them, for JSON."""
    from oddlens.data.open import describe_left_out

    for line in describe_left_out(left_out):
        console.say(line)
    return {reason: list(paths) for reason, paths in left_out.items()}


def report_unreadable(problems: Sequence[ImageError], console: Console) -> list[str]:
    """Say which unreadable images were left out. Returns their names."""
    for problem in problems:
        console.say(f"left out: {problem}")
    return [problem.name for problem in problems]


def drop_unreadable(images: ImageSet, skip_unreadable: bool, console: Console) -> tuple[ImageSet, list[str]]:
    """The readable images and, with `skip_unreadable`, the names of the others; without it, all images."""
    if not skip_unreadable:
        return images, []
    readable, problems = images.readable()
    return readable, report_unreadable(problems, console)


def with_groups(images: ImageSet, group_by: str | None, detector: Detector) -> ImageSet:
    """The images with their groups, where the detector has a threshold for each group.

    Raises:
        SettingsError: groups are in a CSV file that is not named, or the detector has one threshold for all images.
    """
    from oddlens.data.groups import FOLDER, assign_groups

    if detector.decisions_.grouped and group_by is None:
        grouped_by = detector.manifest.data.grouped_by
        if grouped_by != FOLDER:
            column = grouped_by.removeprefix("column ") or "COLUMN"
            raise SettingsError(f"this detector has a threshold for each group: add --group-by FILE.csv:{column}")
        group_by = FOLDER
    elif group_by is not None and not detector.decisions_.grouped:
        raise SettingsError(
            "this detector has one threshold for all images: leave --group-by out, or give it to `oddlens calibrate`"
        )
    return images if group_by is None else assign_groups(images, group_by)


@contextlib.contextmanager
def opened_store(url: str, console: Console) -> Iterator[Store]:
    """An existing store of inspections; says so where its tables had to be migrated."""
    from oddlens.store.open import open_store

    with open_store(url, create=False) as store:
        if store.migrated_from is not None:
            console.say(f"{store.name}: an older oddlens made this store; migrated from version {store.migrated_from}")
        yield store


def open_judged(url: str, detector: Detector, verdict: Verdict | None, console: Console) -> ImageSet:
    """The images of a store that people judged; says which are left out. With a `verdict`, a bias is said too."""
    from oddlens.detector.feedback import ONLY_ALARMS
    from oddlens.store.judged import judged_images

    with opened_store(url, console) as store:
        images, only_alarms = judged_images(store, detector, verdict)
    if only_alarms and verdict is not None:
        console.say(ONLY_ALARMS)
    return images


def report_lot(lot: LotTest | None, warnings: Sequence[str], strict: bool, console: Console) -> dict[str, Any] | None:
    """Say whether a lot differs from the calibration images, and with `strict` what was not tested. Returns the JSON.

    `exit_if_shifted` follows at the very end.
    """
    from oddlens.conformal.lot import MIN_IMAGES

    for line in warnings:
        console.say(line)
    if lot is None and strict:
        console.say(
            f"--strict: not tested; that takes at least {MIN_IMAGES} images (normal ones for `eval`, and of a "
            "group where there are groups), and calibration images"
        )
    if lot is None:
        return None
    if lot.untested_groups and strict:
        groups = [f"{name} ({count})" for name, count in lot.untested_groups.items()]
        console.say(f"--strict: groups of fewer than {MIN_IMAGES} images are not tested: {list_names(groups)}")
    return lot.as_json()


def exit_if_shifted(lot: LotTest | None, strict: bool) -> None:
    """With `strict`, end the command with exit code 3 where a lot differs from the calibration images."""
    if strict and lot is not None and lot.shifted:
        raise typer.Exit(3)


def check_report(report: Path | None, sources: Sequence[str | Path]) -> None:
    """Refuse a page that cannot be written, or would lie in a folder that is read as data, before any work.

    Raises:
        OddlensError: says why, and what to choose instead.
    """
    if report is None:
        return
    from oddlens.reporting.html import require_jinja2

    require_jinja2()
    if report.suffix != ".html":
        raise SettingsError(f"{report}: reports end in .html")
    check_output(report)
    check_outside_data(report, sources)


def command_line() -> str:
    """The command line as it was typed."""
    return shlex.join(["oddlens", *sys.argv[1:]])


def resuming_command() -> str:
    """The command line as it was typed, with --resume."""
    arguments = sys.argv[1:]
    if "--resume" not in arguments:
        arguments.insert(1, "--resume")  # after the command's name
    return shlex.join(["oddlens", *arguments])


def without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were given."""
    return {name: value for name, value in values.items() if value is not None}


def detector_summary(detector: Detector) -> dict[str, Any]:
    """What `fit` and `show` say about a detector in JSON."""
    manifest = detector.manifest
    return {
        "family": manifest.model.family,
        "input": manifest.input.model_dump(),
        "tiling": None if manifest.tiling is None else manifest.tiling.model_dump(),
        "runtime": manifest.runtime.model_dump(),
        "n_training": manifest.data.n_training,
        "n_calibration": manifest.data.n_calibration,
        "method": manifest.decision.method,
        **detector.decisions_.as_json(),
        "history": manifest.history,
        "remarks": list(manifest.remarks),
    }


def changed_decision(
    current: DecisionSettings,
    false_alarm_rate: float | None,
    confidence: float | None,
    on_average: bool,
    train_percentile: float | None,
) -> DecisionSettings:
    """The decision with the requested changes; a rate asks for a guarantee, a percentile gives none.

    Raises:
        SettingsError: the changes contradict each other.
    """
    from oddlens.config.base import DecisionSettings
    from oddlens.config.parse import parse

    if on_average and confidence is not None:
        raise SettingsError("--on-average and --confidence contradict each other; leave one of them out")
    with_guarantee = false_alarm_rate is not None or confidence is not None or on_average
    if with_guarantee and train_percentile is not None:
        raise SettingsError("a percentile of the training scores guarantees no rate; leave --train-percentile out")
    changes = without_none({"false_alarm_rate": false_alarm_rate, "confidence": confidence})
    values = current.model_dump() | changes
    if with_guarantee:
        values["method"] = "conformal"
    if on_average:
        values["confidence"] = None
    if train_percentile is not None:
        values |= {"method": "train_percentile", "train_percentile": train_percentile}
    return parse(DecisionSettings, values, "options")


def decision_summary(detector: Detector) -> dict[str, Any]:
    """How a detector decides, to be compared before and after a change."""
    return {
        "runtime": detector.manifest.runtime.model_dump(),
        "threshold": detector.decisions_.threshold,
        "false_alarm_rate": detector.decisions_.false_alarm_rate,
        "n_calibration": detector.manifest.data.n_calibration,
    }


def decision_result(detector: Detector, before: dict[str, Any], output: Path) -> tuple[dict[str, Any], list[str]]:
    """The result of changing a decision, as JSON and as lines; `before` is the earlier `decision_summary`."""
    after = decision_summary(detector)
    old, new = (
        "by group" if summary["threshold"] is None else f"{summary['threshold']:.6g}" for summary in (before, after)
    )
    lines = [
        f"{output}: threshold {old} -> {new}, {before['n_calibration']} -> {after['n_calibration']} calibration images",
        *detector.decisions_.summary_lines(),
    ]
    return {"files": {"detector": str(output)}, "before": before, **detector_summary(detector)}, lines
