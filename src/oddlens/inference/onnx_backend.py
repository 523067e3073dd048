"""Scoring with ONNX Runtime: the deployed way, without torch."""

from __future__ import annotations

import threading
from pathlib import Path

import onnxruntime as ort

from oddlens.config.base import InputSpec
from oddlens.data.image_io import Pixels
from oddlens.errors import ArtifactError
from oddlens.inference.backend import INPUT, Predictions, first_line, graph_outputs, streams, threads, to_predictions


class OnnxBackend:
    """Runs an exported scoring graph on the CPU, in float32; `source` names it in errors.

    Raises:
        ArtifactError: ONNX Runtime cannot load it, or its inputs or outputs are not a detector's.
    """

    def __init__(self, graph: bytes, spec: InputSpec, source: Path) -> None:
        try:
            self.session = session(graph, threads())
        except Exception as error:  # onnxruntime raises many kinds, none of them public
            raise ArtifactError(
                f"{source}: ONNX Runtime cannot load it ({first_line(error)}); export the detector again"
            ) from error
        takes, gives = self.session.get_inputs(), self.session.get_outputs()
        self.outputs = graph_outputs([tensor.name for tensor in takes], [tensor.name for tensor in gives], source)
        self.source = source
        self.streams = streams()
        self._graph, self._spec = graph, spec
        self._alone: ort.InferenceSession | None = None  # made for the first full batch
        self._making = threading.Lock()

    @property
    def name(self) -> str:
        """Runtime and precision."""
        return f"onnxruntime {ort.__version__} cpu fp32"

    @property
    def spec(self) -> InputSpec:
        """The pixels that it takes."""
        return self._spec

    def __call__(self, pixels: Pixels) -> Predictions:
        """Score pixels (N, H, W, C) with all threads."""
        return self._run(self.session, pixels)

    def alone(self, pixels: Pixels) -> Predictions:
        """Score pixels (N, H, W, C) in the caller's thread."""
        with self._making:
            if self._alone is None:
                self._alone = session(self._graph, 1)
        return self._run(self._alone, pixels)

    def _run(self, runs: ort.InferenceSession, pixels: Pixels) -> Predictions:
        try:
            found = runs.run(self.outputs, {INPUT: pixels})
        except Exception as error:  # onnxruntime raises many kinds, none of them public
            raise ArtifactError(
                f"{self.source}: its graph does not run ({first_line(error)}); export the detector again"
            ) from error
        return to_predictions(dict(zip(self.outputs, found, strict=True)))


def session(graph: bytes, count: int) -> ort.InferenceSession:
    """A session of so many threads; 0 leaves it to ONNX Runtime."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = count
    options.log_severity_level = 3
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
