"""Throughput of fitting and scoring the reference recipes relative to the limits of the machine.

    python benchmarks/roofline.py --data DIR --threads 2

The limit is measured on the recipes' layers: each as a convolution in several memory layouts and batch sizes, and as
the equivalent matrix product. Operations are counted from the layers' shapes: a multiply-add is two operations.
Everything else (activations, pooling, the loss, the optimizer) is limited by memory and left out.
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

import torch
from cells import say
from tables import data_parser, markdown, parse, typed_command, where_measured
from torch import nn
from torch.nn import functional as F

from oddlens.config.base import InputSpec
from oddlens.config.detectors import AutoencoderSettings, DetectorSettings
from oddlens.config.recipe import Recipe
from oddlens.data.open import open_dataset
from oddlens.detector.detector import Detector
from oddlens.errors import OddlensError
from oddlens.io.allocator import keep_freed_memory
from oddlens.models.autoencoder import Autoencoder
from oddlens.recipes import run
from oddlens.training.loop import use_bf16

BATCHES = (64, 256, 1024)
MAX_ELEMENTS = 2**27  # elements of the largest matrix
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
TRIES, MIN_SECONDS = 3, 0.1  # number of timings; seconds per timing
IMAGES = 10_000  # images per scoring pass
PASSES = 5


class Layer(NamedTuple):
    """A convolution, transposed convolution or linear layer; height and width are those of its input."""

    kind: str  # "convolution", "transposed" or "linear"
    before: int  # input channels
    after: int  # output channels
    height: int = 1
    width: int = 1
    kernel: int = 1
    stride: int = 1

    @property
    def product(self) -> tuple[int, int, int]:
        """Return the equivalent matrix product for one image: (rows, inner) times (inner, columns)."""
        taps = self.kernel**2
        if self.kind == "transposed":  # each pixel spreads over a patch
            return self.height * self.width, self.before, self.after * taps
        rows = -(-self.height // self.stride) * -(-self.width // self.stride)
        return rows, self.before * taps, self.after

    @property
    def operations(self) -> int:
        """Return the operations of the forward pass of one image."""
        rows, inner, columns = self.product
        return 2 * rows * inner * columns


def layers(settings: DetectorSettings, spec: InputSpec) -> list[Layer]:
    """Return the layers of an autoencoder in their order, from the image to its reconstruction.

    A convolution that is fused with up-sampling counts as one of the up-sampled image.

    Raises:
        OddlensError: the settings are those of another family, for which operations are not counted.
    """
    if not isinstance(settings, AutoencoderSettings):
        raise OddlensError(f"operations are counted for autoencoders only, not for {settings.family}")
    model, result = Autoencoder(settings, spec), list[Layer]()

    def note(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        if isinstance(module, nn.Linear):
            result.append(Layer("linear", module.in_features, module.out_features))
        elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            kernel, stride, is_transposed = module.kernel_size[0], module.stride[0], module.transposed
            height, width = inputs[0].shape[2:] if is_transposed else (side * stride for side in output.shape[2:])
            kind = "transposed" if is_transposed else "convolution"
            result.append(Layer(kind, module.in_channels, module.out_channels, height, width, kernel, stride))

    for module in model.modules():
        module.register_forward_hook(note)
    with torch.inference_mode():
        model.logits(model.hidden(torch.zeros(1, spec.channels, spec.height, spec.width))[-1])
    return result


def scoring(network: Sequence[Layer]) -> list[tuple[Layer, int]]:
    """Return each layer with the operations of scoring one image."""
    return [(layer, layer.operations) for layer in network]


def training(network: Sequence[Layer]) -> list[tuple[Layer, int]]:
    """Return each layer with the operations of training on one image: forward, and gradients of weights and inputs.

    The first layer needs no gradient of its input.
    """
    return [(layer, (2 if index == 0 else 3) * layer.operations) for index, layer in enumerate(network)]


def total(counted: Sequence[tuple[Layer, int]]) -> int:
    """Return the operations of all layers."""
    return sum(operations for _, operations in counted)


class Step(NamedTuple):
    """One measurement: layers with their operations per image, number of images, seconds, precision."""

    name: str
    what: str
    counted: list[tuple[Layer, int]]
    images: int
    seconds: float
    precision: str


def seconds(work: Callable[[], object]) -> float:
    """Return the seconds of one call: the best of a few timings, each long enough to measure."""
    work()
    times: list[float] = []
    calls = 1
    while len(times) < TRIES:
        started = time.perf_counter()
        for _ in range(calls):
            work()
        took = time.perf_counter() - started
        if took < MIN_SECONDS and not times:
            calls = max(calls + 1, int(1.2 * calls * MIN_SECONDS / max(took, 1e-6)))
            continue
        times.append(took / calls)
    return min(times)


@functools.cache
def best_rate(layer: Layer, precision: str) -> float:
    """Return the most operations a second over forms, layouts and batch sizes."""
    return max(max(rates(layer, PRECISIONS[precision], batch).values()) for batch in BATCHES)


def rates(layer: Layer, dtype: torch.dtype, batch: int) -> dict[str, float]:
    """Return operations a second of a layer as a matrix product and as a convolution in both layouts."""
    make = functools.partial(torch.rand, dtype=dtype)
    rows, inner, columns = layer.product
    work: dict[str, Callable[[], object]] = {}
    if batch * rows * max(inner, columns) <= MAX_ELEMENTS:
        left, right, out = make(batch * rows, inner), make(inner, columns), make(batch * rows, columns)
        work["product"] = functools.partial(torch.mm, left, right, out=out)
    if layer.kind != "linear":
        transposed = layer.kind == "transposed"
        shape = (layer.before, layer.after) if transposed else (layer.after, layer.before)
        call, padding = F.conv_transpose2d if transposed else F.conv2d, (layer.kernel - 1) // 2
        for layout in (torch.contiguous_format, torch.channels_last):
            images = make(batch, layer.before, layer.height, layer.width).to(memory_format=layout)
            weight = make(*shape, layer.kernel, layer.kernel).to(memory_format=layout)
            work[str(layout)] = functools.partial(call, images, weight, None, layer.stride, padding)
    with torch.inference_mode():
        return {form: batch * layer.operations / seconds(call) for form, call in work.items()}


def measure_recipe(recipe: Recipe, data_dir: Path | None, epochs: int) -> list[Step]:
    """Measure the fitting of a recipe (median seconds per epoch), and scores and maps (median of a few passes)."""
    data = open_dataset(recipe.data.source, normal=recipe.data.normal, data_dir=data_dir)
    config = recipe.training.model_copy(update={"epochs": epochs})
    detector = Detector(recipe.model, training=config, size=recipe.data.size, device="cpu")
    say(f"{recipe.name}: {epochs} epochs of {len(data.train)} images")
    detector.fit(data.train, hold_out=False)
    network, epoch = layers(recipe.model, detector.spec), statistics.median(row["seconds"] for row in detector.history_)
    precision = "bf16" if use_bf16(config.precision, torch.device("cpu")) else "fp32"
    fitting = Step(recipe.name, "fit, an epoch", training(network), len(data.train), epoch, precision)
    pixels, passes = data.test.load(detector.spec)[:IMAGES], []
    say(f"{recipe.name}: scoring {len(pixels)} images with {detector.backend.name}")
    for _ in range(PASSES + 1):  # the first warms up
        started = time.perf_counter()
        for _ in detector.iter_predictions(pixels):
            pass
        passes.append(time.perf_counter() - started)
    precision, median = "bf16" if "bf16" in detector.backend.name else "fp32", statistics.median(passes[1:])
    return [fitting, Step(recipe.name, "score", scoring(network), len(pixels), median, precision)]


def row(step: Step) -> list[str]:
    """Return the row of a step with two limits: the rate of its best layer, and of all layers at their best rates."""
    best_rates = {layer: best_rate(layer, step.precision) for layer, _ in step.counted}
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
    "recipe", "step", "precision", "MFLOP an image", "GFLOP", "seconds", "TFLOP/s", "best layer, TFLOP/s",
    "share of it", "each layer at its best, TFLOP/s", "share of that",
)  # fmt: skip


def main(words: list[str]) -> int:
    """Measure and print the tables."""
    parser = data_parser(__doc__)
    parser.add_argument("--recipes", nargs="*", default=["mnist", "cifar10-airplane"], choices=run.recipe_names())
    parser.add_argument("--epochs", type=int, default=3, help="epochs per recipe, of which the median is used")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parse(parser, words)
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    torch.set_num_threads(options.threads)
    measured = where_measured()
    try:
        with keep_freed_memory():  # as the command line does
            steps = [
                step for name in options.recipes
                for step in measure_recipe(run.find_recipe(name), options.data, options.epochs)
            ]  # fmt: skip
    except OddlensError as error:
        say(f"error: {error}")
        return 1
    say("measuring the limits of the machine")
    print(markdown(STEPS, [row(step) for step in steps]), end="\n\n")
    typed = typed_command([__file__, *words])
    print(f"Table: `{typed}`; {options.threads} threads, torch {torch.__version__}; {measured} before.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
