"""`oddlens export`: a detector as one ONNX file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from oddlens.cli.options import (
    JsonOption,
    PartArgument,
    SeedOption,
    ThreadsOption,
)
from oddlens.cli.session import command
from oddlens.errors import MissingExtraError

if TYPE_CHECKING:
    pass


def export_detector(
    detector: PartArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="File to write, .onnx.")],
    as_json: JsonOption = False,
    threads: ThreadsOption = None,
    seed: SeedOption = None,
) -> None:
    """Write the detector as one ONNX file, refused unless it scores the same."""
    with command(as_json, threads) as terminal:
        from oddlens.detector.detector import Detector

        try:
            from oddlens.detector.export import export
        except ModuleNotFoundError as error:
            raise MissingExtraError("exporting a detector", "train") from error
        difference = export(Detector.load(detector, device="cpu"), output)
        result = {"files": {"onnx": str(output)}, "largest_relative_difference": difference}
        result["seconds"] = {"export": round(time.perf_counter() - terminal.started, 3)}
        terminal.result(
            result, [f"{output}: scores as the detector does (largest relative difference {difference:.1e})"]
        )
