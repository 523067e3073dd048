"""Loading a detector file into its runtime, verified."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from oddlens.artifact.detector_file import ROI, Tensors, load
from oddlens.artifact.onnx_file import read_onnx
from oddlens.config.manifest import Manifest
from oddlens.errors import ArtifactError, MissingExtraError, SettingsError
from oddlens.inference.backend import Backend
from oddlens.inference.golden import check_golden
from oddlens.inference.open import open_graph


class LoadedDetector(NamedTuple):
    """A detector file, ready to score."""

    backend: Backend
    manifest: Manifest
    tensors: Tensors
    graph: bytes | None  # of an exported file


def open_backend(path: Path, device: str) -> LoadedDetector:
    """Read a detector file into the runtime that it is calibrated for, and prove that it scores as it did.

    Raises:
        DataNotFoundError: there is no such file.
        ArtifactError: it is damaged, foreign, or gives other scores than when it was written.
        MissingExtraError: its runtime (torch, of a `.safetensors` file) is not installed.
    """
    openers = {".safetensors": load_torch, ".onnx": load_onnx}
    if path.suffix not in openers:
        raise ArtifactError(f"{path}: is not a detector file; detectors end in {' or '.join(openers)}")
    opened = openers[path.suffix](path, device)
    check_golden(path, opened.backend, opened.manifest)
    return opened


def load_torch(path: Path, device: str) -> LoadedDetector:
    """A `.safetensors` file as a torch backend."""
    try:
        from oddlens.inference.torch_backend import rebuild
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"{path}: running a .safetensors detector (or export it to .onnx)", "train") from error
    manifest, tensors = load(path)
    if manifest.runtime.engine != "torch":
        raise ArtifactError(f"{path}: says that it runs with {manifest.runtime.engine}, which runs .onnx files alone")
    weights = {name[6:]: tensor for name, tensor in tensors.items() if name.startswith("model.")}
    roi, precision = tensors.get(ROI), manifest.runtime.precision
    return LoadedDetector(
        rebuild(manifest.model, manifest.input, weights, roi, device, precision), manifest, tensors, None
    )


def load_onnx(path: Path, device: str) -> LoadedDetector:
    """An exported `.onnx` file in its runtime; nothing of torch is imported."""
    if device == "cuda":
        raise SettingsError(f"{path}: exported detectors run on the CPU; use the .safetensors file for --device cuda")
    graph, manifest, tensors = read_onnx(path)
    return LoadedDetector(open_graph(graph, manifest.input, manifest.runtime, path), manifest, tensors, graph)
