"""The graph of the user's own backbone, which ONNX Runtime runs; without torch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from oddlens.config.backbones import Colour
from oddlens.config.base import MAX_MODEL_SIDE
from oddlens.errors import ArtifactError, DataNotFoundError
from oddlens.io.onnx_proto import check_graph
from oddlens.io.onnx_session import create_session
from oddlens.io.per_process import PerProcess
from oddlens.io.text import first_line

MAX_GRAPH = 2**30  # bytes
FLOATS = "tensor(float)"  # ONNX Runtime's name of float32 tensors
REMEDY = "export the network again as a single .onnx file with ONNX's own operators alone"
UNKNOWN_LICENCE = "oddlens does not know the licence; check it before you share the file"
IMAGENET_MEAN: Colour = (0.485, 0.456, 0.406)
IMAGENET_STD: Colour = (0.229, 0.224, 0.225)

Floats = npt.NDArray[np.float32]


class OnnxGraph:
    """A graph from images (N, 3, H, W) to features, run image by image, so that these do not depend on the batch.

    Args:
        content: the bytes of the .onnx file.
        name: of the backbone, for errors.

    Raises:
        ArtifactError: the graph is too large or not self-contained, ONNX Runtime cannot load it, or it takes no images.
    """

    def __init__(self, content: bytes, name: str) -> None:
        check_size(len(content), name)
        check_graph(content, name, REMEDY)
        self.content, self.name = content, name
        self.sha256 = hashlib.sha256(content).hexdigest()
        self._sessions: dict[int, PerProcess[Any]] = {}  # by number of threads
        try:
            session = self._session(1)
        except Exception as error:  # onnxruntime raises many kinds, none of them public
            raise ArtifactError(f"{name}: ONNX Runtime cannot load it ({first_line(error)}); {REMEDY}") from error
        self.input, sides = self._check_input(session.get_inputs())
        self.is_single, self.fixed = isinstance(sides[0], int), (as_side(sides[2]), as_side(sides[3]))
        forms = {output.name: output.type for output in session.get_outputs()}
        self.outputs = [output for output, form in forms.items() if form == FLOATS]
        self.other_outputs = [output for output in forms if output not in self.outputs]
        if not self.outputs:
            listed = ", ".join(f"'{output[:80]}' {form}" for output, form in forms.items())
            raise ArtifactError(f"{name}: has no float32 tensors among its outputs {listed}; export it in float32")

    def _check_input(self, inputs: Sequence[Any]) -> tuple[str, list[int | str | None]]:
        """Name and shape of the input."""
        forms = [f"{value.name} {value.type} {value.shape}" for value in inputs]
        if len(inputs) == 1 and inputs[0].type == FLOATS and len(inputs[0].shape) == 4:
            batch, channels = inputs[0].shape[:2]
            if (batch == 1 or not isinstance(batch, int)) and (channels == 3 or not isinstance(channels, int)):
                self._check_sides(inputs[0].shape[2:])
                return inputs[0].name, inputs[0].shape
        raise ArtifactError(
            f"{self.name}: must have one input of RGB images, float32 (N, 3, height, width), and has "
            f"{'; '.join(forms) or 'none'}"
        )

    def _check_sides(self, sides: Sequence[int | str | None]) -> None:
        """Refuse a prescribed size that no images of a detector have."""
        if any(isinstance(side, int) and not 1 <= side <= MAX_MODEL_SIDE for side in sides):
            raise ArtifactError(
                f"{self.name}: takes images of {sides[1]} x {sides[0]} pixels alone, and sides may have 1 to "
                f"{MAX_MODEL_SIDE}; export the network for other sizes"
            )

    def _session(self, threads: int) -> Any:
        create = partial(create_session, self.content, threads)
        return self._sessions.setdefault(threads, PerProcess(create)).get()

    def __deepcopy__(self, memo: object) -> OnnxGraph:
        return self

    def run(self, images: Floats, outputs: Sequence[str], threads: int) -> list[Floats]:
        """The outputs (N, ...) of these names, of images (N, 3, H, W).

        Raises:
            ArtifactError: the graph does not run on them, or gives something other than finite float32 numbers.
        """
        rows, results = [self.run_single(image, outputs, threads) for image in images], []
        for name, values in zip(outputs, zip(*rows, strict=True), strict=True):
            if any(value.dtype != np.float32 or value.ndim == 0 or len(value) != 1 for value in values):
                raise ArtifactError(f"{self.name}: its output '{name[:80]}' is not float32 with one row for each image")
            stacked = np.concatenate(values)
            if not np.isfinite(stacked).all():
                raise ArtifactError(
                    f"{self.name}: its output '{name[:80]}' has values that are not finite; {self.name} does not fit "
                    "these images, or is damaged"
                )
            results.append(stacked)
        return results

    def run_single(self, image: Floats, outputs: Sequence[str], threads: int) -> list[npt.NDArray[Any]]:
        """The outputs of these names as the graph gives them for an image (3, H, W).

        Raises:
            ArtifactError: the graph does not run on it.
        """
        try:
            return list(self._session(threads).run(list(outputs), {self.input: image[None]}))
        except Exception as error:  # onnxruntime raises many kinds, none of them public
            size = f"{image.shape[2]} x {image.shape[1]} pixels"
            raise ArtifactError(
                f"{self.name}: does not run on images of {size} ({first_line(error)}); choose another --size"
            ) from error


@dataclass(frozen=True)
class BackboneFile:
    """The user's own backbone as it was read, before its outputs are known for a size of images."""

    graph: OnnxGraph
    source: str
    licence: str
    mean: Colour = IMAGENET_MEAN
    std: Colour = IMAGENET_STD


def read_backbone(path: Path) -> BackboneFile:
    """The user's own backbone from an .onnx file.

    Raises:
        DataNotFoundError: there is no such file.
        ArtifactError: it cannot be read or used.
    """
    if not path.is_file():
        raise DataNotFoundError(f"{path}: no such file for a backbone; give the path of an .onnx file")
    try:
        check_size(path.stat().st_size, str(path))
        content = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror}); name an .onnx file") from error
    return BackboneFile(OnnxGraph(content, path.name), f"the file {path.name}", UNKNOWN_LICENCE)


def check_size(size: int, source: str) -> None:
    """Refuse a graph of more than `MAX_GRAPH` bytes."""
    if size > MAX_GRAPH:
        raise ArtifactError(
            f"{source}: has {size:,} bytes, more than the {MAX_GRAPH:,} of a backbone; use a smaller network"
        )


def as_side(side: int | str | None) -> int | None:
    """A side in pixels that a graph prescribes; None where it takes any."""
    return side if isinstance(side, int) else None
