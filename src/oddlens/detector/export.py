"""Export of the scoring graph as one ONNX file, refused unless it gives the detector's scores."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import torch

from oddlens.artifact import onnx_file
from oddlens.config.base import RuntimeSettings
from oddlens.data.image_io import Pixels
from oddlens.detector.detector import Detector
from oddlens.errors import ArtifactError, SettingsError
from oddlens.inference.backend import INPUT, OUTPUTS, Backend
from oddlens.inference.golden import golden_pixels
from oddlens.inference.open import open_graph
from oddlens.inference.scoring import anomaly_scores, batch_size, in_batches
from oddlens.inference.tiling import graph_backend
from oddlens.inference.torch_threads import fork_safe
from oddlens.io import onnx_proto
from oddlens.models.backbones.onnx_exporter import (
    MIN_OPSET,
    check_exporter,
    export_module,
    opset_version,
    read_network,
)
from oddlens.models.base import Model, ScoringGraph

TOLERANCE = 1e-4  # largest relative difference between exported and trained scores


def export(detector: Detector, path: str | Path) -> float:
    """Write the detector as ONNX. Returns the largest relative difference between exported and original scores.

    The graph takes pixels (N, H, W, C) of the input spec's integer type, for any N, and has the outputs
    `anomaly_score`, `anomaly_map` and `reconstruction`; manifest and calibration are in the file's metadata. With
    tiles, it takes tiles, and the manifest says how images are cut into them.

    Raises:
        SettingsError: the name does not end in .onnx, the detector was loaded from such a file, or is calibrated in
            bf16.
        ArtifactError: the exported scores differ; nothing is written.
        OddlensError: the file cannot be written.
    """
    path, network = Path(path), detector.network
    if path.suffix != ".onnx":
        raise SettingsError(f"{path}: exported files end in .onnx")
    if network is None:
        raise SettingsError(f"{path}: the detector was itself loaded from an .onnx file; export the .safetensors file")
    if detector.manifest.runtime.precision != "fp32":
        raise SettingsError(
            f"{path}: exported files start in fp32, and this detector is calibrated in bf16, whose scores differ; "
            "calibrate it with --precision fp32 first"
        )
    manifest = detector.manifest.model_copy(update={"runtime": RuntimeSettings(engine="onnxruntime")})
    graph = trace(network)
    difference = parity(detector, open_graph(graph, network.spec, manifest.runtime, path))
    if difference > TOLERANCE:
        raise ArtifactError(
            f"{path}: not written, because exported scores differ from the detector's by {difference:.1e} (relative), "
            f"more than {TOLERANCE:.0e}; please report this with the detector's settings"
        )
    onnx_file.save_onnx(path, graph, manifest, detector.tensors)
    return difference


@fork_safe()
def trace(network: Model) -> bytes:
    """The scoring graph of a network as ONNX bytes: standard operators only, and no metadata."""
    check_exporter()
    import onnx

    from oddlens.detector.composition import insert_backbone

    module = ScoringGraph(copy.deepcopy(network)).cpu().eval()
    example = torch.from_numpy(golden_pixels(network.spec)[:2])
    names = [name for name, value in zip(OUTPUTS, module(example), strict=True) if value is not None]
    own = None if network.graph is None else read_network(network.graph.content, network.graph.name)
    opset = MIN_OPSET if own is None else opset_version(own)
    model = export_module(module, example, INPUT, names, {0: torch.export.Dim("batch")}, opset)
    if own is not None:
        insert_backbone(model, own)
    onnx.checker.check_model(model)
    content, _ = onnx_proto.split_metadata(model.SerializeToString(), Path("the exporter's graph"))
    return content


def parity(detector: Detector, exported: Backend) -> float:
    """Largest relative difference of scores, on golden and random images (or tiles), in batches of 1, 3 and all."""
    original = graph_backend(detector.backend)
    spec = original.spec
    rng = np.random.default_rng(0)
    random = rng.integers(0, spec.value_max + 1, (13, spec.height, spec.width, spec.channels)).astype(spec.dtype)
    pixels: Pixels = np.concatenate([golden_pixels(spec), random])
    expected = anomaly_scores(original, in_batches(pixels, batch_size(spec)))
    batches = (pixels[:1], pixels[1:4], pixels)
    actual = anomaly_scores(exported, batches)
    reference = np.concatenate([expected[:1], expected[1:4], expected])
    return float(np.max(np.abs(actual - reference) / np.maximum(np.abs(reference), 1e-12)))
