"""The exported detector file: a scoring graph with manifest, calibration and decision in its metadata."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from oddlens.artifact.detector_file import (
    OPTIONAL_STATISTICS,
    ROI,
    STATISTICS_DTYPES,
    Tensors,
    check_content,
    read_file,
    read_manifest,
    select_statistics,
    serialize_manifest,
)
from oddlens.config.manifest import Manifest
from oddlens.errors import ArtifactError
from oddlens.io import onnx_proto
from oddlens.io.atomic import write_bytes

DECISION = "oddlens.decision"  # key of the decision in words and numbers, for programs that have no oddlens


def onnx_content(
    graph: bytes, manifest: Manifest, tensors: Tensors, decision: Mapping[str, Any] | None = None
) -> bytes:
    """The bytes of an exported file, deployable by itself; the digest covers the graph and the decision too.

    `decision` is `GroupedDecision.as_json`, which follows from manifest and statistics; None where the detector is not
    calibrated. With tiles, the region of interest is beside the statistics; otherwise it is in the graph.
    """
    statistics = select_statistics(tensors)
    if manifest.tiling is not None and ROI in tensors:
        statistics[ROI] = tensors[ROI]
    decision_entry = {} if decision is None else {DECISION: json.dumps(decision)}
    covered = statistics | as_tensors(graph, decision_entry)
    metadata = {
        "oddlens": serialize_manifest(manifest, covered),
        "oddlens.statistics": base64.b64encode(save_tensors(statistics)).decode(),
        **decision_entry,
    }
    return onnx_proto.join_metadata(graph, metadata)


def as_tensors(graph: bytes, metadata: Mapping[str, str]) -> Tensors:
    """The bytes of a graph, and of the decision where the metadata has one, as tensors for the digest."""
    decision = {DECISION: metadata[DECISION].encode()} if DECISION in metadata else {}
    return {name: np.frombuffer(content, dtype=np.uint8) for name, content in {"graph": graph, **decision}.items()}


def save_onnx(
    path: Path, graph: bytes, manifest: Manifest, tensors: Tensors, decision: Mapping[str, Any] | None = None
) -> Path:
    """Write an exported graph with its manifest, statistics and decision (see `onnx_content`), atomically.

    Raises:
        OddlensError: the file cannot be written.
    """
    return write_bytes(path, onnx_content(graph, manifest, tensors, decision))


def read_onnx(path: Path, content: bytes | None = None) -> tuple[bytes, Manifest, Tensors]:
    """Graph, manifest and statistics of an exported file; nothing in it is trusted, and no runtime has loaded it yet.

    With `content`, those bytes are read instead of the file, which `path` then only names in errors.

    Raises:
        DataNotFoundError: there is no such file.
        ArtifactError: something is missing, damaged, foreign, or differs from what was written.
    """
    graph, metadata = onnx_proto.split_metadata(read_file(path) if content is None else content, path)
    manifest = read_manifest(path, metadata)
    try:
        tensors: Tensors = load_tensors(base64.b64decode(metadata.get("oddlens.statistics", ""), validate=True))
    except (SafetensorError, binascii.Error, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path}: its calibration cannot be read ({error}); export the detector again") from error
    kinds = {name: (tensor.dtype.str[1:], tensor.ndim) for name, tensor in tensors.items()}
    expected = {name: (kind[0].lower() + str(int(kind[1:]) // 8), 1) for name, kind in STATISTICS_DTYPES.items()}
    if manifest.tiling is not None and ROI in tensors:
        expected[ROI] = ("u1", 2)
    kinds = {name: expected[name] for name in OPTIONAL_STATISTICS} | kinds
    if kinds != expected or (ROI in expected and tensors[ROI].shape != (manifest.input.height, manifest.input.width)):
        raise ArtifactError(f"{path}: its calibration is incomplete or damaged; export the detector again")
    check_content(path, manifest, metadata["oddlens"], tensors | as_tensors(graph, metadata))
    return graph, manifest, tensors
