"""Kill a process while it saves, again and again, and check the file after each kill.

    python tests/killed_saves.py FOLDER DETECTOR.safetensors DETECTOR.onnx --kills 1000

A child saves versions 0, 1, 2, ... of a file and reports each one that is complete; it is killed (SIGKILL) at a random
moment. The file must then be that version or the next one, as a whole.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from oddlens.batch.verdict_files import COLUMNS, open_verdict_file, write_map
from oddlens.config.base import DecisionSettings, InputSpec
from oddlens.config.detectors import AutoencoderSettings
from oddlens.data.image_io import decode
from oddlens.detector.detector import Detector
from oddlens.io.journal import open_journal
from oddlens.models import registry
from oddlens.training.checkpoints import load_checkpoint, save_checkpoint
from oddlens.training.optim import Adam

ROWS = 400  # of a verdict file
SPEC = InputSpec(height=32, width=32, channels=1)
MAX_VERSION = 150  # after which the files are removed, and versions begin again
MIN_MOMENT = 0.02  # seconds after which a child is killed, at most, if its saves are faster


class Kind(NamedTuple):
    """How a file is saved, and which version lies on the disk; an error where it cannot be read."""

    save: Callable[[int], object]
    read: Callable[[], int]


def kinds(folder: Path, safetensors: Path, exported: Path) -> dict[str, Kind]:
    """All kinds of files."""
    return {
        "detector": detector_kind(safetensors, folder / "detector" / "part.safetensors"),
        "onnx": detector_kind(exported, folder / "onnx" / "part.onnx"),
        "checkpoint": checkpoint_kind(folder / "checkpoint"),
        "verdicts.csv": verdict_kind(folder / "verdicts.csv" / "verdicts.csv"),
        "verdicts.jsonl": verdict_kind(folder / "verdicts.jsonl" / "verdicts.jsonl"),
        "verdicts.parquet": verdict_kind(folder / "verdicts.parquet" / "verdicts.parquet"),
        "map": map_kind(folder / "map" / "map.png"),
    }


def detector_kind(source: Path, path: Path) -> Kind:
    """A detector whose false-alarm rate says the version."""
    detector = Detector.load(source)

    def save(version: int) -> None:
        rate = 0.2 + version / 10_000
        detector.set_decision(DecisionSettings(false_alarm_rate=rate)).save(path)

    def read() -> int:
        return round((Detector.load(path).decisions_.false_alarm_rate - 0.2) * 10_000)

    return Kind(save, read)


def checkpoint_kind(folder: Path) -> Kind:
    """Checkpoints, whose number of epochs is the version; those before the last two are removed meanwhile."""
    models = [registry.build(AutoencoderSettings(widths=(8, 16), latent_dim=32), SPEC, seed) for seed in (0, 1)]
    optimizers = [Adam(model.parameters(), lr=0.1) for model in models]

    def save(version: int) -> None:
        history = [{"epoch": float(number), "loss": 0.5} for number in range(version + 1)]
        save_checkpoint(folder, models[0], optimizers[0], "run", history)

    def read() -> int:
        return len(load_checkpoint(folder, models[1], optimizers[1], "run", 10**9)) - 1

    return Kind(save, read)


def verdict_kind(path: Path) -> Kind:
    """A verdict file; the version is its first score."""

    def save(version: int) -> None:
        values: tuple[Any, ...] = ("a.png", float(version), 0.5, 1.0, 0, "normal")
        with open_verdict_file(path) as write:
            for _ in range(4):
                write([dict(zip(COLUMNS, values, strict=True))] * (ROWS // 4))

    def read() -> int:
        if path.suffix == ".parquet":
            import pyarrow.parquet as pq

            scores = pq.read_table(path)["anomaly_score"].to_pylist()
        elif path.suffix == ".jsonl":
            scores = [json.loads(line)["anomaly_score"] for line in path.read_text().splitlines()]
        else:
            scores = [float(line.split(",")[1]) for line in path.read_text().splitlines()[1:]]
        if len(scores) != ROWS or len(set(scores)) != 1:
            raise ValueError(f"{path}: has {len(scores)} rows of {len(set(scores))} versions")
        return int(scores[0])

    return Kind(save, read)


def map_kind(path: Path) -> Kind:
    """The map of an image without contrast, whose level is the version."""
    grey, zeros = np.zeros((64, 64, 1), np.uint8), np.zeros((64, 64), np.float32)

    def save(version: int) -> None:
        write_map(path, grey + np.uint8(version), zeros, 1.0, 255)

    return Kind(save, lambda: int(decode(path)[0, 0, 0]))


def kill_saves(kind: Kind, folder: Path, kills: int, rng: random.Random) -> dict[str, Any]:
    """Kill so many children of one kind; gives what was there afterwards."""
    bad, saves, hits, on_disk = list[str](), 0, 0, MAX_VERSION
    for _ in range(kills):
        if on_disk >= MAX_VERSION:
            shutil.rmtree(folder, ignore_errors=True)
            started, on_disk = time.perf_counter(), 0
            kind.save(0)
            longest = 2 * max(MIN_MOMENT, time.perf_counter() - started)
        complete = killed_child(kind, on_disk + 1, rng.uniform(0, longest))
        partial = list(folder.rglob(".oddlens-*.partial"))
        saves, hits = saves + complete, hits + bool(partial)
        for path in partial:
            path.unlink()
        try:
            version = kind.read()
        except Exception as error:
            bad.append(f"unloadable: {error}")
            break
        if version - complete not in (on_disk, on_disk + 1):
            bad.append(f"version {version} after {complete} saves from {on_disk}")
        on_disk = version
    return {"kills": kills, "during_a_write": hits, "saves": saves, "bad": bad}


def killed_child(kind: Kind, first: int, moment: float) -> int:
    """Let a child save from version `first` on, kill it after so many seconds, and count what it completed."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            os.write(writer, b"s")  # started
            for version in range(first, first + 100):
                kind.save(version)
                os.write(writer, b".")
        os._exit(0)
    os.close(writer)
    os.read(reader, 1)
    time.sleep(moment)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with os.fdopen(reader, "rb") as file:
        return len(file.read())


