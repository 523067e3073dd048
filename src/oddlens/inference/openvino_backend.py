"""Scoring with OpenVINO: an exported graph on the CPU, in float32 or bfloat16."""

from __future__ import annotations

import io
import threading
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import openvino as ov
from openvino.frontend import FrontEndManager

from oddlens.config.base import InputSpec
from oddlens.data.image_io import Pixels
from oddlens.errors import ArtifactError, SettingsError
from oddlens.inference.backend import (
    INPUT,
    OUTPUTS,
    Predictions,
    count_streams,
    graph_outputs,
    to_predictions,
)
from oddlens.io.per_process import PerProcess
from oddlens.io.text import first_line

PRECISIONS = {"fp32": "f32", "bf16": "bf16"}  # by OpenVINO's names; by default it uses bf16 where it can


class Compiled:
    """A graph that OpenVINO has compiled; each thread has a request, which holds one batch."""

    def __init__(self, graph: bytes, hints: dict[str, str]) -> None:
        reader = FrontEndManager().load_by_framework("onnx")  # Core.read_model reads other formats too, unchecked
        self.model = ov.Core().compile_model(reader.convert(reader.load(io.BytesIO(graph))), "CPU", hints)
        self._local = threading.local()

    @property
    def request(self) -> ov.InferRequest:
        """The request of the calling thread."""
        if not hasattr(self._local, "request"):
            self._local.request = self.model.create_infer_request()
        return self._local.request


class OpenvinoBackend:
    """Runs an exported scoring graph on the CPU in a given precision; `source` names it in errors.

    Raises:
        ArtifactError: OpenVINO cannot load it, or its inputs or outputs are not those of a detector.
        SettingsError: this processor does not compute in that precision.
    """

    def __init__(
        self,
        graph: bytes,
        spec: InputSpec,
        precision: Literal["fp32", "bf16"],
        source: Path,
        threads: int | None = None,
    ) -> None:
        hints = {"INFERENCE_PRECISION_HINT": PRECISIONS[precision], "INFERENCE_NUM_THREADS": str(threads or 0)}
        self.streams = count_streams(threads)
        self._compiled = PerProcess(partial(Compiled, graph, hints | {"PERFORMANCE_HINT": "LATENCY"}))
        one_each = {"NUM_STREAMS": str(self.streams)}
        self._single_threaded = PerProcess(partial(Compiled, graph, hints | one_each))  # for the first full batch
        try:
            model = self._compiled.get().model
        except Exception as error:  # openvino raises RuntimeError for everything
            raise ArtifactError(
                f"{source}: OpenVINO cannot load it ({first_line(error)}); export the detector again"
            ) from error
        actual = model.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        if actual != PRECISIONS[precision]:
            raise SettingsError(
                f"{source}: on this processor OpenVINO computes in {actual} and not in {precision}; export the "
                "detector again, and calibrate it with --precision fp32 if at all"
            )
        inputs, outputs = ([port_name(port) for port in ports] for ports in (model.inputs, model.outputs))
        self.outputs = graph_outputs(inputs, outputs, source)
        self.precision = precision
        self.source = source
        self._spec = spec

    @property
    def name(self) -> str:
        """Runtime and precision."""
        return f"openvino {ov.__version__.partition('-')[0]} cpu {self.precision}"

    @property
    def spec(self) -> InputSpec:
        """The form of the pixels that it scores."""
        return self._spec

    def __call__(self, pixels: Pixels) -> Predictions:
        """Score pixels (N, H, W, C) with all threads."""
        return self._run(self._compiled, pixels)

    def score_single_threaded(self, pixels: Pixels) -> Predictions:
        """Score pixels (N, H, W, C) in a stream of one thread."""
        return self._run(self._single_threaded, pixels)

    def _run(self, compiled: PerProcess[Compiled], pixels: Pixels) -> Predictions:
        try:
            values = compiled.get().request.infer({INPUT: np.ascontiguousarray(pixels)}, share_outputs=False)
        except Exception as error:  # openvino raises RuntimeError for everything
            raise ArtifactError(
                f"{self.source}: its graph does not run ({first_line(error)}); export the detector again"
            ) from error
        return to_predictions({name: values[name] for name in self.outputs})


def port_name(port: Any) -> str:
    """Name of an input or output; OpenVINO adds the names of operations that change nothing."""
    return next((name for name in (INPUT, *OUTPUTS) if name in port.names), str(port.any_name))
