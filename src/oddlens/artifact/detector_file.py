"""The detector file: safetensors with a JSON manifest in its metadata. No pickle, no torch.

An exported `.onnx` file carries the same manifest and statistics in its own metadata, so that either file can be
deployed by itself.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from oddlens.config.manifest import SCHEMA_VERSION, Manifest
from oddlens.config.parse import parse
from oddlens.errors import ArtifactError, DataNotFoundError, SettingsError
from oddlens.io.atomic import write_bytes
from oddlens.io.digests import digest
from oddlens.models.backbones.onnx_graph import MAX_GRAPH

MAX_FILE = 4 * 2**30  # bytes
MAX_HEADER = 16 * 2**20
MAX_MANIFEST = 8 * 2**20
STATISTICS_DTYPES = {  # one-dimensional tensors of a detector besides those of its model: name -> dtype
    "calibration.scores": "F64",
    "calibration.map_peaks": "F64",  # largest map value of each calibration image; empty without maps
    "calibration.fingerprints": "U64",
    "calibration.groups": "U64",  # index of each calibration score's group in the manifest; empty without groups
    "calibration.clusters": "U64",  # number of each score's group of near-duplicates; empty where images are counted
    "calibration.brightness": "F64",  # mean of the pixels of each score's image, in 0..1; empty where it is not known
    "training.scores": "F64",
    "training.fingerprints": "U64",
}
OPTIONAL_STATISTICS = frozenset({"calibration.clusters", "calibration.brightness"})  # which older files lack: empty
ROI = "input.roi"
GRAPH = "backbone.graph"  # of the user's own backbone, in ONNX format

Tensors = dict[str, npt.NDArray[Any]]


def save(path: Path, manifest: Manifest, tensors: Tensors) -> Path:
    """Write a detector file atomically: after a failure, an older file is unchanged.

    Raises:
        OddlensError: the file cannot be written.
    """
    return write_bytes(path, detector_content(manifest, tensors))


def detector_content(manifest: Manifest, tensors: Tensors) -> bytes:
    """The bytes of a `.safetensors` detector file."""
    return save_tensors(tensors, {"oddlens": serialize_manifest(manifest, tensors)})


def serialize_manifest(manifest: Manifest, tensors: Tensors) -> str:
    """The manifest as JSON, with the digest of itself and of the tensors in it."""
    empty = manifest.model_copy(update={"digest": ""})
    own_digest = content_digest(empty.model_dump_json(), tensors)
    return empty.model_copy(update={"digest": own_digest}).model_dump_json()


def content_digest(manifest_json: str, tensors: Tensors) -> str:
    """Digest of a manifest's JSON, in which the digest is empty, and of tensors.

    It detects accidents, not forgery. It covers the text, so that defaults of a newer version do not change it.
    """
    return digest([manifest_json.encode(), *tensor_parts(tensors)])


def tensor_parts(tensors: Tensors) -> Iterator[bytes]:
    """Names, types, shapes and values of tensors, for a digest."""
    for name in sorted(tensors):
        tensor = np.ascontiguousarray(tensors[name])
        yield f"{name} {tensor.dtype.str} {tensor.shape}".encode()
        yield tensor.tobytes()


def load(path: Path, content: bytes | None = None) -> tuple[Manifest, Tensors]:
    """Read a `.safetensors` detector file without trusting anything in it.

    With `content`, those bytes are read instead of the file, which `path` then only names in errors.

    Raises:
        DataNotFoundError: there is no such file.
        ArtifactError: it is not an oddlens detector, is cut short or changed, or was made by a newer version.
    """
    content = read_file(path) if content is None else content
    header = read_header(path, content)
    metadata = header.pop("__metadata__", None)
    manifest = read_manifest(path, metadata)
    check_tensors(path, manifest, header)
    try:
        tensors: Tensors = load_tensors(content)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path}: its tensors cannot be read ({error}); copy the file again") from error
    check_content(path, manifest, metadata["oddlens"], tensors)
    check_own_backbone(path, manifest, tensors)
    return manifest, tensors


def read_file(path: Path) -> bytes:
    """The bytes of a detector file, up to the maximum size."""
    try:
        if not path.exists():
            raise DataNotFoundError(f"{path}: no such detector file; make one with `oddlens fit DATA -o FILE`")
        if path.stat().st_size > MAX_FILE:
            raise ArtifactError(
                f"{path}: is larger than any detector ({path.stat().st_size:,} bytes); is it another file?"
            )
        return path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror}); name a detector file") from error


def read_header(path: Path, content: bytes) -> dict[str, Any]:
    """The safetensors header; its size is checked before it is parsed."""
    foreign = ArtifactError(f"{path}: is not an oddlens detector or is cut short; make one with `oddlens fit`")
    if len(content) < 8:
        raise foreign
    (size,) = struct.unpack("<Q", content[:8])
    if not 2 <= size <= min(MAX_HEADER, len(content) - 8):
        raise foreign
    try:
        header = json.loads(content[8 : 8 + size])
    except (ValueError, RecursionError) as error:
        raise foreign from error
    if not isinstance(header, dict):
        raise foreign
    return header


def read_manifest(path: Path, metadata: object) -> Manifest:
    """The manifest from the metadata of a file; the schema version is checked before anything else."""
    text = metadata.get("oddlens") if isinstance(metadata, dict) else None
    if not isinstance(text, str):
        raise ArtifactError(f"{path}: has no oddlens manifest; it was not written by oddlens")
    if len(text) > MAX_MANIFEST:
        raise ArtifactError(f"{path}: its manifest is larger than any detector's ({len(text):,} characters)")
    try:
        values = json.loads(text)
        version = values.get("schema_version")
    except (ValueError, RecursionError, AttributeError) as error:
        raise ArtifactError(f"{path}: its manifest is damaged; copy the file again") from error
    if version != SCHEMA_VERSION:
        raise ArtifactError(
            f"{path}: has schema version {version!r}, this oddlens reads {SCHEMA_VERSION}; upgrade oddlens or fit again"
        )
    try:
        return parse(Manifest, values, str(path))
    except SettingsError as error:
        raise ArtifactError(f"{error}; copy the file again, or fit again") from error


def check_tensors(path: Path, manifest: Manifest, header: dict[str, Any]) -> None:
    """Check names, types and shapes against those of the family, before anything is allocated."""
    from oddlens.models.registry import tensor_shapes

    expected = {f"model.{name}": shape for name, shape in tensor_shapes(manifest.model, manifest.model_input).items()}
    spec, own = manifest.input, manifest.model.own_backbone
    for name, entry in header.items():
        try:
            dtype, shape = entry["dtype"], tuple(entry["shape"])
        except (TypeError, KeyError) as error:
            raise ArtifactError(f"{path}: its entry '{name[:80]}' is damaged; copy the file again") from error
        is_valid = (
            (dtype == "F32" and name in expected and shape_fits(shape, expected[name]))
            or (STATISTICS_DTYPES.get(name) == dtype and len(shape) == 1)
            or (name == ROI and dtype == "U8" and shape == (spec.height, spec.width))
            or (name == GRAPH and dtype == "U8" and own is not None and len(shape) == 1 and shape[0] <= MAX_GRAPH)
        )
        if not is_valid:
            allowed = f"; it may be F32 ({format_shape(expected[name])})" if name in expected else ""
            raise ArtifactError(
                f"{path}: its tensor '{name[:80]}' ({dtype} {shape}) is not one of this family's{allowed}; fit again"
            )
    required = expected.keys() | STATISTICS_DTYPES.keys() | ({GRAPH} if own is not None else set())
    missing = required - OPTIONAL_STATISTICS - header.keys()
    if missing:
        raise ArtifactError(f"{path}: lacks {len(missing)} tensors of this family, '{min(missing)}' first; fit again")


def shape_fits(shape: tuple[int, ...], expected: tuple[int | range, ...]) -> bool:
    """Whether a tensor has the expected shape; a range gives the numbers of rows that a bank may have."""
    return len(shape) == len(expected) and all(
        n in size if isinstance(size, range) else n == size for n, size in zip(shape, expected, strict=True)
    )


def format_shape(shape: tuple[int | range, ...]) -> str:
    """A shape as text: "1 to 1500, 4, 256"."""
    return ", ".join(f"{n.start} to {n.stop - 1}" if isinstance(n, range) else str(n) for n in shape)


def check_content(path: Path, manifest: Manifest, manifest_json: str, tensors: Tensors) -> None:
    """Check that all numbers are finite and that the digest covers manifest (its text in the file) and tensors."""
    for name, tensor in tensors.items():
        if tensor.dtype.kind == "f" and not np.isfinite(tensor).all():
            raise ArtifactError(f"{path}: its tensor '{name}' holds values that are not finite numbers; fit again")
    if content_digest(manifest_json.replace(f'"{manifest.digest}"', '""', 1), tensors) != manifest.digest:
        raise ArtifactError(f"{path}: its content is not what was written (digest differs); copy the file again")
    groups, names = tensors["calibration.groups"], manifest.data.groups
    if len(groups) != (len(tensors["calibration.scores"]) if names else 0) or (groups >= len(names)).any():
        raise ArtifactError(f"{path}: its calibration scores do not match their groups; calibrate it again")
    for name, what in (("clusters", "groups of near-duplicates"), ("brightness", "brightness")):
        if len(tensors.get(f"calibration.{name}", ())) not in (0, len(tensors["calibration.scores"])):
            raise ArtifactError(f"{path}: its calibration scores do not match their {what}; calibrate it again")


def check_own_backbone(path: Path, manifest: Manifest, tensors: Tensors) -> None:
    """Check that the user's own backbone is the one in the manifest; `OnnxGraph` checks whether it may be run."""
    own = manifest.model.own_backbone
    if own is not None and hashlib.sha256(tensors[GRAPH].tobytes()).hexdigest() != own.sha256:
        raise ArtifactError(f"{path}: its backbone is not {own.name} (digest differs); fit again")


def select_statistics(tensors: Tensors) -> Tensors:
    """The calibration and training statistics of a detector; those that an older file lacks are empty."""
    dtypes = {"F64": np.float64, "U64": np.uint64}
    missing = {name: np.empty(0, dtype=dtypes[STATISTICS_DTYPES[name]]) for name in OPTIONAL_STATISTICS}
    return missing | {name: tensor for name, tensor in tensors.items() if name in STATISTICS_DTYPES}
