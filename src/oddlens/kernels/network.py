"""What `network.c` works on: its structures, and the memory that a network's layers need."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from oddlens.kernels import CHUNK, library, plans

LANES = 16  # numbers in a register: channels are padded to a multiple of it
ROWS = 8  # places that are multiplied at once

ERRORS = {"": 0, "l1": 1, "mse": 2}  # as network.c numbers them

INT32, INT64, POINTER = ctypes.c_int32, ctypes.c_int64, ctypes.c_void_p


class CPlan(ctypes.Structure):
    """`Plan` in network.c."""

    _fields_: ClassVar = [
        ("phases", INT32),
        *((name, POINTER) for name in ("row_starts", "rows", "tap_starts", "taps", "index_starts", "index")),
    ]


class CLayer(ctypes.Structure):
    """`Layer` in network.c."""

    _fields_: ClassVar = [
        *((name, INT32) for name in ("places_in", "places_out", "c", "n", "c_real", "n_real", "sets")),
        *((name, INT32) for name in ("relu", "pool", "own_biases", "dense")),
        *((name, INT64) for name in ("set_stride", "c_stride", "n_stride")),
        ("forward", CPlan),
        ("backward", CPlan),
        *((name, POINTER) for name in ("forward_weights", "backward_weights", "input", "gradient", "largest")),
        *((name, POINTER) for name in ("weight_sums", "bias_sums")),
    ]


class CNetwork(ctypes.Structure):
    """`Network` in network.c."""

    _fields_: ClassVar = [
        *((name, INT32) for name in ("layers", "height", "width", "channels", "paired")),
        *((name, POINTER) for name in ("windows", "corners", "padded")),
        *((name, INT64) for name in ("padded_size", "scratch_size")),
        *((name, POINTER) for name in ("scratch", "layer")),
    ]


class Numbers(Protocol):
    """Float32 numbers without gaps, such as a tensor's."""

    def data_ptr(self) -> int:
        """Where they begin."""


@dataclass(frozen=True)
class Shape:
    """A layer as the kernels see it."""

    table: plans.Table  # (places of the output, sets)
    places_in: int
    c: int  # numbers of a place of the input
    n: int  # and of the output
    strides: tuple[int, int, int]  # of a set, of c and of n in the memory of the weights; that of c or of n is 1
    relu: bool = False
    pool: bool = False  # whether the largest of each four outputs goes on
    own_biases: bool = False  # whether each place has biases of its own; of a dense layer

    @functools.cached_property
    def dense(self) -> bool:
        """Whether each set of weights is used by one place alone."""
        return bool(((self.table >= 0).sum(axis=0) == 1).all())

    @functools.cached_property
    def forward(self) -> list[npt.NDArray[np.int32]]:
        """The plan of its outputs."""
        return plans.plan(self.table, self.places_in, padded(self.c), together=self.pool)

    @functools.cached_property
    def backward(self) -> list[npt.NDArray[np.int32]]:
        """The plan of its input's gradients."""
        return plans.plan(plans.reverse(self.table, self.places_in), len(self.table), padded(self.n))

    @property
    def bytes(self) -> int:
        """Of a picture's input in bfloat16."""
        return 2 * (self.places_in + 1) * padded(self.c)


@dataclass(eq=False)
class Memory:
    """A network, with room for some pictures at once; in bfloat16, and with room for gradients, if it learns."""

    room: int
    threads: int
    learning: bool
    paired: bool = True  # bfloat16 numbers, which are multiplied in pairs; else float32
    packed: object = None  # what the weights in it were packed from; the caller's
    biases: Sequence[Numbers] = ()  # beside them
    network: CNetwork = field(default_factory=CNetwork)
    kept: list[object] = field(default_factory=list)  # what the network points to

    def keep(self, array: npt.NDArray[Any]) -> int:
        """Where an array lies, which lives as long as this."""
        self.kept.append(array)
        return int(array.ctypes.data)

    def pack(self, weights: Sequence[Numbers], biases: Sequence[Numbers]) -> None:
        """Take weights, in the order in which they are multiplied, and biases."""
        self.biases = biases
        self.call("pack", addresses(weights), self.learning)

    def forward(
        self, pictures: Numbers, count: int, logits: Numbers, errors: Numbers | None = None, kind: str = ""
    ) -> None:
        """Pictures (count, height, width, channels) to logits of the same shape.

        With room for errors, to reconstructions and their errors (count, height, width): the mean of the channels, of
        the kind "l1" or "mse".
        """
        made = address(logits), None if errors is None else address(errors), ERRORS[kind]
        self.call("forward", addresses(self.biases), address(pictures), count, *made, self.learning, self.room)

    def backward(self, slopes: Numbers, count: int, weights: Sequence[Numbers], biases: Sequence[Numbers]) -> None:
        """Gradients of those logits to those of all weights and biases."""
        self.call("backward", address(slopes), count, addresses(weights), addresses(biases))

    def call(self, name: str, *arguments: object) -> None:
        """Call a kernel; others' Python code goes on meanwhile."""
        kernels = library()
        assert kernels is not None  # noqa: S101 - whoever made this saw to it
        kernels[f"network_{name}"](ctypes.byref(self.network), *arguments, self.threads)

    def zeros(self, *shape: int, dtype: type[np.generic] | None = None) -> int:
        """Where new zeros lie, of the network's numbers or of another kind; bfloat16 as their bits."""
        return self.keep(np.zeros(shape, dtype or (np.uint16 if self.paired else np.float32)))


