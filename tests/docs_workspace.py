"""A folder with everything that the commands and programs of the docs use, small enough to run them all."""

from __future__ import annotations

import re
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from dataset_files import IDX, idx_bytes, write_cifar
from onnx import TensorProto, helper
from PIL import Image

from oddlens.config.base import TrainingSettings
from oddlens.data.sources.cifar import BATCHES
from oddlens.detector.detector import Detector
from oddlens.detector.export import export
from oddlens.store.inspection import make_inspections
from oddlens.store.open import open_store

SIDE = 66  # pixels: `auto` takes such images for photographs of parts
CAMERAS = ("left", "right")


def write_workspace(folder: Path, docs: Path) -> Path:
    """Write parts, cameras, strips, data sets, a backbone, a recipe, detectors and a store into `folder`."""
    rng = np.random.default_rng(0)
    write_images(folder / "parts/train/good", rng, 180)
    write_images(folder / "parts/test/good", rng, 8)
    write_images(folder / "parts/test/scratch", rng, 8, scratched=True)
    for name, count in (("new", 40), ("fresh", 60)):
        write_images(folder / name, rng, count)
    for name in ("today", "camera", "pill/train/good", "DATA/magnetic-tile/train/good"):
        shutil.copytree(folder / "new", folder / name)
    for name in ("test/good", "test/scratch"):
        shutil.copytree(folder / "parts" / name, folder / "DATA/magnetic-tile" / name)
    shutil.copytree(folder / "parts", folder / "photos/parts")
    for camera in CAMERAS:
        write_images(folder / "cameras/train/good" / camera, rng, 45)
        write_images(folder / "new-cameras" / camera, rng, 4)
        write_images(folder / "fresh-cameras" / camera, rng, 20)
    write_images(folder / "strips", rng, 30, (16, 300))
    write_tables(folder)
    write_named_sets(folder / "DATA")
    write_backbone(folder / "resnet50.onnx")
    (recipe,) = re.findall(r"```toml\n(.*?)```", (docs / "how-to/recipes.md").read_text("utf-8"), flags=re.DOTALL)
    (folder / "threes.toml").write_text(recipe, "utf-8")
    write_detectors(folder)
    return folder


def write_images(
    folder: Path, rng: np.random.Generator, count: int, size: tuple[int, int] = (SIDE, SIDE), scratched: bool = False
) -> None:
    """Write grey images of slanted stripes and noise, of which no two are near-duplicates."""
    folder.mkdir(parents=True)
    for i in range(count):
        rows, columns = np.indices(size)
        stripes = np.sin(rows * rng.uniform(-0.8, 0.8) + columns * rng.uniform(-0.8, 0.8) + rng.uniform(0, 6))
        image = 120 + 40 * stripes + rng.normal(0, 12, size)
        if scratched:
            image[10:14] = 250
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / f"{i:03}.png")


def write_tables(folder: Path) -> None:
    """Write the CSV files that name cameras and judgements."""
    for name, data in (("cameras.csv", "cameras"), ("today.csv", "new-cameras")):
        files = sorted((folder / data).rglob("*.png"))
        rows = [f"{path.relative_to(folder)},{path.parent.name}" for path in files]
        (folder / name).write_text("\n".join(["file,camera", *rows]), "utf-8")
    (folder / "judged.csv").write_text("file,judgement\nnew/000.png,false alarm\nnew/001.png,missed\n", "utf-8")


def write_named_sets(folder: Path) -> None:
    """Write MNIST and CIFAR-10 in their layouts, with random images of all classes."""
    rng = np.random.default_rng(0)
    arrays: list[npt.NDArray[np.uint8]] = []
    for count in (400, 240):
        digits = np.where(np.arange(count) % 2, np.arange(count) // 2 % 10, 3)  # half of them: those of the recipe
        arrays += [rng.integers(0, 256, (count, 28, 28), dtype=np.uint8), digits.astype(np.uint8)]
    (folder / "MNIST/raw").mkdir(parents=True)
    for name, array in zip(IDX, arrays, strict=True):
        (folder / "MNIST/raw" / name).write_bytes(idx_bytes(array))
    rows = dict.fromkeys(BATCHES, 100) | {"test_batch": 2100}  # 210 airplanes to test: half of them calibrate for 1%
    batches = {
        name: (rng.integers(0, 256, (count, 3072), dtype=np.uint8), [i % 10 for i in range(count)])
        for name, count in rows.items()
    }
    write_cifar(folder / "cifar-10-batches-bin", batches, "binary")


def write_backbone(path: Path) -> None:
    """Write a network of two convolutions for images of any size, with random weights."""
    rng = np.random.default_rng(0)
    sides = [3, 8, 16]
    weights = [
        onnx.numpy_helper.from_array(rng.normal(0, 0.3, (out, into, 3, 3)).astype(np.float32), f"weight{i}")
        for i, (into, out) in enumerate(pairwise(sides))
    ]
    nodes = [
        helper.make_node("Conv", ["images", "weight0"], ["a"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["fine"]),
        helper.make_node("Conv", ["fine", "weight1"], ["b"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["b"], ["coarse"]),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, "h", "w"])
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", channels, f"{name}_h", f"{name}_w"])
        for name, channels in (("fine", 8), ("coarse", 16))
    ]
    graph = helper.make_graph(nodes, "backbone", [images], outputs, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)


def write_detectors(folder: Path) -> None:
    """Write a detector of the parts under the names that the docs use, and a store with judged inspections."""
    detector = Detector("autoencoder", training=TrainingSettings(epochs=2)).fit(folder / "parts/train/good")
    detector.save(folder / "part.safetensors")
    export(detector, folder / "part.onnx")
    for name in ("bolts.onnx", "nuts.onnx", "left.onnx", "right.onnx"):
        shutil.copy(folder / "part.onnx", folder / name)
    with open_store(str(folder / "parts.db")) as store:
        deployed = Detector.load(folder / "part.onnx")
        store.add_detector(deployed, folder / "part.onnx")
        paths = sorted((folder / "fresh").glob("*.png"))
        verdicts = deployed.predict(paths)
        inspections = make_inspections(deployed, verdicts, name="part", batch_size=1, lot="A7", station="2")
        for path, inspection in zip(paths, inspections, strict=True):
            store.judge(store.add(inspection, path.read_bytes()), "normal", person="Ann", reason="dust")
