"""What the outputs of the user's own backbone are, and the size of images that it gets."""

from __future__ import annotations

import math

from oddlens.config.backbones import MAX_CHANNELS, MAX_OUTPUTS, BackboneOutput, Layout, OnnxBackbone
from oddlens.config.base import MAX_MODEL_SIDE
from oddlens.errors import ArtifactError
from oddlens.models.backbones.onnx_graph import BackboneFile, OnnxGraph
from oddlens.models.backbones.reference_images import reference_images

MULTIPLES = (1, 14, 16, 32)  # to which the sides of images are rounded up until the graph takes them
PATCH_SIDES = range(2, 65)  # in pixels, of the patches that tokens stand for
MAX_PREFIX = 16  # tokens that stand for no patch


def describe_backbone(file: BackboneFile, height: int, width: int) -> OnnxBackbone:
    """The backbone for images of about height x width, with those outputs that are features of places if it has any.

    Sides that the graph prescribes are used; others are rounded up to the first multiple that it takes.

    Raises:
        ArtifactError: the graph takes no such images, or has no features of images among its outputs.
    """
    graph, errors = file.graph, list[ArtifactError]()
    sizes = {
        tuple(
            fixed or -(-side // multiple) * multiple for fixed, side in zip(graph.fixed, (height, width), strict=True)
        )
        for multiple in MULTIPLES
    }
    for rows, columns in sorted(sizes):
        try:
            outputs = classify_outputs(graph, rows, columns)
        except ArtifactError as error:
            errors.append(error)
            continue
        return OnnxBackbone(
            name=graph.name,
            source=file.source,
            licence=file.licence,
            sha256=graph.sha256,
            height=rows,
            width=columns,
            mean=file.mean,
            std=file.std,
            outputs=outputs,
        )
    raise errors[0]


def classify_outputs(graph: OnnxGraph, height: int, width: int) -> tuple[BackboneOutput, ...]:
    """The outputs with features of places, from the finest grid to the coarsest, or those with features of images.

    Raises:
        ArtifactError: the graph does not run on images of height x width, or has neither.
    """
    (image,) = reference_images(1, height, width)
    results = graph.run_single(image, graph.outputs, threads=1)
    shapes = {name: values.shape for name, values in zip(graph.outputs, results, strict=True)}
    outputs = [classify_output(name, shape[1:], height, width) for name, shape in shapes.items() if shape[:1] == (1,)]
    features = [output for output in outputs if output is not None]
    places = [output for output in features if not output.is_pooled]
    if not features:
        listed = ", ".join(f"'{name[:80]}' {shape}" for name, shape in shapes.items())
        raise ArtifactError(
            f"{graph.name}: has no features of images of {width} x {height} pixels among its outputs {listed}; export "
            "it with feature maps (N, C, h, w), tokens (N, T, C) or features (N, C)"
        )
    return tuple(sorted(places or features, key=lambda output: -output.rows * output.columns)[-MAX_OUTPUTS:])


def classify_output(name: str, shape: tuple[int, ...], height: int, width: int) -> BackboneOutput | None:
    """An output by its shape for one image of height x width; None if it is of no kind that is used."""
    layout, channels, grid = find_layout(shape, height, width)
    if layout is None or not 1 <= channels <= MAX_CHANNELS or min(grid) < 1:
        return None
    prefix = shape[0] - grid[0] * grid[1] if layout == "tokens" else 0
    return BackboneOutput(name=name, layout=layout, channels=channels, rows=grid[0], columns=grid[1], prefix=prefix)


def find_layout(shape: tuple[int, ...], height: int, width: int) -> tuple[Layout | None, int, tuple[int, int]]:
    """Layout, channels, and rows and columns of an output by its shape; None if it is of no kind that is used."""
    if len(shape) == 1:
        return "pooled", shape[0], (1, 1)
    if len(shape) == 2:
        grid = token_grid(shape[0], height, width)
        return (None, 0, (0, 0)) if grid is None else ("tokens", shape[1], grid)
    if len(shape) != 3:
        return None, 0, (0, 0)
    first, last = grid_error(shape[1], shape[2], height, width), grid_error(shape[0], shape[1], height, width)
    if min(first, last) > 1:
        return None, 0, (0, 0)
    if first <= last:
        return "channels_first", shape[0], (shape[1], shape[2])
    return "channels_last", shape[2], (shape[0], shape[1])


def grid_error(rows: int, columns: int, height: int, width: int) -> float:
    """How far a grid is from one place for each square of pixels, relative to rounding by one place each way."""
    if max(rows, columns) > MAX_MODEL_SIDE:
        return math.inf
    return abs(rows / height - columns / width) / (1 / height + 1 / width)


def token_grid(count: int, height: int, width: int) -> tuple[int, int] | None:
    """Rows and columns of the patches that tokens stand for, but for a few before them; None where there are none.

    >>> token_grid(257, 224, 224)
    (16, 16)
    """
    grids = [(height // side, width // side) for side in PATCH_SIDES if height % side == 0 == width % side]
    fitting = [grid for grid in grids if 0 <= count - grid[0] * grid[1] <= min(MAX_PREFIX, grid[0] * grid[1])]
    return max(fitting, key=lambda grid: grid[0] * grid[1], default=None)
