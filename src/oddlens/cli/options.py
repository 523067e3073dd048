"""Options and arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from oddlens.io.paths import expand_home


def user_path(path: str | Path) -> Path:
    """A path from the command line, with a "~" at its start as the home folder."""
    return Path(expand_home(str(path)))


def path_option(*names: str, help: str) -> Any:
    """An option that takes a path."""
    return typer.Option(*names, help=help, parser=user_path, metavar="PATH")


def path_argument(metavar: str, help: str) -> Any:
    """An argument that is a path."""
    return typer.Argument(metavar=metavar, help=help, parser=user_path)


ReportOption = Annotated[Path | None, path_option("--report", help="Write an interactive report here, .html.")]
Device = Literal["auto", "cpu", "cuda"]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout, and nothing else there.")]
ThreadsOption = Annotated[int | None, typer.Option("--threads", min=1, help="Number of processor threads.")]
SeedOption = Annotated[int | None, typer.Option("--seed", min=0, max=2**31 - 1, help="Random seed.")]
DataDirOption = Annotated[
    Path | None, path_option("--data", help="Folder with the named data sets; also $ODDLENS_DATA.")
]
NormalOption = Annotated[
    str | None, typer.Option("--normal", help="Normal class, in class folders or a named data set.")
]
DeviceOption = Annotated[Device, typer.Option("--device", help="auto uses CUDA where available, else the CPU.")]
DetectorOption = Annotated[
    str | None, typer.Option("--detector", help="auto, or a family of detectors (see docs/explanation/detectors.md).")
]
LightOption = Annotated[
    Literal["varies", "fixed"] | None,
    typer.Option("--light", help="varies (default): brightness alone does not count; fixed: it does."),
]
NoPretrainedOption = Annotated[
    bool, typer.Option("--no-pretrained", help="Train from scratch: auto uses no pretrained network.")
]
BudgetOption = Annotated[
    str | None, typer.Option("--budget", help="Maximum time for planning and training: 90s, 5m, 1h.")
]
SkipOption = Annotated[bool, typer.Option("--skip-unreadable", help="Skip unreadable images, and list them.")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Resume an interrupted run from its newest checkpoint.")]
RateOption = Annotated[
    float | None,
    typer.Option("--false-alarm-rate", help="Maximum share of normal images that may be flagged; 0.01 is 1%."),
]
ConfidenceOption = Annotated[
    float | None,
    typer.Option("--confidence", help="Guarantee the rate with this confidence instead of on average."),
]
GroupByOption = Annotated[
    str | None,
    typer.Option("--group-by", help="A threshold for each group (camera, product): 'folder', or FILE.csv:COLUMN."),
]
CountByOption = Annotated[
    Literal["image", "group"],
    typer.Option("--count-by", help="What counts once: a group of near-duplicates, or an image."),
]
MaxAnomalousOption = Annotated[
    float,
    typer.Option("--max-anomalous", help="Test of the lot: maximum share of anomalous images."),
]
StrictOption = Annotated[
    bool, typer.Option("--strict", help="Exit with code 3 if the lot differs from the calibration images.")
]
OutputOption = Annotated[
    Path | None, path_option("-o", "--output", help="Write the changed detector here; by default, in place.")
]
KeepDaysOption = Annotated[
    float | None, typer.Option("--keep-days", min=0, help="Remove images that no inspection of the last N days needs.")
]
KeepGbOption = Annotated[
    float | None, typer.Option("--keep-gb", min=0, help="Remove the oldest images beyond N gigabytes.")
]
FromStoreOption = Annotated[
    str | None, typer.Option("--from-store", metavar="URL", help="Use the images that people judged, from this store.")
]
OnAverageOption = Annotated[
    bool, typer.Option("--on-average", help="Guarantee the rate on average again, not with a confidence.")
]
DetectorArgument = Annotated[Path, path_argument("DETECTOR", help="Detector file, .safetensors or .onnx.")]
DataArgument = Annotated[
    str, typer.Argument(metavar="DATA", help="A folder, an array file, or the name of a data set.")
]
EpochsOption = Annotated[int | None, typer.Option("--epochs", min=1, help="Override the number of epochs.")]
