"""Scoring with ONNX Runtime: the deployed way, without torch."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnxruntime as ort

from oddlens.backends import Outputs
from oddlens.config import InputSpec
from oddlens.errors import ArtifactError
from oddlens.images import Pixels

INPUT = "pixels"
OUTPUTS = ("anomaly_score", "anomaly_map", "reconstruction")


def open_graph(graph: bytes, source: Path) -> tuple[ort.InferenceSession, dict[str, str]]:
    """A session over an exported graph, and the metadata that it carries; `source` names it in errors.

    Raises:
        ArtifactError: ONNX Runtime cannot load it.
    """
    options = ort.SessionOptions()
    threads = os.environ.get("OMP_NUM_THREADS", "")  # what --threads sets; may be a list, meant for OpenMP alone
    options.intra_op_num_threads = int(threads) if threads.isdecimal() else 0
    options.log_severity_level = 3
    try:
        session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises many kinds, none of them public
        reason = str(error).splitlines()[0][:200]
        raise ArtifactError(f"{source}: ONNX Runtime cannot load it ({reason}); export the detector again") from error
    return session, dict(session.get_modelmeta().custom_metadata_map)


def with_metadata(graph: bytes, metadata: dict[str, str], source: Path) -> bytes:
    """The same exported graph with other metadata, every other byte of its content kept.

    Only the fields of ONNX's `ModelProto` that are changed are described here (14: metadata_props); protobuf hands
    on all others as they are. The `onnx` package is not needed.

    Raises:
        ArtifactError: the graph is damaged; `source` names it.
    """
    from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

    text, many = descriptor_pb2.FieldDescriptorProto.TYPE_STRING, descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED
    one, nested = descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL, descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE
    file = descriptor_pb2.FileDescriptorProto(name="oddlens/model.proto", package="oddlens", syntax="proto3")
    entry, model = file.message_type.add(name="Entry"), file.message_type.add(name="Model")
    entry.field.add(name="key", number=1, type=text, label=one)
    entry.field.add(name="value", number=2, type=text, label=one)
    model.field.add(name="metadata", number=14, type=nested, type_name=".oddlens.Entry", label=many)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    content = message_factory.GetMessageClass(pool.FindMessageTypeByName("oddlens.Model"))()
    try:
        content.ParseFromString(graph)
    except message.DecodeError as error:
        raise ArtifactError(f"{source}: is not an ONNX file or is cut short; export the detector again") from error
    del content.metadata[:]
    for key, value in metadata.items():
        content.metadata.add(key=key, value=value)
    changed: bytes = content.SerializeToString()
    return changed


class OnnxBackend:
    """Runs an exported scoring graph on the CPU, in float32.

    Raises:
        ArtifactError: the graph's inputs or outputs are not a detector's.
    """

    def __init__(self, session: ort.InferenceSession, spec: InputSpec, source: Path) -> None:
        found = {tensor.name for tensor in session.get_outputs()}
        takes = [tensor.name for tensor in session.get_inputs()]
        if takes != [INPUT] or "anomaly_score" not in found or not found <= set(OUTPUTS):
            raise ArtifactError(f"{source}: is not a detector's graph (it takes {takes}, gives {sorted(found)})")
        self.session = session
        self.source = source
        self._spec = spec
        self.outputs = [name for name in OUTPUTS if name in found]

    @property
    def name(self) -> str:
        """Runtime and precision."""
        return f"onnxruntime {ort.__version__} cpu fp32"

    @property
    def spec(self) -> InputSpec:
        """The pixels that it takes."""
        return self._spec

    def __call__(self, pixels: Pixels) -> Outputs:
        """Score pixels (N, H, W, C)."""
        try:
            values = dict(zip(self.outputs, self.session.run(self.outputs, {INPUT: pixels}), strict=True))
        except Exception as error:  # onnxruntime raises many kinds, none of them public
            reason = str(error).splitlines()[0][:200]
            raise ArtifactError(
                f"{self.source}: its graph does not run ({reason}); export the detector again"
            ) from error
        reconstruction = values.get("reconstruction")
        return Outputs(
            values["anomaly_score"].astype(np.float64),
            values.get("anomaly_map"),
            None if reconstruction is None else reconstruction.transpose(0, 2, 3, 1),
        )
