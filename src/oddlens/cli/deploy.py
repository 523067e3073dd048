"""Commands that put a detector to work: score, export."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Annotated

import typer

from oddlens.cli.shared import (
    DeviceOption,
    JsonOption,
    PartArgument,
    SeedOption,
    SkipOption,
    ThreadsOption,
    command,
    usable,
)
from oddlens.errors import MissingExtraError, SettingsError


def score(
    detector: PartArgument,
    images: Annotated[list[str], typer.Argument(metavar="IMAGES...", help="Image files and folders.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Verdict file: .csv, .jsonl or .parquet; stdout without it.")
    ] = None,
    maps: Annotated[
        Path | None, typer.Option("--maps", help="Write each image's anomaly map as a picture here.")
    ] = None,
    skip_unreadable: SkipOption = False,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    threads: ThreadsOption = None,
    seed: SeedOption = None,
) -> None:
    """Score images: a row each with its score, p-value, threshold and verdict."""
    with command(as_json, threads, skips=True) as terminal:
        from oddlens import verdicts
        from oddlens.datasets import open_images
        from oddlens.detector import Detector
        from oddlens.files import filling

        part = Detector.load(detector, device=device)
        known, skipped = usable(open_images(images), skip_unreadable, terminal)
        if maps is not None and part.map_level is None:
            raise SettingsError(f"{detector}: this detector has no maps calibrated; score without --maps")
        started, flagged, done = time.perf_counter(), 0, 0
        rows: list[verdicts.Row] = []
        with (
            verdicts.writing(output) if output else contextlib.nullcontext(rows.extend) as write,
            filling(maps) if maps else contextlib.nullcontext() as folder,
        ):
            for batch in verdicts.judged(part, known, folder):
                write(batch)
                flagged += sum(row["label"] for row in batch)
                done += len(batch)
                terminal.counting("scoring", len(known), done)
        result = {
            "n": len(known), "n_anomalous": flagged, "threshold": part.decision_.threshold,
            "false_alarm_rate": part.decision_.false_alarm_rate, "skipped": skipped,
            "seconds": {"score": round(time.perf_counter() - started, 3)},
        }  # fmt: skip
        if output:
            result["files"] = {"verdicts": str(output)} | ({"maps": str(maps)} if maps else {})
            terminal.result(result, [f"{flagged} of {len(known)} images flagged; verdicts in {output}"])
        else:
            terminal.result(result | {"verdicts": rows})
            if not as_json:
                verdicts.print_csv(rows)


def export_detector(
    detector: PartArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="File to write, .onnx.")],
    as_json: JsonOption = False,
    threads: ThreadsOption = None,
    seed: SeedOption = None,
) -> None:
    """Write the detector as one ONNX file, refused unless it scores the same."""
    with command(as_json, threads) as terminal:
        from oddlens.detector import Detector

        try:
            from oddlens.export import export
        except ModuleNotFoundError as error:
            raise MissingExtraError("exporting a detector", "train") from error
        difference = export(Detector.load(detector, device="cpu"), output)
        result = {"files": {"onnx": str(output)}, "largest_relative_difference": difference}
        result["seconds"] = {"export": round(time.perf_counter() - terminal.started, 3)}
        terminal.result(
            result, [f"{output}: scores as the detector does (largest relative difference {difference:.1e})"]
        )
