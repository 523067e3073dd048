"""Damage detector files, for the tests that such files are refused."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from oddlens.artifact import detector_file
from oddlens.config.manifest import Manifest
from oddlens.config.parse import parse

Change = Callable[[dict[str, Any], detector_file.Tensors], None]  # of a manifest's plain values, and of tensors


def read_manifest_values(path: Path) -> dict[str, Any]:
    """The plain values of the manifest in a `.safetensors` file."""
    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    values: dict[str, Any] = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["oddlens"])
    return values


def write_changed(path: Path, target: Path, change: Change, *, matching_digest: bool) -> Path:
    """Write a copy of a detector file after `change`; its digest matches only if requested, as an attacker would."""
    values, tensors = read_manifest_values(path), load_tensors(path.read_bytes())
    change(values, tensors)
    text = json.dumps(values)
    if matching_digest:
        text = detector_file.serialize_manifest(parse(Manifest, values, "test"), tensors)
    target.write_bytes(save_tensors(tensors, {"oddlens": text}))
    return target


def negate_onnx_weight(graph: bytes) -> bytes:
    """The graph with the signs of its first four-dimensional weight changed."""
    model = onnx.load_from_string(graph)
    weight = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 4)
    weight.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(weight), weight.name))
    content: bytes = model.SerializeToString()
    return content
