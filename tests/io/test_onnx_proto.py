"""ONNX files read with a partial schema: metadata round trips, and content of other files or domains is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import helper

from oddlens.errors import ArtifactError
from oddlens.io.onnx_proto import check_graph, join_metadata, split_metadata

SOURCE = Path("part.onnx")


def small_model() -> onnx.ModelProto:
    """A graph that adds a constant to its input."""
    value = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    result = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    weight = helper.make_tensor("w", onnx.TensorProto.FLOAT, [1], [2.0])
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", [value], [result], [weight])
    return helper.make_model(graph)


def external_tensor() -> onnx.TensorProto:
    tensor = onnx.TensorProto(name="c", data_type=onnx.TensorProto.FLOAT, dims=[1])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret.bin")
    return tensor


def test_metadata_is_split_from_the_graph_and_merged_again() -> None:
    model = small_model()
    graph = model.SerializeToString()
    metadata = {"oddlens": "{}", "author": "someone"}
    helper.set_model_props(model, metadata)
    assert split_metadata(model.SerializeToString(), SOURCE) == (graph, metadata)
    content = join_metadata(graph, metadata)
    assert {entry.key: entry.value for entry in onnx.load_from_string(content).metadata_props} == metadata
    assert split_metadata(content, SOURCE) == (graph, metadata)


def test_fields_outside_the_schema_are_preserved() -> None:
    model = small_model()
    model.producer_name, model.doc_string = "someone", "some text"
    graph, _ = split_metadata(join_metadata(model.SerializeToString(), {"a": "b"}), SOURCE)
    assert onnx.load_from_string(graph) == model


@pytest.mark.parametrize("content", [b"not a graph", small_model().SerializeToString()[:-3]], ids=["text", "truncated"])
def test_content_that_is_not_an_onnx_file_is_refused(content: bytes) -> None:
    with pytest.raises(ArtifactError, match=r"part\.onnx: is not an ONNX file or is truncated"):
        split_metadata(content, SOURCE)


def external_initializer(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(external_tensor())


def external_constant(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=external_tensor()))


def external_branch(model: onnx.ModelProto) -> None:
    branch = helper.make_graph([], "branch", [], [], initializer=[external_tensor()])
    model.graph.node.append(helper.make_node("If", ["x"], ["z"], then_branch=branch))


def external_sparse(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.append(onnx.SparseTensorProto(values=external_tensor(), dims=[1]))


def external_function(model: onnx.ModelProto) -> None:
    model.functions.add(name="f").node.append(helper.make_node("Constant", [], ["c"], value=external_tensor()))


def external_training(model: onnx.ModelProto) -> None:
    model.training_info.add().algorithm.initializer.append(external_tensor())


@pytest.mark.parametrize(
    "change",
    [
        external_initializer, external_constant, external_branch, external_sparse, external_function,
        external_training,
    ],
)  # fmt: skip
def test_external_tensors_are_refused_anywhere_in_the_model(change: Callable[[onnx.ModelProto], None]) -> None:
    model = small_model()
    change(model)
    with pytest.raises(ArtifactError, match=r"part\.onnx: stores tensors in other files"):
        split_metadata(model.SerializeToString(), SOURCE)


def custom_node(model: onnx.ModelProto) -> None:
    model.graph.node[0].domain = "com.example"


def custom_opset(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("com.example", 1))


def custom_function(model: onnx.ModelProto) -> None:
    model.functions.add(name="f", domain="com.example")


@pytest.mark.parametrize("change", [custom_node, custom_opset, custom_function])
def test_custom_operator_domains_are_refused(change: Callable[[onnx.ModelProto], None]) -> None:
    model = small_model()
    change(model)
    with pytest.raises(ArtifactError, match=r"operators of the domain 'com\.example'"):
        split_metadata(model.SerializeToString(), SOURCE)
    with pytest.raises(ArtifactError, match=r"operators of the domain 'com\.example'"):
        check_graph(model.SerializeToString(), "graph", "")


def test_a_field_that_is_repeated_in_the_file_is_checked_each_time() -> None:
    """A second graph would replace the first in a normal parser; both are read here."""
    hidden = small_model()
    hidden.graph.initializer.append(external_tensor())
    content = hidden.SerializeToString() + small_model().SerializeToString()
    with pytest.raises(ArtifactError, match="stores tensors in other files"):
        split_metadata(content, SOURCE)
