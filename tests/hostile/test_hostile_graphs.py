"""Graphs that pass as ONNX and that a runtime would read as its own format, in which nothing was checked."""

from __future__ import annotations

import struct
from pathlib import Path

import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from oddlens.artifact import onnx_file
from oddlens.detector.detector import Detector
from oddlens.errors import ArtifactError
from oddlens.io.onnx_proto import check_graph
from oddlens.io.onnx_session import create_session
from oddlens.models.backbones.onnx_graph import read_backbone

FIELD = b"\x12"  # a field of bytes, whose length follows


@pytest.fixture(scope="module")
def disguised(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A graph in the format of ONNX Runtime that is also a message of protobuf."""
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, "h", "w"])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3, "h", "w"])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [image], [result])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    path, options = tmp_path_factory.mktemp("ort") / "graph.ort", ort.SessionOptions()
    options.optimized_model_filepath = str(path)
    options.add_session_config_entry("session.save_model_format", "ORT")
    options.log_severity_level = 3
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return disguise(path.read_bytes())


def disguise(content: bytes) -> bytes:
    """The content behind zeros, so that its first number, where its table begins, is two fields of a message."""
    (table,) = struct.unpack("<I", content[:4])
    start = next(
        start
        for start in (bytes([0x08, value]) + FIELD + b"\x04" for value in range(128))
        if (int.from_bytes(start, "little") - table) % 16 == 0
    )
    result = bytearray(int.from_bytes(start, "little") - table + len(content))
    result[:8] = start + b"ORTM"
    length = len(result) - 14
    result[8:14] = FIELD + bytes((length >> 7 * i) & 0x7F | (0x80 if i < 4 else 0) for i in range(5))
    result[len(result) - len(content) + 8 :] = content[8:]
    return bytes(result)


def test_no_session_is_created_from_another_format(disguised: bytes) -> None:
    check_graph(disguised, "graph", "")
    assert ort.InferenceSession(disguised, providers=["CPUExecutionProvider"]).get_inputs()
    with pytest.raises(Exception, match="No graph was found in the protobuf"):
        create_session(disguised, 1)


def test_a_backbone_in_another_format_is_refused(disguised: bytes, tmp_path: Path) -> None:
    path = tmp_path / "own.onnx"
    path.write_bytes(disguised)
    with pytest.raises(ArtifactError, match=r"own\.onnx: ONNX Runtime cannot load it"):
        read_backbone(path)


def test_an_exported_detector_in_another_format_is_refused(disguised: bytes, exported: Path, tmp_path: Path) -> None:
    _, manifest, tensors = onnx_file.read_onnx(exported)
    path = onnx_file.save_onnx(tmp_path / "part.onnx", disguised, manifest, tensors)
    with pytest.raises(ArtifactError, match=r"part\.onnx: ONNX Runtime cannot load it"):
        Detector.load(path)
