"""Scoring throughput in images per second: each installed runtime against peers, measured in alternating runs.

    python benchmarks/scoring_speed.py --show memory --data DIR
    python benchmarks/scoring_speed.py --show files --data DIR

`memory`: scores and maps of the 10,000 CIFAR-10 test images with the recipe's autoencoder, against a plain PyTorch
loop. `files`: the magnetic-tile test files at 256 x 256, from disk to verdicts with `oddlens score`, against anomalib's
OpenVINO inferencer with the GANomaly trained by `peers/run.py --peer ganomaly-tile`. A detector file for each runtime
and precision is written below `--cache`. Each measurement runs in its own process, so that the threads of different
runtimes do not interfere.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cells import ROOT, say
from environments import environment
from roofline import layers, scoring, total
from tables import data_parser, markdown, parse, typed_command, where_measured

from oddlens.cli.session import set_threads
from oddlens.config.base import RuntimeSettings, TrainingSettings
from oddlens.data.image_set import ImageSet
from oddlens.data.open import open_dataset
from oddlens.detector.detector import Detector
from oddlens.errors import MissingExtraError, OddlensError
from oddlens.io.allocator import keep_freed_memory
from oddlens.recipes import run

PASSES = 3  # over the images, after a warm-up pass
TILE_SIDE, TILE_EPOCHS = 256, 3
PEERS = Path(__file__).parent / "peers"
RECIPE = run.find_recipe("cifar10-airplane")
MODEL = ROOT / "runs/peers/models/ganomaly-tile"


def make_detectors(kind: str, folder: Path, data: Path) -> list[Path]:
    """Write a detector file of the same network for each installed runtime and precision; return the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    first = folder / f"{kind}-torch-fp32.safetensors"
    normal = training_images(kind, data)
    if not first.exists():
        say(f"{first.name}: fitting")
        fit_detector(kind, normal).save(first)
    exported = folder / f"{kind}-onnxruntime-fp32.onnx"
    if not exported.exists():
        Detector.load(first).export(exported)
    paths = [first, exported]
    for engine, precision in (("torch", "bf16"), ("openvino", "fp32"), ("openvino", "bf16")):
        source = first if engine == "torch" else exported
        path = folder / f"{kind}-{engine}-{precision}{source.suffix}"
        runtime = RuntimeSettings.model_validate({"engine": engine, "precision": precision})
        try:
            if not path.exists():
                Detector.load(source).calibrate(calibration_images(kind, normal), runtime=runtime).save(path)
            paths.append(path)
        except MissingExtraError as error:
            say(f"skipped: {error}")
    return paths


def training_images(kind: str, data: Path) -> ImageSet:
    """Return the normal training images."""
    if kind == "airplane":
        return open_dataset("cifar10", normal="airplane", data_dir=data).train
    return open_dataset(str(data / "magnetic-tile")).train


def calibration_images(kind: str, normal: ImageSet) -> ImageSet:
    """Return the fifth of the images that is held out for calibration."""
    return normal.subset([i for i in range(len(normal)) if i % 5 == 0])


def fit_detector(kind: str, normal: ImageSet) -> Detector:
    """Return a calibrated autoencoder; its quality does not matter for speed."""
    training = RECIPE.training if kind == "airplane" else TrainingSettings(epochs=TILE_EPOCHS)
    detector = Detector(RECIPE.model, training=training, size=None if kind == "airplane" else TILE_SIDE)
    detector.fit(normal.subset([i for i in range(len(normal)) if i % 5]), hold_out=False)
    return detector.calibrate(calibration_images(kind, normal))


def score_in_memory(path: Path, data: Path) -> dict[str, Any]:
    """Measure scores and maps of all CIFAR-10 test images in memory, in this process: the median of a few passes."""
    detector = Detector.load(path, threads=set_threads(None))
    pixels, times = open_dataset("cifar10", normal="airplane", data_dir=data).test.load(detector.spec), []
    with keep_freed_memory():  # as the command line does
        for _ in range(PASSES + 1):
            started = time.perf_counter()
            for outputs in detector.iter_predictions(pixels):
                if outputs.anomaly_map is None:
                    raise OddlensError(f"{path}: the detector has no anomaly maps; pass another one")
            times.append(time.perf_counter() - started)
    return {"images_per_second": len(pixels) / statistics.median(times[1:])}


def run_json(words: Sequence[str | Path], threads: int) -> dict[str, Any]:
    """Return the JSON that a command prints, with the wall-clock seconds of its process.

    Raises:
        OddlensError: the command failed; its output is on stderr.
    """
    started = time.perf_counter()
    environ = os.environ | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run([str(word) for word in words], cwd=ROOT, capture_output=True, text=True, env=environ)
    if done.returncode:
        print(done.stderr, file=sys.stderr, end="", flush=True)
        raise OddlensError(f"{Path(words[1]).name} failed with exit code {done.returncode}; see its output above")
    result: dict[str, Any] = json.loads(done.stdout)
    return result | {"wall": time.perf_counter() - started}


