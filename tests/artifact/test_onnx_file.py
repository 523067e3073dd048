"""Exported files: manifest and calibration in the metadata, and nothing trusted."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from detector_files import negate_onnx_weight
from onnx import helper
from safetensors.numpy import save as save_tensors

from oddlens.artifact import detector_file, onnx_file
from oddlens.config.base import DecisionSettings, RuntimeSettings, TrainingSettings
from oddlens.data.image_io import Pixels
from oddlens.detector.detector import Detector
from oddlens.errors import ArtifactError
from oddlens.inference import open
from oddlens.io import onnx_proto


def test_what_is_saved_is_read_again(exported: Path, digits_detector: Detector, tmp_path: Path) -> None:
    graph, manifest, tensors = onnx_file.read_onnx(exported)
    path = onnx_file.save_onnx(tmp_path / "again.onnx", graph, manifest, tensors, digits_detector.decision_json)
    assert path.read_bytes() == exported.read_bytes()
    assert tensors.keys() == detector_file.STATISTICS_DTYPES.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(tensor, digits_detector.tensors[name])


def test_a_file_from_before_groups_were_counted_is_read_and_others_must_be_complete(
    exported: Path, tmp_path: Path
) -> None:
    graph, manifest, tensors = onnx_file.read_onnx(exported)
    for missing, is_read in (
        ("calibration.clusters", True),
        ("calibration.brightness", True),
        ("calibration.groups", False),
    ):
        rest = {name: tensor for name, tensor in tensors.items() if name != missing}
        statistics = base64.b64encode(save_tensors(rest)).decode()
        text = detector_file.serialize_manifest(manifest, rest | onnx_file.as_tensors(graph, {}))
        path = tmp_path / "part.onnx"
        path.write_bytes(onnx_proto.join_metadata(graph, {"oddlens": text, "oddlens.statistics": statistics}))
        if is_read:
            assert len(Detector.load(path).tensors[missing]) == 0
        else:
            with pytest.raises(ArtifactError, match="incomplete"):
                Detector.load(path)


def write_with_metadata(path: Path, target: Path, key: str, value: str | None) -> Path:
    model = onnx.load(path)
    for entry in list(model.metadata_props):
        if entry.key == key:
            model.metadata_props.remove(entry)
    if value is not None:
        model.metadata_props.add(key=key, value=value)
    onnx.save(model, target)
    return target


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("oddlens", None, "no oddlens manifest"),
        ("oddlens", "{}", "schema version None"),
        ("oddlens", "[" * 100_000, "manifest is damaged"),
        ("oddlens.statistics", None, "calibration cannot be read"),
        ("oddlens.statistics", "AAAA", "calibration cannot be read"),
        ("oddlens.decision", None, "digest differs"),
        ("oddlens.decision", '{"threshold": 1e9}', "digest differs"),
    ],
)
def test_damaged_metadata_is_refused(exported: Path, tmp_path: Path, key: str, value: str | None, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        Detector.load(write_with_metadata(exported, tmp_path / "part.onnx", key, value))


def test_a_changed_graph_is_refused_by_its_digest(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "part.onnx").write_bytes(negate_onnx_weight(exported.read_bytes()))
    with pytest.raises(ArtifactError, match="digest differs"):
        Detector.load(tmp_path / "part.onnx")


def test_a_flipped_bit_anywhere_is_refused(exported: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    content = exported.read_bytes()
    for place in rng.integers(0, len(content), 60):
        damaged = bytearray(content)
        damaged[place] ^= 0x10
        (tmp_path / "flipped.onnx").write_bytes(damaged)
        with pytest.raises(ArtifactError, match="flipped"):
            Detector.load(tmp_path / "flipped.onnx")


def test_a_file_that_is_cut_at_any_of_100_positions_is_refused(exported: Path, tmp_path: Path) -> None:
    content = exported.read_bytes()
    for place in np.linspace(0, len(content) - 1, 100).astype(int):
        (tmp_path / "cut.onnx").write_bytes(content[:place])
        with pytest.raises(ArtifactError, match=r"cut\.onnx: "):
            Detector.load(tmp_path / "cut.onnx")


def test_an_older_file_without_a_runtime_is_still_read(exported: Path, tmp_path: Path) -> None:
    """The digest covers the text of the file, so that a setting that was added later does not change it."""
    graph, manifest, tensors = onnx_file.read_onnx(exported)
    text = manifest.model_copy(update={"digest": ""}).model_dump_json()
    older = text.replace('"runtime":{"engine":"onnxruntime","precision":"fp32"},', "")
    assert older != text
    digest = detector_file.content_digest(older, tensors | onnx_file.as_tensors(graph, {}))
    older = older.replace('"digest":""', f'"digest":"{digest}"')
    _, metadata = onnx_proto.split_metadata(exported.read_bytes(), exported)
    del metadata[onnx_file.DECISION]
    (tmp_path / "part.onnx").write_bytes(onnx_proto.join_metadata(graph, metadata | {"oddlens": older}))
    assert onnx_file.read_onnx(tmp_path / "part.onnx")[1].runtime == RuntimeSettings()


def decision_in(path: Path) -> dict[str, Any]:
    """What the metadata of an exported file says to programs that have no oddlens."""
    _, metadata = onnx_proto.split_metadata(path.read_bytes(), path)
    decision: dict[str, Any] = json.loads(metadata[onnx_file.DECISION])
    return decision


def test_a_file_without_a_calibration_has_no_decision_in_its_metadata(digit_pixels: Pixels, tmp_path: Path) -> None:
    training = TrainingSettings(epochs=1)
    detector = Detector("autoencoder", training=training).fit(digit_pixels[:40], hold_out=False)
    detector.export(tmp_path / "part.onnx")
    _, metadata = onnx_proto.split_metadata((tmp_path / "part.onnx").read_bytes(), tmp_path)
    assert metadata.keys() == {"oddlens", "oddlens.statistics"}
    loaded = Detector.load(tmp_path / "part.onnx")
    assert decision_in(loaded.calibrate(digit_pixels[40:80]).save(tmp_path / "part.onnx"))["threshold"] > 0


def test_the_threshold_moves_and_the_graph_stays_byte_for_byte(exported: Path, tmp_path: Path) -> None:
    moved = Detector.load(exported).set_decision(DecisionSettings(false_alarm_rate=0.1)).save(tmp_path / "part.onnx")
    assert onnx_file.read_onnx(moved)[0] == onnx_file.read_onnx(exported)[0]
    detector = Detector.load(moved)
    assert detector.decision_.false_alarm_rate == 0.1
    assert decision_in(moved)["threshold"] == detector.decision_.threshold < decision_in(exported)["threshold"]


def test_an_exported_graph_keeps_every_byte_that_is_not_its_metadata(exported: Path, tmp_path: Path) -> None:
    part = Detector.load(exported).set_decision(DecisionSettings(false_alarm_rate=0.1))
    before, after = (onnx.load(path) for path in (exported, part.save(tmp_path / "moved.onnx")))
    assert [entry.key for entry in before.metadata_props] == [entry.key for entry in after.metadata_props]
    del before.metadata_props[:], after.metadata_props[:]
    assert before.SerializeToString(deterministic=True) == after.SerializeToString(deterministic=True)


def external_tensor(name: str) -> onnx.TensorProto:
    """A tensor whose values are said to lie in another file."""
    tensor = onnx.TensorProto(name=name, data_type=onnx.TensorProto.FLOAT, dims=[1])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret.bin")
    return tensor


def external_weight(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(external_tensor("weight"))


def location_of_an_internal_weight(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].external_data.add(key="location", value="../secret.bin")


def external_weight_without_location(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL


def external_constant(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=external_tensor("c")))


def external_tensor_in_a_branch(model: onnx.ModelProto) -> None:
    branch = helper.make_graph([], "branch", [], [], initializer=[external_tensor("c")])
    model.graph.node.append(helper.make_node("If", ["x"], ["y"], then_branch=branch))


def external_sparse_tensor(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.append(onnx.SparseTensorProto(values=external_tensor("c"), dims=[1]))


def external_tensor_in_a_function(model: onnx.ModelProto) -> None:
    model.functions.add(name="f").node.append(helper.make_node("Constant", [], ["c"], value=external_tensor("c")))


def external_tensor_for_training(model: onnx.ModelProto) -> None:
    model.training_info.add().algorithm.initializer.append(external_tensor("c"))


def load_without_runtime(
    exported: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[onnx.ModelProto], None]
) -> None:
    """Load the changed file where no runtime can be opened."""
    monkeypatch.setattr(open, "open_graph", None)
    model = onnx.load(exported)
    change(model)
    (folder / "part.onnx").write_bytes(model.SerializeToString())
    Detector.load(folder / "part.onnx")


@pytest.mark.parametrize(
    "change",
    [
        external_weight, location_of_an_internal_weight, external_weight_without_location, external_constant,
        external_tensor_in_a_branch, external_sparse_tensor, external_tensor_in_a_function,
        external_tensor_for_training,
    ],
)  # fmt: skip
def test_external_data_is_refused_before_a_runtime_loads_the_graph(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[onnx.ModelProto], None]
) -> None:
    with pytest.raises(ArtifactError, match="stores tensors in other files"):
        load_without_runtime(exported, tmp_path, monkeypatch, change)


def foreign_node(model: onnx.ModelProto) -> None:
    model.graph.node[0].domain = "com.example"


def foreign_opset(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("com.example", 1))


def foreign_function(model: onnx.ModelProto) -> None:
    model.functions.add(name="f", domain="com.example")


def foreign_branch(model: onnx.ModelProto) -> None:
    branch = helper.make_graph([helper.make_node("Run", [], ["y"], domain="com.example")], "branch", [], [])
    model.graph.node.append(helper.make_node("If", ["x"], ["y"], then_branch=branch))


@pytest.mark.parametrize("change", [foreign_node, foreign_opset, foreign_function, foreign_branch])
def test_a_foreign_operator_domain_is_refused(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[onnx.ModelProto], None]
) -> None:
    with pytest.raises(ArtifactError, match=r"operators of the domain 'com\.example'"):
        load_without_runtime(exported, tmp_path, monkeypatch, change)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "no oddlens manifest"), (b"not a graph", "not an ONNX file"), (b"\x08\x07" * 50, "no oddlens manifest")],
    ids=["empty", "text", "another message"],
)
def test_a_file_that_is_not_a_graph_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "part.onnx"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=message):
        Detector.load(path)
