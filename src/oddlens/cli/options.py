"""What the commands share: options, how a command begins and ends, and a few words about detectors."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from oddlens.errors import SettingsError, UnreadableImageError
from oddlens.terminal import Terminal

if TYPE_CHECKING:
    from oddlens.datasets import ImageSet
    from oddlens.detector import Detector

Device = Literal["auto", "cpu", "cuda"]
JsonOption = Annotated[bool, typer.Option("--json", help="Give the result as JSON on stdout, and nothing else there.")]
ThreadsOption = Annotated[int | None, typer.Option("--threads", min=1, help="Processor threads to use.")]
SeedOption = Annotated[int | None, typer.Option("--seed", min=0, max=2**31 - 1, help="Seed of whatever is random.")]
DataDirOption = Annotated[
    Path | None, typer.Option("--data", help="Folder with the named data sets; also $ODDLENS_DATA.")
]
NormalOption = Annotated[
    str | None, typer.Option("--normal", help="The class that is normal, in class folders or a named set.")
]
DeviceOption = Annotated[Device, typer.Option("--device", help="auto is CUDA when there, else the CPU.")]
DetectorOption = Annotated[str | None, typer.Option("--detector", help="Family of detector, or auto.")]
BudgetOption = Annotated[
    str | None, typer.Option("--budget", help="Time that planning and training may take: 90s, 5m, 1h.")
]
SkipOption = Annotated[
    bool, typer.Option("--skip-unreadable", help="Leave out images that cannot be read, and name them.")
]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on after the newest checkpoint.")]
RateOption = Annotated[
    float | None, typer.Option("--false-alarm-rate", help="Share of normal images that may be flagged; 0.01 is 1%.")
]
ConfidenceOption = Annotated[
    float | None, typer.Option("--confidence", help="Keep the rate with this confidence instead of on average.")
]
GroupByOption = Annotated[
    str | None,
    typer.Option("--group-by", help="Decide for each group (camera, product) by itself: 'folder', or FILE.csv:COLUMN."),
]
PartArgument = Annotated[Path, typer.Argument(metavar="DETECTOR", help="Detector file, .safetensors or .onnx.")]
DataArgument = Annotated[str, typer.Argument(metavar="DATA", help="A folder, an array file, or a data set's name.")]


@contextlib.contextmanager
def command(as_json: bool, threads: int | None, skips: bool = False) -> Iterator[Terminal]:
    """What every computing command begins and ends with; `skips`: it can leave out unreadable images."""
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(threads)  # read by torch and ONNX Runtime when they start
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(threads)
    terminal = Terminal(as_json)
    try:
        yield terminal
    except UnreadableImageError as error:
        hint = "; or leave it out with --skip-unreadable" if skips else ""
        raise UnreadableImageError(error.name, error.reason + hint) from error
    finally:
        terminal.close()


def usable(images: ImageSet, skip_unreadable: bool, terminal: Terminal) -> tuple[ImageSet, list[str]]:
    """The images to go on with and, where that was asked for, the names of unreadable ones that were left out."""
    if not skip_unreadable:
        return images, []
    good, problems = images.readable()
    for problem in problems:
        terminal.say(f"left out: {problem}")
    return good, [problem.name for problem in problems]


def in_groups(images: ImageSet, asked: str | None, part: Detector | None = None) -> ImageSet:
    """The images, each with its group, where that is asked for or a detector that is there decides by folders.

    Raises:
        SettingsError: a detector decides by groups of a CSV file and none is named, or by no groups at all.
    """
    from oddlens.datasets import grouped
    from oddlens.datasets.grouping import FOLDER

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
    return images if asked is None else grouped(images, asked)


def typed() -> str:
    """What the user typed."""
    return shlex.join(["oddlens", *sys.argv[1:]])


def summary(part: Detector) -> dict[str, Any]:
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
