"""Throughput of fitting and scoring relative to the limits of the machine.

    python benchmarks/roofline.py --data DIR --threads 2
    python benchmarks/roofline.py --recipes cifar10-airplane --files airplane-ort.onnx airplane-openvino.onnx --data DIR

The limit is measured on the recipes' layers: each as a convolution in several memory layouts and batch sizes, and as
the equivalent matrix product. Operations are counted from the layers' shapes (`operations.py`). `--files` are detector
files, each scored with its calibrated runtime.
"""

from __future__ import annotations

import functools
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from cells import say
from operations import Layer, layers, scoring, total, training
from tables import data_parser, markdown, parse, typed_command, where_measured
from torch.nn import functional as F

from oddlens.config.base import InputSpec, TrainingSettings
from oddlens.config.detectors import AutoencoderSettings
from oddlens.config.recipe import Recipe
from oddlens.data.image_io import Pixels
from oddlens.data.open import open_dataset
from oddlens.detector.detector import Detector
from oddlens.errors import OddlensError
from oddlens.io.allocator import keep_freed_memory
from oddlens.models import registry
from oddlens.models.layers import fast_bf16
from oddlens.recipes import run
from oddlens.training.loop import train, use_bf16

BATCHES = (64, 256, 1024)
MAX_ELEMENTS = 2**27  # elements of the largest matrix
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
TRIES, MIN_SECONDS = 3, 0.1  # number of timings; seconds per timing
IMAGES = 10_000  # images per scoring pass
PASSES = 5


class Rate(NamedTuple):
    """Operations per second, and the form that reached them."""

    value: float
    how: str