def address(numbers: Numbers) -> ctypes.c_void_p:
    """A pointer."""
    return POINTER(numbers.data_ptr())


def addresses(several: Sequence[Numbers]) -> ctypes.Array[ctypes.c_void_p]:
    """An array of pointers."""
    return (POINTER * len(several))(*(numbers.data_ptr() for numbers in several))


def padded(count: int) -> int:
    """The next multiple of `LANES`."""
    return -(-count // LANES) * LANES


def allocated(
    shapes: Sequence[Shape],
    size: tuple[int, int, int],
    windows: plans.Table,
    corners: plans.Table,
    room: int,
    threads: int,
    *,
    learning: bool,
    paired: bool,
) -> Memory:
    """Memory for pictures of `size` (height, width, channels).

    `windows` (places of the first layer, 3) says where rows of what each place sees begin in a picture with a border;
    `corners` (places of the last layer, 2) where its four pixels begin in a picture, and the bits of those of their
    channels that lie inside.
    """
    memory = Memory(room + room % 2, threads, learning, paired)
    height, width, channels = size
    layers = (CLayer * len(shapes))(*(layer(memory, shape) for shape in shapes))
    scratch = max(scratch_size(shape, memory) for shape in shapes) if learning else 1
    border = (height + 2) * (width + 2) * channels + LANES
    memory.network = CNetwork(
        len(shapes), height, width, channels, paired,
        memory.keep(np.ascontiguousarray(windows, dtype=np.int32)),
        memory.keep(np.ascontiguousarray(corners, dtype=np.int32)),
        memory.zeros(threads, border), border, scratch, memory.zeros(threads, scratch, dtype=np.uint32),
        ctypes.addressof(layers),
    )  # fmt: skip
    memory.kept.append(layers)
    return memory


def layer(memory: Memory, shape: Shape) -> CLayer:
    """A layer with its plans and its memory."""
    places_out, sets = shape.table.shape
    c, n = padded(shape.c), padded(shape.n)
    made = CLayer(
        shape.places_in, places_out, c, n, shape.c, shape.n, sets,
        shape.relu, shape.pool, shape.own_biases, shape.dense, *shape.strides,
    )  # fmt: skip
    made.forward = plan(memory, shape.forward)
    made.forward_weights = memory.zeros(sets, c, n)
    made.input = memory.zeros(memory.room, shape.places_in + 1, c)
    made.largest = memory.zeros(memory.room, places_out // 4, n, dtype=np.uint8) if shape.pool else None
    if memory.learning:
        made.backward = plan(memory, shape.backward)
        made.backward_weights = memory.zeros(sets, c, n)
        made.gradient = memory.zeros(memory.room, places_out + 1, n)
        if not shape.dense:
            made.weight_sums = memory.zeros(memory.threads, sets, c, n, dtype=np.float32)
            made.bias_sums = memory.zeros(memory.threads, n, dtype=np.float32)
    return made


def plan(memory: Memory, arrays: Sequence[npt.NDArray[np.int32]]) -> CPlan:
    """A plan of these arrays."""
    return CPlan(len(arrays[0]) - 1, *(memory.keep(array) for array in arrays))


def scratch_size(shape: Shape, memory: Memory) -> int:
    """Numbers that a thread needs while a layer's gradients are summed: for at least one couple of pictures."""
    if shape.dense:
        return CHUNK * (padded(shape.c) + padded(shape.n))
    places_out = len(shape.table)
    one = (shape.places_in + 1) * padded(shape.c) + (places_out + 1) * padded(shape.n)
    fewest = max(1, int((shape.table >= 0).sum(axis=0).min()))  # places that a set of weights meets
    couples = min(-(-CHUNK // fewest), -(-memory.room // 2 // memory.threads))
    return one * max(1, couples)
