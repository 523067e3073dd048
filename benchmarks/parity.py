"""By how much an exported detector's scores differ from the trained one's, for every family: a Markdown table.

    python benchmarks/parity.py --data DIR
    python benchmarks/parity.py --families autoencoder-strided transforms --data DIR

Detectors learn 1,000 of CIFAR-10's airplanes in two epochs and score its 10,000 test images: once as they were trained,
with PyTorch, once exported, with ONNX Runtime and, where it is installed, OpenVINO; all in float32.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from cells import commit, machine, say
from tables import as_typed, markdown

from oddlens.config.base import RuntimeSettings, TrainingSettings
from oddlens.config.detectors import (
    AutoencoderSettings,
    CrossfitSettings,
    DefectsSettings,
    DictionarySettings,
    ModelSettings,
    TransformsSettings,
)
from oddlens.data.image_io import Pixels
from oddlens.data.image_set import ImageSet
from oddlens.data.open import open_dataset
from oddlens.detector.detector import Detector
from oddlens.detector.export import export
from oddlens.errors import MissingExtraError
from oddlens.inference.open import open_graph
from oddlens.inference.scoring import anomaly_scores, batch_size, in_batches

LEARNED, EPOCHS = 1000, 2
FAMILIES: Mapping[str, ModelSettings | str] = {
    "autoencoder-strided": AutoencoderSettings(),
    "autoencoder-pooling": AutoencoderSettings(architecture="pooling", widths=(32, 64)),
    "autoencoder-nap": AutoencoderSettings(score="nap"),
    "dictionary": DictionarySettings(),
    "transforms": TransformsSettings(),
    "defects": DefectsSettings(),
    "crossfit": CrossfitSettings(model=DictionarySettings()),
    "auto": "auto",
}
ENGINES = ("onnxruntime", "openvino")


def fitted(name: str, normal: ImageSet, seed: int) -> Detector:
    """A detector that learned a little."""
    model = FAMILIES[name]
    if isinstance(model, str):
        return Detector(model, budget=60, training=TrainingSettings(seed=seed), device="cpu").fit(normal)
    learned = model.model.family if isinstance(model, CrossfitSettings) else model.family
    training = TrainingSettings(seed=seed) if learned == "dictionary" else TrainingSettings(seed=seed, epochs=EPOCHS)
    return Detector(model, training=training, device="cpu").fit(normal)


def differences(detector: Detector, pixels: Pixels) -> dict[str, float]:
    """The largest relative difference between trained and exported scores, by engine."""
    size, found = batch_size(detector.spec), {}
    trained = anomaly_scores(detector.backend, in_batches(pixels, size))
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "part.onnx"
        export(detector, path)
        graph = Detector.load(path).graph
        assert graph is not None
        for engine in ENGINES:
            try:
                runtime = RuntimeSettings.model_validate({"engine": engine})
                exported = anomaly_scores(open_graph(graph, detector.spec, runtime, path), in_batches(pixels, size))
            except MissingExtraError as error:
                say(f"left out: {error}")
                continue
            found[engine] = float(np.max(np.abs(exported - trained) / np.abs(trained)))
    return found


def main(words: list[str]) -> int:
    """Fit, export, score and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES), metavar="FAMILY")
    parser.add_argument("--images", type=int, default=10_000, help="test images that are scored")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, default=os.environ.get("ODDLENS_DATA"), help="folder of data sets")
    options = parser.parse_args(words)
    data = open_dataset("cifar10", normal="airplane", data_dir=options.data)
    normal = data.train.subset(np.arange(LEARNED))
    rows = []
    for name in options.families:
        say(name)
        detector = fitted(name, normal, options.seed)
        pixels = data.test.subset(np.arange(min(options.images, len(data.test)))).load(detector.spec)
        found = differences(detector, pixels)
        rows.append([name, *(f"{found[engine]:.1e}" if engine in found else "–" for engine in ENGINES)])
    print(markdown(["largest relative difference of float32 scores", *ENGINES], rows))
    print(f"\nTable: `{as_typed([__file__, *words])}`; seed {options.seed}; {options.images} images;")
    print(f"{machine()}; commit {commit()}.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
