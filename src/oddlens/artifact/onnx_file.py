"""The exported detector file: a scoring graph with manifest and calibration in its metadata."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path

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


def onnx_content(graph: bytes, manifest: Manifest, tensors: Tensors) -> bytes:
    """The bytes of an exported file, deployable by itself; the digest covers the graph too.

    With tiles, the region of interest is beside the statistics; otherwise it is in the graph.
    """
    statistics = select_statistics(tensors)
    if manifest.tiling is not None and ROI in tensors:
        statistics[ROI] = tensors[ROI]
    metadata = {
        "oddlens": serialize_manifest(manifest, statistics | graph_as_tensor(graph)),
        "oddlens.statistics": base64.b64encode(save_tensors(statistics)).decode(),
    }
    return onnx_proto.join_metadata(graph, metadata)


def graph_as_tensor(graph: bytes) -> Tensors:
    """The bytes of a graph as a tensor, for the digest."""
    return {"graph": np.frombuffer(graph, dtype=np.uint8)}


def save_onnx(path: Path, graph: bytes, manifest: Manifest, tensors: Tensors) -> Path:
    """Write an exported graph with its manifest and statistics, atomically.

    Raises:
        OddlensError: the file cannot be written.
    """
    return write_bytes(path, onnx_content(graph, manifest, tensors))


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
    check_content(path, manifest, metadata["oddlens"], tensors | graph_as_tensor(graph))
    return graph, manifest, tensors
