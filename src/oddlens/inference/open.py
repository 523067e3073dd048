"""Choosing the runtime of an exported graph."""

from __future__ import annotations

from pathlib import Path

from oddlens.config.base import InputSpec, RuntimeSettings
from oddlens.errors import ArtifactError, MissingExtraError
from oddlens.inference.backend import Backend


def open_graph(
    graph: bytes, spec: InputSpec, runtime: RuntimeSettings, source: Path, threads: int | None = None
) -> Backend:
    """Load an exported graph into a runtime, on the CPU, without importing torch.

    `source` names the graph in errors; `threads` is the number of processor threads, by default all.

    Raises:
        MissingExtraError: the runtime is not installed.
        ArtifactError: it cannot load the graph, or the graph does not come from a detector.
    """
    if runtime.engine == "onnxruntime":
        from oddlens.inference.onnx_backend import OnnxBackend

        return OnnxBackend(graph, spec, source, threads)
    if runtime.engine == "openvino":
        try:
            from oddlens.inference.openvino_backend import OpenvinoBackend
        except ModuleNotFoundError as error:
            raise MissingExtraError(f"{source}: scoring with OpenVINO", "openvino") from error
        return OpenvinoBackend(graph, spec, runtime.precision, source, threads)
    raise ArtifactError(f"{source}: exported detectors do not run with {runtime.engine}; export the detector again")
