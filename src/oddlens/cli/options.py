"""What the commands share: options, how a command begins and ends, and a few words about detectors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    pass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass

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


OutOption = Annotated[
    Path | None, typer.Option("-o", "--output", help="Write the changed detector here; without it, in place.")
]
OnAverageOption = Annotated[
    bool, typer.Option("--on-average", help="Promise the rate on average again, instead of with a confidence.")
]
