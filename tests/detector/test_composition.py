"""The user's own backbone in the exported graph: with names of its own, its weights once, for any batch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from disc_images import part_images
from onnx import ModelProto, TensorProto, helper
from own_backbones import ConvNet, TokenNet, write_onnx

from oddlens.config.detectors import CrossfitSettings, PadimSettings
from oddlens.detector.composition import insert_backbone
from oddlens.detector.detector import Detector
from oddlens.detector.export import TOLERANCE, export

OPSETS = [helper.make_opsetid("", 18), helper.make_opsetid("oddlens", 1)]


def network(batch: str | int) -> ModelProto:
    """Adds a weight to an image of (3, 2, 2), in a branch, with the name of the weight as a name outside, too."""
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 2, 2])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 3, 2, 2])
    inner = helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)
    branch = helper.make_graph([helper.make_node("Add", ["x", "w"], ["inner"])], "branch", [], [inner])
    nodes = [helper.make_node("If", ["yes"], ["y"], name="branch", then_branch=branch, else_branch=branch)]
    weights = [
        helper.make_tensor("w", TensorProto.FLOAT, [1], [2.0]),
        helper.make_tensor("yes", TensorProto.BOOL, [], [True]),
    ]
    graph = helper.make_graph(nodes, "g", [image], [result], weights)
    return helper.make_model(graph, opset_imports=OPSETS[:1], ir_version=10)


def outer(count: int) -> ModelProto:
    """Gives the sum of `count` placeholders of twice the image, and has a value of the same name as the network's."""
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 2, 2])
    result = helper.make_tensor_value_info("sum", TensorProto.FLOAT, ["N", 3, 2, 2])
    own = [helper.make_node("Backbone", ["y"], [f"own{i}"], domain="oddlens", names=["y"]) for i in range(count)]
    nodes = [
        helper.make_node("Add", ["x", "x"], ["y"]),
        *own,
        helper.make_node("Sum", [f"own{i}" for i in range(count)], ["sum"]),
    ]
    return helper.make_model(helper.make_graph(nodes, "g", [image], [result]), opset_imports=OPSETS, ir_version=10)


@pytest.mark.parametrize("batch", ["N", 1])
@pytest.mark.parametrize("count", [1, 3])
def test_each_placeholder_is_the_network_whose_weights_are_there_once(batch: str | int, count: int) -> None:
    model = outer(count)
    insert_backbone(model, network(batch))
    onnx.checker.check_model(model, full_check=True)
    assert len(model.graph.initializer) == 2
    assert [entry.domain for entry in model.opset_import] == [""]
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for size in (1, 4):
        pixels = np.random.default_rng(0).normal(size=(size, 3, 2, 2)).astype(np.float32)
        (result,) = session.run(None, {"x": pixels})
        np.testing.assert_allclose(result, count * (2 * pixels + 2), rtol=1e-6)


def test_sparse_weights_of_the_network_are_in_the_exported_graph() -> None:
    model, own = outer(3), network("N")
    own.graph.initializer.remove(own.graph.initializer[0])
    values, places = (
        helper.make_tensor("w", TensorProto.FLOAT, [1], [2.0]),
        helper.make_tensor("places", TensorProto.INT64, [1], [1]),
    )
    own.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [2]))
    insert_backbone(model, own)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    pixels = np.ones((2, 3, 2, 2), np.float32)
    (result,) = session.run(None, {"x": pixels})
    np.testing.assert_array_equal(result, np.broadcast_to([6.0, 12.0], pixels.shape))  # the weight is (0, 2)


@pytest.mark.parametrize("version", [12, 18, 21])
def test_networks_of_other_versions_are_exported(version: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = write_onnx(tmp_path / "own.onnx", ConvNet(), opset=max(18, version), dynamo=version >= 18)
    if version < 18:
        model = onnx.load(path)
        model.opset_import[0].version = version  # convolutions have not changed since
        onnx.save(model, path)
    detector = Detector(PadimSettings(backbone=str(path), side=16)).fit(part_images(40, 0))
    assert export(detector, tmp_path / "part.onnx") < TOLERANCE


def test_single_images_and_folds_are_exported_with_the_weights_once(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = write_onnx(tmp_path / "vit.onnx", TokenNet(8, channels=40), (1, 3, 64, 64), None)
    settings = CrossfitSettings(model=PadimSettings(backbone=str(path), map_depths=(0,)), folds=2)
    detector = Detector(settings).fit(part_images(60, 0))
    assert export(detector, tmp_path / "part.onnx") < TOLERANCE
    names = [tensor.name for tensor in onnx.load(tmp_path / "part.onnx").graph.initializer]
    assert sum(name.startswith("backbone.") and name.endswith("embed.weight") for name in names) == 1
    exported, new = Detector.load(tmp_path / "part.onnx"), part_images(5, 1)
    np.testing.assert_allclose(exported.score(new), detector.score(new), rtol=1e-4)


def test_the_core_install_scores_the_exported_file(tmp_path: Path) -> None:
    """The packages of the extras cannot be imported here."""
    torch.manual_seed(0)
    path = write_onnx(tmp_path / "own.onnx", ConvNet())
    detector = Detector(PadimSettings(backbone=str(path), side=16)).fit(part_images(40, 0))
    export(detector, tmp_path / "part.onnx")
    np.save(tmp_path / "new.npy", part_images(5, 1))
    program = (
        "import sys\n"
        "for name in ('torch', 'sklearn', 'onnx', 'onnxscript', 'timm', 'openvino'): sys.modules[name] = None\n"
        "import numpy as np\n"
        "from oddlens import Detector\n"
        "print(*Detector.load(sys.argv[1]).score(np.load(sys.argv[2])))\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "part.onnx"), str(tmp_path / "new.npy")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    scores = [float(text) for text in done.stdout.split()]
    np.testing.assert_allclose(scores, detector.score(part_images(5, 1)), rtol=1e-4)