def in_memory(paths: Sequence[Path], options: argparse.Namespace) -> str:
    """Return the table of throughput in memory."""
    plain = [
        environment("torch"), PEERS / "plain_pytorch.py", "cifar", "--epochs", "0",
        "--data", options.data, "--threads", str(options.threads),
    ]  # fmt: skip
    theirs: list[float] = []
    ours: dict[Path, list[float]] = {path: [] for path in paths}
    for number in range(options.repeats):
        say(f"round {number + 1} of {options.repeats}")
        theirs.append(run_json(plain, options.threads)["images_per_second"])
        for path in paths:
            worker = [sys.executable, __file__, "--one", path.resolve(), "--data", options.data]
            ours[path].append(run_json(worker, options.threads)["images_per_second"])
    rows = [["plain PyTorch, batch 64", f"{statistics.median(theirs):,.0f}", "1"]]
    for path in paths:
        ratios = [speed / reference for speed, reference in zip(ours[path], theirs, strict=True)]
        rows.append([Detector.load(path).backend.name, f"{statistics.median(ours[path]):,.0f}", spread(ratios)])
    return markdown(["score and map, in memory", "images/s", "times plain PyTorch: median (min to max)"], rows)


def from_disk(paths: Sequence[Path], options: argparse.Namespace) -> str:
    """Return the table of throughput from files to verdicts, and of whole commands."""
    folder = options.data / "magnetic-tile/test"
    inferring = [
        environment("anomalib"), PEERS / "anomalib_peer.py", "infer", folder, "--out", MODEL,
        "--threads", str(options.threads), "--passes",
    ]  # fmt: skip
    theirs, whole = [], []
    ours: dict[Path, list[dict[str, Any]]] = {path: [] for path in paths}
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(options.repeats):
            say(f"round {number + 1} of {options.repeats}")
            theirs.append(run_json([*inferring, "2"], options.threads))
            whole.append(run_json([*inferring, "1"], options.threads)["wall"])
            for path in paths:
                command = [sys.executable, "-m", "oddlens", "score", path.resolve(), folder, "--json"]
                command += ["-o", Path(scratch) / "verdicts.csv", "--threads", str(options.threads)]
                ours[path].append(run_json(command, options.threads))
    rates = [result["images_per_second"] for result in theirs]
    name = f"anomalib's inferencer, {theirs[0]['precision']}, AUROC {theirs[0]['auroc']:.3f}"
    rows = [[name, f"{theirs[0]['operations_per_image'] / 1e9:.2f}",
             f"{statistics.median(rates):.1f}", "1", f"{statistics.median(whole):.1f}", "1"]]  # fmt: skip
    for path in paths:
        speeds = [result["n"] / result["seconds"]["score"] for result in ours[path]]
        walls = [result["wall"] for result in ours[path]]
        detector = Detector.load(path)
        operations = total(scoring(layers(RECIPE.model, detector.spec)))
        rows.append([
            f"oddlens score, {detector.backend.name}", f"{operations / 1e9:.2f}", f"{statistics.median(speeds):.1f}",
            spread([speed / reference for speed, reference in zip(speeds, rates, strict=True)]),
            f"{statistics.median(walls):.1f}",
            spread([reference / wall for wall, reference in zip(walls, whole, strict=True)]),
        ])  # fmt: skip
    columns = ["files to verdicts", "GFLOP an image", "images/s", "times", "whole command, s", "times"]
    return markdown(columns, rows)


def spread(ratios: Sequence[float]) -> str:
    """Format the median and the range of ratios."""
    return f"**{statistics.median(ratios):.2f}** ({min(ratios):.2f} to {max(ratios):.2f})"


def main(words: list[str]) -> int:
    """Measure and print the table."""
    parser = data_parser(__doc__)
    parser.add_argument("--show", choices=("memory", "files"), default="memory")
    parser.add_argument("--repeats", type=int, default=5, help="rounds")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--one", type=Path, metavar="FILE", help="measure this detector file only, and print JSON")
    options = parse(parser, words, needs_data=True)
    if options.one:
        print(json.dumps(score_in_memory(options.one, options.data)))
        return 0
    measured = where_measured()
    try:
        kind, table = ("airplane", in_memory) if options.show == "memory" else ("tile", from_disk)
        print(table(make_detectors(kind, options.cache / "scoring", options.data), options))
    except OddlensError as error:
        say(f"error: {error}")
        return 1
    print(f"\nTable: `{typed_command([__file__, *words])}`; {options.threads} threads; {measured} before.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
