"""Loading a detector file into its runtime, verified."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from oddlens.artifact import detector_file
from oddlens.artifact.detector_file import GRAPH, ROI, Tensors
from oddlens.artifact.onnx_file import read_onnx
from oddlens.config.manifest import Manifest
from oddlens.errors import ArtifactError, MissingExtraError, SettingsError
from oddlens.inference.backend import Backend
from oddlens.inference.golden import check_golden
from oddlens.inference.open import open_graph
from oddlens.inference.tiling import with_tiles
from oddlens.models.backbones.onnx_graph import OnnxGraph

MODEL_PREFIX = "model."  # of the names of the model's tensors in a detector file


class LoadedDetector(NamedTuple):
    """The content of a detector file, ready to score."""

    backend: Backend
    manifest: Manifest
    tensors: Tensors
    graph: bytes | None  # of an exported file


def load_verified(path: Path, device: str, threads: int | None = None, content: bytes | None = None) -> LoadedDetector:
    """Read a detector file into the runtime that it was calibrated in, and verify that it scores as it did.

    With `content`, those bytes are read instead of the file, which `path` then only names in errors.

    Raises:
        DataNotFoundError: there is no such file.
        ArtifactError: it is damaged, foreign, or gives other scores than when it was written.
        MissingExtraError: its runtime (torch, for a `.safetensors` file) is not installed.
    """
    if path.suffix == ".safetensors":
        loaded = load_torch(path, device, content)
    elif path.suffix == ".onnx":
        loaded = load_onnx(path, device, threads, content)
    else:
        raise ArtifactError(f"{path}: is not a detector file; detectors end in .safetensors or .onnx")
    check_golden(path, loaded.backend, loaded.manifest)
    return loaded


def read_digest(path: Path, content: bytes) -> str:
    """The digest in the manifest of a detector file, with which its content must agree; no runtime loads it.

    Raises:
        ArtifactError: it is damaged or foreign.
    """
    if path.suffix == ".onnx":
        _, manifest, _ = read_onnx(path, content)
    else:
        manifest, _ = detector_file.load(path, content)
    return manifest.digest


def load_torch(path: Path, device: str, content: bytes | None) -> LoadedDetector:
    """Load a `.safetensors` file as a torch backend."""
    try:
        from oddlens.inference.torch_backend import rebuild
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"{path}: running a .safetensors detector (or export it to .onnx)", "train") from error
    manifest, tensors = detector_file.load(path, content)
    if manifest.runtime.engine != "torch":
        raise ArtifactError(f"{path}: says that it runs with {manifest.runtime.engine}, which runs only .onnx files")
    weights = {
        name.removeprefix(MODEL_PREFIX): tensor for name, tensor in tensors.items() if name.startswith(MODEL_PREFIX)
    }
    roi, tiling, precision = tensors.get(ROI), manifest.tiling, manifest.runtime.precision
    model_roi = roi if tiling is None else None
    graph = OnnxGraph(tensors[GRAPH].tobytes(), own.name) if (own := manifest.model.own_backbone) else None
    backend = rebuild(manifest.model, manifest.model_input, weights, model_roi, device, precision, graph)
    return LoadedDetector(with_tiles(backend, manifest.input, tiling, roi), manifest, tensors, None)


def load_onnx(path: Path, device: str, threads: int | None, content: bytes | None) -> LoadedDetector:
    """Load an exported `.onnx` file into its runtime, without importing torch."""
    if device == "cuda":
        raise SettingsError(f"{path}: exported detectors run on the CPU; use the .safetensors file for --device cuda")
    graph, manifest, tensors = read_onnx(path, content)
    backend = open_graph(graph, manifest.model_input, manifest.runtime, path, threads)
    return LoadedDetector(
        with_tiles(backend, manifest.input, manifest.tiling, tensors.get(ROI)), manifest, tensors, graph
    )
