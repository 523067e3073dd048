"""`oddlens watch`: inspect files as they appear in a folder."""

from __future__ import annotations

import json
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from oddlens.cli.options import JsonOption, SeedOption, ThreadsOption, path_argument, path_option
from oddlens.cli.serving.serve import ServeStoreOption
from oddlens.cli.session import command
from oddlens.cli.streams import visible

if TYPE_CHECKING:
    from oddlens.store.inspection import Inspection

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def watch(
    folder: Annotated[Path, path_argument("FOLDER", help="Folder into which images are written.")],
    detector: Annotated[Path, path_option("--detector", help="Exported detector.")],
    store: ServeStoreOption = None,
    settle: Annotated[
        float, typer.Option("--settle", min=0.1, help="Seconds for which a file must not change before it is read.")
    ] = 1.0,
    part: Annotated[str | None, typer.Option("--part", help="Recorded with each inspection.")] = None,
    lot: Annotated[str | None, typer.Option("--lot", help="Recorded with each inspection.")] = None,
    station: Annotated[str | None, typer.Option("--station", help="Recorded with each inspection.")] = None,
    group: Annotated[
        str | None, typer.Option("--group", help="Camera or product of all images, for a detector with groups.")
    ] = None,
    as_json: JsonOption = False,
    threads: ThreadsOption = None,
    seed: SeedOption = None,
) -> None:
    """Inspect files as they appear in a folder, each once, until SIGTERM or Ctrl-C."""
    with command(as_json, threads) as console:
        from oddlens.service.inspecting import Tags
        from oddlens.service.settings import default_store, name_detectors
        from oddlens.service.watch import watch_folder

        ((name, path),) = name_detectors([f"{detector.stem}={detector}"]).items()
        stop = threading.Event()
        before = {number: signal.signal(number, lambda *_: stop.set()) for number in SIGNALS}

        def report(number: int, inspection: Inspection) -> None:
            score, p_value = inspection.anomaly_score, inspection.p_value
            values = {
                "id": number, "file": inspection.name, "anomaly_score": score, "p_value": p_value,
                "threshold": inspection.threshold, "verdict": inspection.verdict,
            }  # fmt: skip
            line = f"{number} {visible(inspection.name)}: {inspection.verdict}, score {score:.6g}, p-value {p_value}"
            print(json.dumps(values) if as_json else line)
            sys.stdout.flush()

        try:
            watch_folder(
                folder,
                name,
                path,
                store or default_store(path),
                tags=Tags(part, lot, station, group),
                settle=settle,
                stop=stop,
                report=report,
                say=console.say,
            )
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
