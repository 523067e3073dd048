"""The detector file: safetensors with a JSON manifest in its metadata. Never pickle; torch-free.

An exported `.onnx` file carries the same manifest and the same statistics in its own metadata, so
that either file is deployable by itself.
"""

from __future__ import annotations

import hashlib
import json
import struct
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

MAX_FILE = 4 * 2**30  # bytes
MAX_HEADER = 16 * 2**20
MAX_MANIFEST = 8 * 2**20
STATISTICS_DTYPES = {  # tensors of a detector beside its model's: name -> dtype; all are one-dimensional
    "calibration.scores": "F64",
    "calibration.map_peaks": "F64",  # each calibration image's largest map value; empty without maps
    "calibration.fingerprints": "U64",
    "calibration.groups": "U64",  # which of the manifest's groups each calibration score is of; empty without groups
    "training.scores": "F64",
    "training.fingerprints": "U64",
}
ROI = "input.roi"

Tensors = dict[str, npt.NDArray[Any]]


def save(path: Path, manifest: Manifest, tensors: Tensors) -> Path:
    """Write a detector file in one step: a failure leaves an older file as it was.

    Raises:
        OddlensError: the file cannot be written.
    """
    return write_bytes(path, save_tensors(tensors, {"oddlens": serialize_manifest(manifest, tensors)}))


def serialize_manifest(manifest: Manifest, tensors: Tensors) -> str:
    """The manifest's JSON with the digest of everything else in it."""
    empty = manifest.model_copy(update={"digest": ""})
    found = digest(empty.model_dump_json(), tensors)
    return empty.model_copy(update={"digest": found}).model_dump_json()


def digest(manifest: str, tensors: Tensors) -> str:
    """Content of the manifest's JSON, its own digest empty, and of tensors; against accidents.

    Anyone can forge it, so it proves no origin. It is of the text, to which a newer version's defaults add nothing.
    """
    state = hashlib.blake2b(manifest.encode(), digest_size=16)
    for name in sorted(tensors):
        tensor = np.ascontiguousarray(tensors[name])
        state.update(f"{name} {tensor.dtype.str} {tensor.shape}".encode())
        state.update(tensor.tobytes())
    return state.hexdigest()


def load(path: Path) -> tuple[Manifest, Tensors]:
    """Read a `.safetensors` detector file, trusting nothing in it.

    Raises:
        DataNotFoundError: there is no such file.
        ArtifactError: it is not an oddlens detector, was cut short, changed, or made by a newer version.
    """
    content = read_file(path)
    header = read_header(path, content)
    metadata = header.pop("__metadata__", None)
    manifest = read_manifest(path, metadata)
    check_tensors(path, manifest, header)
    try:
        tensors: Tensors = load_tensors(content)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path}: its tensors cannot be read ({error}); copy the file again") from error
    check_content(path, manifest, metadata["oddlens"], tensors)
    return manifest, tensors


def read_file(path: Path) -> bytes:
    """The bytes of a detector file, within the size cap."""
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
    """The safetensors header, checked by size before it is parsed."""
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
    """The manifest from a file's metadata; the schema version is looked at before anything else."""
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
    """Compare names, types and shapes with what this family has, before anything is allocated."""
    from oddlens.models.registry import tensor_shapes

    expected = {f"model.{name}": shape for name, shape in tensor_shapes(manifest.model, manifest.input).items()}
    spec = manifest.input
    for name, entry in header.items():
        try:
            kind, shape = entry["dtype"], tuple(entry["shape"])
        except (TypeError, KeyError) as error:
            raise ArtifactError(f"{path}: its entry '{name[:80]}' is damaged; copy the file again") from error
        good = (
            (kind == "F32" and name in expected and shape_fits(shape, expected[name]))
            or (STATISTICS_DTYPES.get(name) == kind and len(shape) == 1)
            or (name == ROI and kind == "U8" and shape == (spec.height, spec.width))
        )
        if not good:
            allowed = f"; it may be F32 ({format_shape(expected[name])})" if name in expected else ""
            raise ArtifactError(
                f"{path}: its tensor '{name[:80]}' ({kind} {shape}) is not one of this family's{allowed}; fit again"
            )
    missing = (expected.keys() | STATISTICS_DTYPES.keys()) - header.keys()
    if missing:
        raise ArtifactError(f"{path}: lacks {len(missing)} tensors of this family, '{min(missing)}' first; fit again")


def shape_fits(shape: tuple[int, ...], expected: tuple[int | range, ...]) -> bool:
    """Whether a tensor has the expected shape; a range stands for the numbers of rows that a bank may have."""
    return len(shape) == len(expected) and all(
        n in wanted if isinstance(wanted, range) else n == wanted for n, wanted in zip(shape, expected, strict=True)
    )


def format_shape(shape: tuple[int | range, ...]) -> str:
    """A shape to read: "1 to 1500, 4, 256"."""
    return ", ".join(f"{n.start} to {n.stop - 1}" if isinstance(n, range) else str(n) for n in shape)


def check_content(path: Path, manifest: Manifest, manifest_json: str, tensors: Tensors) -> None:
    """Check that all numbers are finite and that the digest covers manifest (its text in the file) and tensors."""
    for name, tensor in tensors.items():
        if tensor.dtype.kind == "f" and not np.isfinite(tensor).all():
            raise ArtifactError(f"{path}: its tensor '{name}' holds values that are not finite numbers; fit again")
    if digest(manifest_json.replace(f'"{manifest.digest}"', '""', 1), tensors) != manifest.digest:
        raise ArtifactError(f"{path}: its content is not what was written (digest differs); copy the file again")
    places, names = tensors["calibration.groups"], manifest.data.groups
    if len(places) != (len(tensors["calibration.scores"]) if names else 0) or (places >= len(names)).any():
        raise ArtifactError(f"{path}: its calibration scores and their groups do not go together; calibrate it again")


def select_statistics(tensors: Tensors) -> Tensors:
    """Of a detector's tensors, those that an exported graph carries in its metadata."""
    return {name: tensor for name, tensor in tensors.items() if name in STATISTICS_DTYPES}
