"""What a detector writes: the tensors, the bytes and the runtime of a detector file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from oddlens.artifact import detector_file, onnx_file
from oddlens.artifact.detector_file import Tensors
from oddlens.config.base import RuntimeSettings
from oddlens.errors import SettingsError
from oddlens.inference.backend import Backend
from oddlens.inference.open import open_graph

if TYPE_CHECKING:
    from oddlens.detector.detector import Detector
    from oddlens.models.base import Model


def file_tensors(statistics: Tensors, roi: npt.NDArray[np.bool_] | None, network: Model | None) -> Tensors:
    """The tensors of a detector file: statistics, region of interest (H, W), weights and backbone."""
    tensors = dict(statistics)
    if roi is not None:
        tensors[detector_file.ROI] = roi.astype(np.uint8)
    if network is not None:
        if network.graph is not None:
            tensors[detector_file.GRAPH] = np.frombuffer(network.graph.content, dtype=np.uint8)
        for name, value in network.state_dict().items():
            tensors[f"model.{name}"] = np.ascontiguousarray(value.cpu().numpy())
    return tensors


def file_content(detector: Detector) -> bytes:
    """The bytes of the detector file of a fitted detector."""
    if detector.graph is not None:
        return onnx_file.onnx_content(detector.graph, detector.manifest, detector.tensors, detector.decision_json)
    return detector_file.detector_content(detector.manifest, detector.tensors)


def save(detector: Detector, path: Path) -> Path:
    """Write the detector file of a fitted detector.

    Raises:
        SettingsError: the name does not end in .safetensors (in .onnx, where it was loaded from such a file).
        OddlensError: the file cannot be written.
    """
    if detector.graph is not None:
        if path.suffix != ".onnx":
            raise SettingsError(
                f"{path}: this detector was loaded from an exported file, whose graph can only be saved as .onnx"
            )
        return onnx_file.save_onnx(path, detector.graph, detector.manifest, detector.tensors, detector.decision_json)
    if path.suffix != ".safetensors":
        raise SettingsError(f"{path}: detector files end in .safetensors (to deploy as .onnx, use `oddlens export`)")
    return detector_file.save(path, detector.manifest, detector.tensors)


def open_runtime(detector: Detector, runtime: RuntimeSettings) -> Backend:
    """The backend, without tiles, that runs a fitted detector in a runtime.

    Raises:
        SettingsError: the runtime does not run this kind of file.
        MissingExtraError: the runtime is not installed.
    """
    network = detector.network
    if detector.graph is not None and runtime.engine != "torch":
        spec = detector.manifest.model_input
        return open_graph(detector.graph, spec, runtime, Path("this detector"), detector.threads)
    if network is not None and runtime.engine == "torch":
        from oddlens.inference.torch_backend import TorchBackend, resolve_device

        return TorchBackend(network, resolve_device(detector.device), runtime.precision)
    raise SettingsError(
        f"{runtime.engine} does not run this detector: torch runs .safetensors files, onnxruntime and openvino "
        "the .onnx files that `oddlens export` makes of them"
    )
