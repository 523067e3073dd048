"""Differences between the scores of trained and exported detectors, by family: a Markdown table.

    python benchmarks/parity.py --data DIR
    python benchmarks/parity.py --set bottle pill --data DIR

Detectors are trained on 1,000 of CIFAR-10's airplanes for two epochs and score its 10,000 test images: once with
PyTorch, once exported with ONNX Runtime and, where installed, OpenVINO; all in float32. With `--set`, the default
detector of each of these folders of photographs scores its test images instead.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from cells import say
from tables import DASH, data_parser, parse, print_table, where_measured

from oddlens.config.base import RuntimeSettings, TrainingSettings
from oddlens.config.detectors import (
    AutoencoderSettings,
    CrossfitSettings,
    DefectsSettings,
    DictionarySettings,
    FamilySettings,
    FeaturesSettings,
    PadimSettings,
    PatchcoreSettings,
    RotationSettings,
)
from oddlens.data.image_io import Pixels
from oddlens.data.image_set import DataSet, ImageSet
from oddlens.data.open import open_dataset
from oddlens.detector.detector import Detector
from oddlens.errors import MissingExtraError, OddlensError
from oddlens.inference.open import open_graph
from oddlens.inference.scoring import anomaly_scores, batch_size, in_batches

N_TRAINING, EPOCHS = 1000, 2
CLOSED_FORM = ("dictionary", "features", "padim", "patchcore")
FAMILIES: Mapping[str, FamilySettings | str] = {
    "autoencoder-strided": AutoencoderSettings(),
    "autoencoder-pooling": AutoencoderSettings(architecture="pooling", widths=(32, 64)),
    "autoencoder-nap": AutoencoderSettings(score="nap"),
    "dictionary": DictionarySettings(),
    "features": FeaturesSettings(),
    "padim": PadimSettings(),
    "patchcore": PatchcoreSettings(),
    "rotation": RotationSettings(),
    "defects": DefectsSettings(),
    "crossfit": CrossfitSettings(model=DictionarySettings()),
    "auto": "auto",
}
ENGINES = ("onnxruntime", "openvino")


def fit_detector(name: str, normal: ImageSet) -> Detector:
    """Return a detector after a short training."""
    model = FAMILIES[name]
    if isinstance(model, str):
        return Detector(model, budget=60, device="cpu").fit(normal)
    family = model.model.family if isinstance(model, CrossfitSettings) else model.family
    training = TrainingSettings() if family in CLOSED_FORM else TrainingSettings(epochs=EPOCHS)
    return Detector(model, training=training, device="cpu").fit(normal)


def differences(detector: Detector, pixels: Pixels) -> dict[str, float]:
    """Return the largest relative difference between trained and exported scores, by engine."""
    size, largest = batch_size(detector.spec), {}
    expected = anomaly_scores(detector.backend, in_batches(pixels, size))
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "part.onnx"
        detector.export(path)
        graph = Detector.load(path).graph
        if graph is None:
            raise OddlensError(f"{path}: the exported detector has no graph; export it again")
        for engine in ENGINES:
            try:
                runtime = RuntimeSettings.model_validate({"engine": engine})
                exported = anomaly_scores(open_graph(graph, detector.spec, runtime, path), in_batches(pixels, size))
            except MissingExtraError as error:
                say(f"skipped: {error}")
                continue
            largest[engine] = float(np.max(np.abs(exported - expected) / np.abs(expected)))
    return largest


def rows(data: DataSet, images: int) -> Iterator[list[str]]:
    """A row for each family: fitted, exported, scored."""
    normal, test = data.train.subset(np.arange(N_TRAINING)), data.test.subset(np.arange(min(images, len(data.test))))
    for name in FAMILIES:
        say(name)
        detector = fit_detector(name, normal)
        by_engine = differences(detector, test.load(detector.spec))
        yield [name, *(f"{by_engine[engine]:.1e}" if engine in by_engine else DASH for engine in ENGINES)]


def rows_of_photographs(folder: Path, names: list[str]) -> Iterator[list[str]]:
    """A row for each set: the default detector fitted, exported, scored."""
    for name in names:
        say(name)
        data = open_dataset(str(folder / name))
        detector = Detector(device="cpu").fit(data.train)
        by_engine = differences(detector, data.test.load(detector.spec))
        yield [name, *(f"{by_engine[engine]:.1e}" if engine in by_engine else DASH for engine in ENGINES)]


def main(words: list[str]) -> int:
    """Print the table."""
    parser = data_parser(__doc__)
    parser.add_argument("--images", type=int, default=10_000, help="number of test images")
    parser.add_argument("--set", nargs="+", default=[], help="folders of photographs below --data")
    options = parse(parser, words, needs_data="--set" in words)
    columns = ("largest relative difference of float32 scores", *ENGINES)
    if options.set:
        lines = rows_of_photographs(options.data, options.set)
    else:
        lines = rows(open_dataset("cifar10", normal="airplane", data_dir=options.data), options.images)
    return print_table(columns, lines, [__file__, *words], f"; {where_measured()}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
