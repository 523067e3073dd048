"""Detector files with the user's own backbone: its graph is the one that was fitted with, under the same rules."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from detector_files import write_changed
from disc_images import part_images
from onnx import TensorProto
from own_backbones import ConvNet, write_onnx

from oddlens.artifact import detector_file
from oddlens.artifact.detector_file import GRAPH
from oddlens.config.detectors import PadimSettings
from oddlens.detector.detector import Detector
from oddlens.errors import ArtifactError, OddlensError

Values = dict[str, Any]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector with a backbone of the user's own."""
    folder = tmp_path_factory.mktemp("own")
    torch.manual_seed(0)
    settings = PadimSettings(backbone=str(write_onnx(folder / "own.onnx", ConvNet())), side=16)
    return Detector(settings).fit(part_images(40, 0)).save(folder / "part.safetensors")


def without_graph(values: Values, tensors: detector_file.Tensors) -> None:
    del tensors[GRAPH]


def as_floats(values: Values, tensors: detector_file.Tensors) -> None:
    tensors[GRAPH] = tensors[GRAPH].astype(np.float32)


def as_rows(values: Values, tensors: detector_file.Tensors) -> None:
    tensors[GRAPH] = tensors[GRAPH][None]


def other_graph(values: Values, tensors: detector_file.Tensors) -> None:
    tensors[GRAPH] = tensors[GRAPH].copy()
    tensors[GRAPH][-1] ^= 1


def replace_graph(values: Values, tensors: detector_file.Tensors, change: Callable[[onnx.ModelProto], None]) -> None:
    model = onnx.load_from_string(tensors[GRAPH].tobytes())
    change(model)
    content = model.SerializeToString()
    tensors[GRAPH] = np.frombuffer(content, np.uint8)
    values["model"]["backbone"]["sha256"] = hashlib.sha256(content).hexdigest()


def with_external_weights(values: Values, tensors: detector_file.Tensors) -> None:
    def change(model: onnx.ModelProto) -> None:
        tensor = TensorProto(name="c", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value="../secret.bin")
        model.graph.initializer.append(tensor)

    replace_graph(values, tensors, change)


def with_custom_operator(values: Values, tensors: detector_file.Tensors) -> None:
    replace_graph(values, tensors, lambda model: setattr(model.graph.node[0], "domain", "com.example"))


def with_other_outputs(values: Values, tensors: detector_file.Tensors) -> None:
    replace_graph(values, tensors, lambda model: setattr(model.graph.output[0], "name", model.graph.output[1].name))


def with_other_places(values: Values, tensors: detector_file.Tensors) -> None:
    values["model"]["backbone"]["height"] = 80


def with_a_depth_too_many(values: Values, tensors: detector_file.Tensors) -> None:
    values["model"]["depths"] = [9]


def with_a_name_alone(values: Values, tensors: detector_file.Tensors) -> None:
    values["model"]["backbone"] = "own.onnx"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_graph, "lacks 1 tensors of this family, 'backbone.graph' first"),
        (as_floats, "its tensor 'backbone.graph' .* is not one of this family's"),
        (as_rows, "its tensor 'backbone.graph' .* is not one of this family's"),
        (other_graph, r"its backbone is not own\.onnx \(digest differs\)"),
        (with_external_weights, r"own\.onnx: stores tensors in other files"),
        (with_custom_operator, r"own\.onnx: uses or imports operators of the domain 'com\.example'"),
        (with_other_outputs, r"own\.onnx: "),
        (with_other_places, r"its output 'map0' has the shape \(8, 40, 32\) for an image, and had \(8, 32, 32\)"),
        (with_a_depth_too_many, "depth 9 is set"),
        (with_a_name_alone, "is not one of this family's|must be read"),
    ],
)
def test_a_changed_file_is_refused(
    change: Callable[[Values, detector_file.Tensors], None], message: str, own: Path, tmp_path: Path
) -> None:
    changed = write_changed(own, tmp_path / "changed.safetensors", change, matching_digest=True)
    with pytest.raises(OddlensError, match=message):
        Detector.load(changed)


def test_a_graph_larger_than_any_is_refused_before_it_is_read(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detector_file, "MAX_GRAPH", 100)
    with pytest.raises(ArtifactError, match=r"its tensor 'backbone.graph' .* is not one of this family's"):
        Detector.load(own)


def test_a_graph_in_a_detector_without_a_backbone_of_its_own_is_refused(saved: Path, tmp_path: Path) -> None:
    def with_graph(values: Values, tensors: detector_file.Tensors) -> None:
        tensors[GRAPH] = np.zeros(3, np.uint8)

    changed = write_changed(saved, tmp_path / "changed.safetensors", with_graph, matching_digest=True)
    with pytest.raises(ArtifactError, match=r"its tensor 'backbone.graph' .* is not one of this family's"):
        Detector.load(changed)
