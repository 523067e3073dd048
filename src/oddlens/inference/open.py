"""Choose the runtime of an exported graph."""

from __future__ import annotations

from pathlib import Path

from oddlens.config.base import InputSpec, RuntimeSettings
from oddlens.errors import ArtifactError, MissingExtraError
from oddlens.inference.backend import Backend


def open_graph(graph: bytes, spec: InputSpec, runtime: RuntimeSettings, source: Path) -> Backend:
    """An exported graph in a runtime, on the CPU; `source` names it in errors. Nothing of torch is imported.

    Raises:
        MissingExtraError: the runtime is not installed.
        ArtifactError: it cannot load the graph, or the graph is no detector's.
    """
    if runtime.engine == "onnxruntime":
        from oddlens.inference.onnx_backend import OnnxBackend

        return OnnxBackend(graph, spec, source)
    if runtime.engine == "openvino":
        try:
            from oddlens.inference.openvino_backend import OpenvinoBackend
        except ModuleNotFoundError as error:
            raise MissingExtraError(f"{source}: scoring with OpenVINO", "openvino") from error
        return OpenvinoBackend(graph, spec, runtime.precision, source)
    raise ArtifactError(f"{source}: exported detectors do not run with {runtime.engine}; export the detector again")