class Step(NamedTuple):
    """One measurement: layers with their operations per image, number of images, seconds, precision."""

    name: str
    what: str
    counted: list[tuple[Layer, int]]
    images: int
    seconds: float
    precision: str


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of one call: the best of a few timings, each long enough to measure."""
    done: Callable[[], object] = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    work()
    done()
    times: list[float] = []
    calls = 1
    while len(times) < TRIES:
        started = time.perf_counter()
        for _ in range(calls):
            work()
        done()
        took = time.perf_counter() - started
        if took < MIN_SECONDS and not times:
            calls = max(calls + 1, int(1.2 * calls * MIN_SECONDS / max(took, 1e-6)))
            continue
        times.append(took / calls)
    return min(times)


@functools.cache
def best_rate(layer: Layer, precision: str, device: torch.device) -> Rate:
    """Return the best rate over forms, layouts and batch sizes."""
    candidates = [rate for batch in BATCHES for rate in rates(layer, PRECISIONS[precision], batch, device)]
    return max(candidates, key=lambda rate: rate.value)


def rates(layer: Layer, dtype: torch.dtype, batch: int, device: torch.device) -> list[Rate]:
    """Return the rates of a layer as a matrix product and as a convolution in both layouts."""
    make = functools.partial(torch.rand, dtype=dtype, device=device)
    rows, inner, columns = layer.product
    work: dict[str, Callable[[], object]] = {}
    if batch * rows * max(inner, columns) <= MAX_ELEMENTS:
        left, right, out = make(batch * rows, inner), make(inner, columns), make(batch * rows, columns)
        work["product"] = functools.partial(torch.mm, left, right, out=out)
    if layer.kind != "linear":
        padding = (layer.kernel - 1) // 2
        transposed = layer.kind == "transposed"
        shape = (layer.before, layer.after) if transposed else (layer.after, layer.before)
        call = F.conv_transpose2d if transposed else F.conv2d
        for layout in (torch.contiguous_format, torch.channels_last):
            images = make(batch, layer.before, layer.height, layer.width).to(memory_format=layout)
            weight = make(*shape, layer.kernel, layer.kernel).to(memory_format=layout)
            name = str(layout).removeprefix("torch.").removesuffix("_format").replace("_", " ")
            work[f"convolution, {name}"] = functools.partial(call, images, weight, None, layer.stride, padding)
    with torch.inference_mode():
        operations = batch * layer.operations
        return [Rate(operations / seconds(call, device), f"{how}, batch {batch}") for how, call in work.items()]


def bandwidth(device: torch.device) -> tuple[float, float]:
    """Return bytes per second of a copy (one read, one write) and a triad a = b + 2 c (two reads, one write)."""
    left, right, out = (torch.rand(2**26, device=device) for _ in range(3))
    copied = 2 * left.nbytes / seconds(lambda: out.copy_(left), device)
    return copied, 3 * left.nbytes / seconds(lambda: torch.add(left, right, alpha=2, out=out), device)


def settings_of(recipe: Recipe) -> AutoencoderSettings:
    """Return the settings of the recipe's autoencoder.

    Raises:
        OddlensError: the recipe has another model, for which operations are not counted.
    """
    if not isinstance(recipe.model, AutoencoderSettings):
        family = recipe.model.family
        raise OddlensError(f"{recipe.name}: operations are counted for autoencoders only, not for {family}")
    return recipe.model


def measure_recipe(recipe: Recipe, data_dir: Path | None, epochs: int, device: torch.device) -> list[Step]:
    """Measure the fitting of a recipe (median seconds per epoch) and its scoring."""
    data, settings = open_dataset(recipe.data.source, normal=recipe.data.normal, data_dir=data_dir), settings_of(recipe)
    spec = data.train.choose_spec(recipe.data.size)
    pixels = data.train.load(spec)
    config = recipe.training.model_copy(update={"epochs": epochs})
    say(f"{recipe.name}: {epochs} epochs of {len(pixels)} images")
    model = registry.build(settings, spec, config.seed)
    history = train(model, pixels, config, device)
    took = statistics.median(row["seconds"] for row in history)
    precision, counted = "bf16" if use_bf16(config.precision, device) else "fp32", layers(settings, spec)
    fitting = Step(recipe.name, "fit, an epoch", training(counted), len(pixels), took, precision)
    quick = TrainingSettings(epochs=1, batch_size=config.batch_size)
    detector = Detector(settings, training=quick, size=recipe.data.size, device=device.type)
    detector.fit(pixels[:512], hold_out=False)
    return [fitting, measure_scoring(recipe.name, detector, settings)]


def from_file(path: Path, device: torch.device) -> Step:
    """Measure the scoring of a detector file with its calibrated runtime."""
    detector = Detector.load(path, device=device.type, threads=torch.get_num_threads())
    settings = detector.manifest.model
    if not isinstance(settings, AutoencoderSettings):
        raise OddlensError(f"{path}: operations are counted for autoencoders only, not for {settings.family}")
    return measure_scoring(path.name, detector, settings)


def measure_scoring(name: str, detector: Detector, settings: AutoencoderSettings) -> Step:
    """Measure scores and maps of random images in memory: the median of a few passes."""
    spec = detector.spec
    pixels = noise(spec)
    say(f"{name}: scoring {len(pixels)} images with {detector.backend.name}")
    took = []
    for _ in range(PASSES + 1):  # the first warms up
        started = time.perf_counter()
        for _ in detector.iter_predictions(pixels):
            pass
        took.append(time.perf_counter() - started)
    precision = "bf16" if "bf16" in detector.backend.name else "fp32"
    what = f"score, {detector.backend.name}"
    return Step(name, what, scoring(layers(settings, spec)), len(pixels), statistics.median(took[1:]), precision)


def noise(spec: InputSpec) -> Pixels:
    """Return random images (N, H, W, C), at most `IMAGES` and 256 MB."""
    count = min(IMAGES, 2**28 // (spec.height * spec.width * spec.channels))
    shape = (count, spec.height, spec.width, spec.channels)
    return np.random.default_rng(0).integers(0, spec.value_max, shape, dtype=spec.dtype, endpoint=True)


def row(step: Step, device: torch.device) -> list[str]:
    """Return the row of a step with two limits: the rate of its best layer, and of all layers at their best rates."""
    best_rates = {layer: best_rate(layer, step.precision, device).value for layer, _ in step.counted}
    best = max(best_rates.values())
    together = total(step.counted) / sum(operations / best_rates[layer] for layer, operations in step.counted)
    work = total(step.counted) * step.images
    achieved = work / step.seconds
    return [
        step.name, step.what, step.precision, f"{total(step.counted) / 1e6:.1f}", f"{work / 1e9:.0f}",
        f"{step.seconds:.2f}", f"{achieved / 1e12:.3f}", f"{best / 1e12:.3f}", f"**{achieved / best:.0%}**",
        f"{together / 1e12:.3f}", f"{achieved / together:.0%}",
    ]  # fmt: skip


STEPS = (
    "recipe or file", "step", "precision", "MFLOP an image", "GFLOP", "seconds", "TFLOP/s", "best layer, TFLOP/s",
    "share of it", "each layer at its best, TFLOP/s", "share of that",
)  # fmt: skip


def limits(steps: Sequence[Step], device: torch.device) -> str:
    """Return the table of the layers' best rates, in bf16 only where the hardware supports it."""
    unique = dict.fromkeys(layer for step in steps for layer, _ in step.counted)
    names = [name for name in PRECISIONS if name == "fp32" or fast_bf16(device)]
    rows = []
    for layer in unique:
        shown = [best_rate(layer, name, device) for name in names]
        rows.append([str(layer), *(f"{rate.value / 1e12:.3f} ({rate.how})" for rate in shown)])
    return markdown(["layer", *(f"{name}, TFLOP/s" for name in names)], rows)


def main(words: list[str]) -> int:
    """Measure and print the tables."""
    parser = data_parser(__doc__)
    parser.add_argument("--recipes", nargs="*", default=["mnist", "cifar10-airplane"], choices=run.recipe_names())
    parser.add_argument("--files", nargs="*", type=Path, default=[], help="detector files to measure")
    parser.add_argument("--epochs", type=int, default=3, help="epochs per recipe, of which the median is used")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parse(parser, words)
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    torch.set_num_threads(options.threads)
    device, measured = torch.device(options.device), where_measured()
    try:
        with keep_freed_memory():  # as the command line does
            steps = [
                step for name in options.recipes
                for step in measure_recipe(run.find_recipe(name), options.data, options.epochs, device)
            ]  # fmt: skip
            steps += [from_file(path, device) for path in options.files]
    except OddlensError as error:
        say(f"error: {error}")
        return 1
    say("measuring the limits of the machine")
    copied, added = bandwidth(device)
    print(markdown(STEPS, [row(step, device) for step in steps]), limits(steps, device), sep="\n\n", end="\n\n")
    print(f"Memory: {copied / 1e9:.1f} GB/s copying, {added / 1e9:.1f} GB/s adding (triad).")
    typed = typed_command([__file__, *(Path(word).name for word in words)])  # without local paths
    print(f"Table: `{typed}`; {options.threads} threads, torch {torch.__version__}; {measured} before.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