def kill_journals(path: Path, kills: int, rng: random.Random) -> dict[str, Any]:
    """The journal of a scoring job, which goes on after each kill; every entry that was added must be there."""
    run, bad, on_disk, saves, hits = {"run": "survival"}, list[str](), 0, 0, 0

    def write(writer: int) -> None:
        with open_journal(path, run, resume=True) as journal:
            for number in range(journal.entries, journal.entries + 1000):
                journal.add({"scores": [number + 0.5] * 50})
                os.write(writer, b".")
            os._exit(0)  # without removing it

    for _ in range(kills):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                write(writer)
            os._exit(1)
        os.close(writer)
        first = os.read(reader, 1)  # once it has begun
        time.sleep(rng.uniform(0, MIN_MOMENT))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with os.fdopen(reader, "rb") as file:
            complete = len(first + file.read())
        saves += complete
        hits += not path.read_bytes().endswith(b"\n")
        lines = path.read_bytes().splitlines()[1:] if path.exists() else []
        whole = [json.loads(line)["scores"] for line in lines[: on_disk + complete]]
        if whole != [[number + 0.5] * 50 for number in range(on_disk + complete)]:
            bad.append(f"{len(whole)} entries instead of {on_disk + complete}")
        on_disk = len(path.read_bytes().split(b"\n")[1:-1]) if path.exists() else 0
        if on_disk > 3000:
            path.unlink()
            on_disk = 0
    return {"kills": kills, "during_a_write": hits, "saves": saves, "bad": bad}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("safetensors", type=Path)
    parser.add_argument("exported", type=Path)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # forked processes have no other threads
    rng, results = random.Random(options.seed), dict[str, Any]()
    for name, kind in kinds(options.folder, options.safetensors, options.exported).items():
        results[name] = kill_saves(kind, options.folder / name, options.kills, rng)
        print(json.dumps({name: results[name]}), flush=True)
    results["journal"] = kill_journals(options.folder / "verdicts.csv.partial", options.kills, rng)
    print(json.dumps({"journal": results["journal"]}), flush=True)
    return int(any(result["bad"] for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
