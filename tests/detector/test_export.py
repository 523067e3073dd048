"""Export: one file that scores the same, or none."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

from oddlens.artifact import detector_file, onnx_file
from oddlens.config.base import DecisionSettings, RuntimeSettings, TrainingSettings
from oddlens.data.image_io import Pixels
from oddlens.data.image_set import DataSet
from oddlens.detector import export as exporting
from oddlens.detector.detector import Detector
from oddlens.errors import ArtifactError, SettingsError
from oddlens.inference import open
from oddlens.io import onnx_proto


@pytest.fixture(scope="module")
def exported(fitted: Detector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "part.onnx"
    assert exporting.export(fitted, path) <= 1e-4
    return path


def test_the_file_takes_pixels_and_carries_its_manifest(exported: Path, fitted: Detector) -> None:
    model = onnx.load(exported)
    (pixels,) = model.graph.input
    assert pixels.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [d.dim_value or d.dim_param for d in pixels.type.tensor_type.shape.dim] == ["batch", 8, 8, 1]
    assert [output.name for output in model.graph.output] == ["anomaly_score", "anomaly_map", "reconstruction"]
    loaded = Detector.load(exported)
    runtime = RuntimeSettings(engine="onnxruntime")
    assert loaded.manifest == fitted.manifest.model_copy(update={"digest": loaded.manifest.digest, "runtime": runtime})
    np.testing.assert_array_equal(loaded.decision_.calibration_scores, fitted.decision_.calibration_scores)


def test_the_graph_is_made_of_onnx_own_operators_and_says_nothing_of_the_machine(exported: Path) -> None:
    model = onnx.load(exported)
    assert [opset.domain for opset in model.opset_import] == [""]
    assert {node.domain for node in model.graph.node} == {""}
    assert len(model.functions) == len(model.training_info) == 0
    assert str(Path(exporting.__file__).parent).encode() not in exported.read_bytes()


def test_a_graph_that_scores_differently_is_not_written(
    fitted: Detector, digit_pixels: Pixels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Detector(fitted.model, training=TrainingSettings(epochs=1, seed=1)).fit(digit_pixels)
    graph = exporting.trace(other)
    monkeypatch.setattr(exporting, "trace", lambda _: graph)
    with pytest.raises(ArtifactError, match="not written, since exported scores differ"):
        exporting.export(fitted, tmp_path / "part.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_gpu_is_refused_for_an_exported_file(exported: Path) -> None:
    with pytest.raises(SettingsError, match="run on the CPU"):
        Detector.load(exported, device="cuda")


def test_another_suffix_is_refused(fitted: Detector, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"end in \.onnx"):
        exporting.export(fitted, tmp_path / "part.pt")


def changed(path: Path, target: Path, key: str, value: str | None) -> Path:
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
    ],
)
def test_damaged_metadata_is_refused(exported: Path, tmp_path: Path, key: str, value: str | None, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        Detector.load(changed(exported, tmp_path / "part.onnx", key, value))


def negate_a_weight(model: onnx.ModelProto) -> None:
    weight = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 4)
    weight.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(weight), weight.name))


def test_a_changed_graph_is_refused_by_its_digest(exported: Path, tmp_path: Path) -> None:
    model = onnx.load(exported)
    negate_a_weight(model)
    onnx.save(model, tmp_path / "part.onnx")
    with pytest.raises(ArtifactError, match="digest differs"):
        Detector.load(tmp_path / "part.onnx")


def test_a_changed_graph_that_was_sealed_again_fails_its_golden_test(exported: Path, tmp_path: Path) -> None:
    graph, manifest, tensors = onnx_file.read_onnx(exported)
    model = onnx.load_from_string(graph)
    negate_a_weight(model)
    onnx_file.save_onnx(tmp_path / "part.onnx", model.SerializeToString(), manifest, tensors)
    with pytest.raises(ArtifactError, match="built-in test pictures"):
        Detector.load(tmp_path / "part.onnx")


def test_a_flipped_bit_anywhere_is_refused(exported: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    content = exported.read_bytes()
    for place in rng.integers(0, len(content), 60):
        damaged = bytearray(content)
        damaged[place] ^= 0x10
        (tmp_path / "flipped.onnx").write_bytes(damaged)
        with pytest.raises(ArtifactError, match="flipped"):
            Detector.load(tmp_path / "flipped.onnx")


def test_a_file_cut_at_any_of_100_places_is_refused(exported: Path, tmp_path: Path) -> None:
    content = exported.read_bytes()
    for place in np.linspace(0, len(content) - 1, 100).astype(int):
        (tmp_path / "cut.onnx").write_bytes(content[:place])
        with pytest.raises(ArtifactError, match=r"cut\.onnx: "):
            Detector.load(tmp_path / "cut.onnx")


def test_an_older_file_without_a_runtime_is_still_read(exported: Path, tmp_path: Path) -> None:
    """A digest is of the text that was written, so that a setting which came later does not change it."""
    graph, manifest, tensors = onnx_file.read_onnx(exported)
    text = manifest.model_copy(update={"digest": ""}).model_dump_json()
    older = text.replace('"runtime":{"engine":"onnxruntime","precision":"fp32"},', "")
    assert older != text
    found = detector_file.content_digest(older, tensors | onnx_file.graph_as_tensor(graph))
    sealed = older.replace('"digest":""', f'"digest":"{found}"')
    _, metadata = onnx_proto.split_metadata(exported.read_bytes(), exported)
    (tmp_path / "part.onnx").write_bytes(onnx_proto.join_metadata(graph, metadata | {"oddlens": sealed}))
    assert onnx_file.read_onnx(tmp_path / "part.onnx")[1].runtime == RuntimeSettings()


def test_the_threshold_moves_and_the_graph_stays_byte_for_byte(exported: Path, tmp_path: Path) -> None:
    moved = Detector.load(exported).set_decision(DecisionSettings(false_alarm_rate=0.1)).save(tmp_path / "part.onnx")
    assert onnx_file.read_onnx(moved)[0] == onnx_file.read_onnx(exported)[0]
    assert Detector.load(moved).decision_.false_alarm_rate == 0.1


def elsewhere(name: str) -> onnx.TensorProto:
    """A tensor whose values are said to lie in another file."""
    tensor = onnx.TensorProto(name=name, data_type=onnx.TensorProto.FLOAT, dims=[1])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret.bin")
    return tensor


def weight_elsewhere(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(elsewhere("weight"))


def place_without_location(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].external_data.add(key="location", value="../secret.bin")


def location_without_place(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL


def constant_elsewhere(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=elsewhere("c")))


def branch_elsewhere(model: onnx.ModelProto) -> None:
    branch = helper.make_graph([], "branch", [], [], initializer=[elsewhere("c")])
    model.graph.node.append(helper.make_node("If", ["x"], ["y"], then_branch=branch))


def sparse_elsewhere(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.append(onnx.SparseTensorProto(values=elsewhere("c"), dims=[1]))


def function_elsewhere(model: onnx.ModelProto) -> None:
    model.functions.add(name="f").node.append(helper.make_node("Constant", [], ["c"], value=elsewhere("c")))


def training_elsewhere(model: onnx.ModelProto) -> None:
    model.training_info.add().algorithm.initializer.append(elsewhere("c"))


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
        weight_elsewhere, place_without_location, location_without_place, constant_elsewhere, branch_elsewhere,
        sparse_elsewhere, function_elsewhere, training_elsewhere,
    ],
)  # fmt: skip
def test_external_data_is_refused_before_any_runtime_sees_the_graph(
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
def test_a_file_that_is_no_graph_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "part.onnx"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=message):
        Detector.load(path)


def test_a_sealed_file_whose_graph_no_runtime_can_load_is_refused(exported: Path, tmp_path: Path) -> None:
    _, manifest, tensors = onnx_file.read_onnx(exported)
    onnx_file.save_onnx(tmp_path / "part.onnx", b"\x08\x07", manifest, tensors)
    with pytest.raises(ArtifactError, match="ONNX Runtime cannot load it"):
        Detector.load(tmp_path / "part.onnx")


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime", "openvino"])
def test_streams_of_one_thread_give_the_same_scores(
    fitted: Detector, exported: Path, digit_pixels: Pixels, digits: DataSet, runtime: str
) -> None:
    detector = fitted if runtime == "torch" else Detector.load(exported)
    if runtime == "openvino":
        pytest.importorskip("openvino", reason="needs the extra openvino")
        detector = detector.calibrate(digits.test, runtime=RuntimeSettings(engine="openvino"))
    backend, parts = detector.backend, [digit_pixels[i : i + 40] for i in (0, 40, 80, 120)]
    before = torch.get_num_threads()
    assert backend.streams >= 1
    with ThreadPoolExecutor(2) as pool:
        streamed = list(pool.map(backend.alone, parts))
    for found, part in zip(streamed, parts, strict=True):
        whole = backend(part)
        np.testing.assert_allclose(found.anomaly_score, whole.anomaly_score, rtol=1e-6)
        assert found.anomaly_map is not None
        assert whole.anomaly_map is not None
        np.testing.assert_allclose(found.anomaly_map, whole.anomaly_map, atol=1e-6)
    assert torch.get_num_threads() == before
