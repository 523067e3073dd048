"""`oddlens export`: a detector as one ONNX file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

from oddlens.cli.options import DetectorArgument, JsonOption, SeedOption, ThreadsOption, path_option
from oddlens.cli.session import command
from oddlens.io.paths import check_output


def export_detector(
    path: DetectorArgument,
    output: Annotated[Path, path_option("-o", "--output", help="File to write, .onnx.")],
    as_json: JsonOption = False,
    threads: ThreadsOption = None,
    seed: SeedOption = None,
) -> None:
    """Write a detector as one ONNX file; refused unless the file gives the same scores."""
    with command(as_json, threads) as console:
        from oddlens.detector.detector import Detector

        check_output(output, inputs=[path])
        difference = Detector.load(path, device="cpu", threads=console.threads).export(output)
        result = {"files": {"onnx": str(output)}, "largest_relative_difference": difference}
        result["seconds"] = {"export": round(time.perf_counter() - console.started, 3)}
        line = f"{output}: gives the scores of the detector (largest relative difference {difference:.1e})"
        console.result(result, [line])
