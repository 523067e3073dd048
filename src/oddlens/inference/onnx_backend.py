"""Scoring with ONNX Runtime, as deployed detectors do: without torch."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from oddlens.config.base import InputSpec
from oddlens.data.image_io import Pixels
from oddlens.errors import ArtifactError
from oddlens.inference.backend import INPUT, Predictions, count_streams, graph_outputs, to_predictions
from oddlens.io.onnx_session import VERSION, create_session
from oddlens.io.per_process import PerProcess
from oddlens.io.text import first_line

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


class OnnxBackend:
    """Runs an exported scoring graph on the CPU in float32; `source` names it in errors.

    Raises:
        ArtifactError: ONNX Runtime cannot load it, or its inputs or outputs are not those of a detector.
    """

    def __init__(self, graph: bytes, spec: InputSpec, source: Path, threads: int | None = None) -> None:
        self._session = PerProcess(partial(create_session, graph, threads or 0))
        self._single_threaded = PerProcess(partial(create_session, graph, 1))  # created for the first full batch
        try:
            session = self._session.get()
        except Exception as error:  # onnxruntime raises many kinds, none of them public
            raise ArtifactError(
                f"{source}: ONNX Runtime cannot load it ({first_line(error)}); export the detector again"
            ) from error
        inputs = [tensor.name for tensor in session.get_inputs()]
        outputs = [tensor.name for tensor in session.get_outputs()]
        self.outputs = graph_outputs(inputs, outputs, source)
        self.source = source
        self.streams = count_streams(threads)
        self._spec = spec

    @property
    def name(self) -> str:
        """Runtime and precision."""
        return f"onnxruntime {VERSION} cpu fp32"

    @property
    def spec(self) -> InputSpec:
        """The form of the pixels that it scores."""
        return self._spec

    def __call__(self, pixels: Pixels) -> Predictions:
        """Score pixels (N, H, W, C) with all threads."""
        return self._run(self._session, pixels)

    def score_single_threaded(self, pixels: Pixels) -> Predictions:
        """Score pixels (N, H, W, C) in the calling thread."""
        return self._run(self._single_threaded, pixels)

    def _run(self, session: PerProcess[InferenceSession], pixels: Pixels) -> Predictions:
        try:
            values = session.get().run(self.outputs, {INPUT: pixels})
        except Exception as error:  # onnxruntime raises many kinds, none of them public
            raise ArtifactError(
                f"{self.source}: its graph does not run ({first_line(error)}); export the detector again"
            ) from error
        return to_predictions(dict(zip(self.outputs, values, strict=True)))
