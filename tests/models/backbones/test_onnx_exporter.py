"""Graphs of modules without names of this machine, and networks of older versions of ONNX."""

from __future__ import annotations

import logging

import onnx
import pytest
import torch
from onnx import ModelProto, TensorProto, helper
from torch import nn

from oddlens.errors import ArtifactError
from oddlens.models.backbones.onnx_exporter import (
    MIN_OPSET,
    export_module,
    opset_version,
    read_network,
    silence_exporter,
)


def identity(version: int) -> ModelProto:
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3, 8, 8])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [image], [result])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)], ir_version=8)


@pytest.mark.parametrize("opset", [18, 21])
def test_a_module_is_exported_for_any_batch_without_paths_of_this_machine(opset: int) -> None:
    batch = {0: torch.export.Dim("batch")}
    model = export_module(nn.Conv2d(3, 4, 3).eval(), torch.zeros(2, 3, 8, 8), "x", ["y"], batch, opset)
    onnx.checker.check_model(model)
    assert opset_version(model) == opset
    assert __file__ not in str(model)
    assert not any(node.metadata_props for node in model.graph.node)
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param


def test_the_exporter_is_quiet_and_speaks_again_afterwards() -> None:
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    with silence_exporter():
        assert logger.level == logging.ERROR
    assert logger.level == before


@pytest.mark.parametrize(("version", "result"), [(12, MIN_OPSET), (MIN_OPSET, MIN_OPSET), (21, 21)])
def test_older_networks_are_converted_and_others_left_alone(version: int, result: int) -> None:
    network = read_network(identity(version).SerializeToString(), "own.onnx")
    assert opset_version(network) == result


def test_a_network_that_cannot_be_converted_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("No Adapter for Upsample")

    monkeypatch.setattr("onnx.version_converter.convert_version", fail)
    with pytest.raises(ArtifactError, match=r"own\.onnx: uses version 9 .*No Adapter.* again with opset_version=18"):
        read_network(identity(9).SerializeToString(), "own.onnx")
