"""The graph of the user's own backbone: only what can be run alone, and one image at a time."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from own_backbones import ConvNet, write_onnx

from oddlens.errors import ArtifactError, DataNotFoundError
from oddlens.models.backbones import onnx_graph
from oddlens.models.backbones.onnx_graph import OnnxGraph, read_backbone

SIDE = 16


def small_model(shape: tuple[int | str, ...] = ("N", 3, SIDE, SIDE), kind: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """A graph that gives its input."""
    image = helper.make_tensor_value_info("x", kind, shape)
    result = helper.make_tensor_value_info("y", kind, shape)
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [image], [result])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def load(model: onnx.ModelProto) -> OnnxGraph:
    return OnnxGraph(model.SerializeToString(), "own.onnx")


def test_features_do_not_depend_on_the_batch_or_the_number_of_threads(tmp_path: Path) -> None:
    graph = read_backbone(write_onnx(tmp_path / "own.onnx", ConvNet())).graph
    images = torch.rand(5, 3, 40, 24).numpy()
    together = graph.run(images, graph.outputs, threads=2)
    for i in range(5):
        for values, alone in zip(together, graph.run(images[i : i + 1], graph.outputs, threads=1), strict=True):
            np.testing.assert_array_equal(values[i], alone[0])


def test_a_copy_is_the_graph_itself() -> None:
    graph = load(small_model())
    assert copy.deepcopy(graph) is graph


def test_the_size_that_a_graph_prescribes_is_read() -> None:
    assert load(small_model()).fixed == (SIDE, SIDE)
    assert load(small_model(("N", 3, "height", 20))).fixed == (None, 20)
    assert not load(small_model()).is_single
    assert load(small_model((1, 3, SIDE, SIDE))).is_single


@pytest.mark.parametrize(
    "model",
    [
        small_model(("N", 1, SIDE, SIDE)),
        small_model(("N", SIDE, SIDE, 3)),
        small_model((8, 3, SIDE, SIDE)),
        small_model(("N", 3, SIDE)),
        small_model(kind=TensorProto.FLOAT16),
        small_model(kind=TensorProto.UINT8),
    ],
)
def test_a_graph_that_takes_no_rgb_images_is_refused(model: onnx.ModelProto) -> None:
    with pytest.raises(ArtifactError, match=r"own\.onnx: must have one input of RGB images.* and has x tensor"):
        load(model)


@pytest.mark.parametrize("sides", [(1_000_000, 16), (16, 2**40), (0, 16)])
def test_a_prescribed_size_that_no_detector_has_is_refused(sides: tuple[int, int]) -> None:
    with pytest.raises(ArtifactError, match=r"own\.onnx: takes images of .* pixels alone, and sides may have 1 to"):
        load(small_model(("N", 3, *sides)))


def test_a_graph_larger_than_any_is_refused_wherever_it_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_graph, "MAX_GRAPH", 10)
    with pytest.raises(ArtifactError, match=r"own\.onnx: has .* bytes, more than the 10"):
        load(small_model())


def test_a_graph_without_float32_outputs_is_refused() -> None:
    model = small_model()
    model.graph.node.append(helper.make_node("Shape", ["x"], ["shape"]))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("shape", TensorProto.INT64, [4]))
    with pytest.raises(ArtifactError, match=r"has no float32 tensors among its outputs 'shape' tensor\(int64\)"):
        load(model)


def with_external_weights(model: onnx.ModelProto) -> None:
    tensor = TensorProto(name="c", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="weights.bin")
    model.graph.initializer.append(tensor)


def with_custom_operator(model: onnx.ModelProto) -> None:
    model.graph.node[0].domain = "com.example"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_external_weights, "stores tensors in other files; export the network again as a single"),
        (with_custom_operator, r"operators of the domain 'com\.example'.*; export the network again"),
    ],
)
def test_a_graph_that_needs_more_than_itself_is_refused(
    change: Callable[[onnx.ModelProto], None], message: str
) -> None:
    model = small_model()
    change(model)
    with pytest.raises(ArtifactError, match=message):
        load(model)


def test_what_onnx_runtime_cannot_load_is_refused() -> None:
    model = small_model()
    model.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(ArtifactError, match=r"own\.onnx: ONNX Runtime cannot load it"):
        load(model)


def test_a_file_that_is_no_graph_is_refused_and_so_are_missing_and_large_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "own.onnx"
    with pytest.raises(DataNotFoundError, match=r"own\.onnx: no such file"):
        read_backbone(path)
    path.write_bytes(b"not a graph")
    with pytest.raises(ArtifactError, match=r"own\.onnx: is not an ONNX file or is truncated"):
        read_backbone(path)
    monkeypatch.setattr(onnx_graph, "MAX_GRAPH", 10)
    with pytest.raises(ArtifactError, match="has 11 bytes, more than the 10"):
        read_backbone(path)


def test_values_that_are_not_finite_are_refused() -> None:
    graph = load(small_model())
    with pytest.raises(ArtifactError, match="its output 'y' has values that are not finite"):
        graph.run(np.full((1, 3, SIDE, SIDE), np.nan, np.float32), ["y"], threads=1)


def test_images_of_a_size_that_the_graph_does_not_take_are_refused() -> None:
    with pytest.raises(ArtifactError, match=r"does not run on images of 8 x 8 pixels .*--size"):
        load(small_model()).run(np.zeros((1, 3, 8, 8), np.float32), ["y"], threads=1)
