"""What `network.c` works on: its structures, and the memory that a network's layers need."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from oddlens.kernels import library, plans

LANES = 16  # numbers in a register: channels are padded to a multiple of it
SUMMED = 64
CHUNK = 64

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
        *((name, INT32) for name in ("layers", "height", "width", "channels")),
        *((name, POINTER) for name in ("windows", "corners", "padded")),
        *((name, INT64) for name in ("padded_size", "scratch_size")),
        *((name, POINTER) for name in ("scratch", "layer")),
    ]


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

    @property
    def dense(self) -> bool:
        """Whether each set of weights is used by one place alone."""
        return bool(((self.table >= 0).sum(axis=0) == 1).all())


@dataclass
class Memory:
    """A network, with room for some pictures at once, and for gradients if it learns."""

    room: int
    threads: int
    learning: bool
    network: CNetwork = field(default_factory=CNetwork)
    arrays: list[npt.NDArray[Any]] = field(default_factory=list)  # what the network points to

    def keep(self, array: npt.NDArray[Any]) -> int:
        """Where an array lies, which lives as long as this."""
        self.arrays.append(array)
        return int(array.ctypes.data)

    def pack(self, weights: Sequence[int]) -> None:
        """Take the weights, by their addresses, in the order in which they are multiplied."""
        self.call("pack", addresses(weights), self.learning)

    def forward(self, biases: Sequence[int], pictures: int, count: int, logits: int) -> None:
        """Pictures (count, height, width, channels) to logits of the same shape, float32, by their addresses."""
        self.call("forward", addresses(biases), POINTER(pictures), count, POINTER(logits))

    def backward(self, slopes: int, count: int, weights: Sequence[int], biases: Sequence[int]) -> None:
        """Gradients of those logits to those of all weights and biases, by their addresses."""
        self.call("backward", POINTER(slopes), count, addresses(weights), addresses(biases))

    def call(self, name: str, *arguments: object) -> None:
        """Call a kernel; others' Python code goes on meanwhile."""
        kernels = library()
        assert kernels is not None  # noqa: S101 - whoever made this saw to it
        kernels[f"network_{name}"](ctypes.byref(self.network), *arguments, self.threads)

    def zeros(self, *shape: int, dtype: type[np.generic] = np.uint16) -> int:
        """Where new zeros lie; bfloat16 numbers as their bits."""
        return self.keep(np.zeros(shape, dtype))


def addresses(numbers: Sequence[int]) -> ctypes.Array[ctypes.c_void_p]:
    """An array of pointers."""
    return (POINTER * len(numbers))(*numbers)


def padded(count: int) -> int:
    """The next multiple of `LANES`."""
    return -(-count // LANES) * LANES


def allocated(
    shapes: Sequence[Shape], size: tuple[int, int, int], windows: plans.Table, room: int, threads: int, *, learning: bool
) -> Memory:
    """Memory for pictures of `size` (height, width, channels).

    `windows` (places of the first layer, 3) says where the rows of what each place sees begin in a picture with a border.
    """
    memory = Memory(room + room % 2, threads, learning)
    height, width, channels = size
    layers = (CLayer * len(shapes))(*(layer(memory, shape) for shape in shapes))
    scratch = max(scratch_size(shape, memory) for shape in shapes) if learning else 1
    rows, columns = plans.places(height // 2, width // 2)
    border = (height + 2) * (width + 2) * channels + LANES
    memory.network = CNetwork(
        len(shapes), height, width, channels,
        memory.keep(np.ascontiguousarray(windows, dtype=np.int32)),
        memory.keep(np.ascontiguousarray(2 * channels * (rows * width + columns), dtype=np.int32)),
        memory.zeros(threads, border), border, scratch, memory.zeros(threads, scratch, dtype=np.uint32),
        ctypes.addressof(layers),
    )  # fmt: skip
    memory.arrays.append(np.frombuffer(layers, dtype=np.uint8))
    return memory


def layer(memory: Memory, shape: Shape) -> CLayer:
    """A layer with its plans and its memory."""
    places_out, sets = shape.table.shape
    c, n = padded(shape.c), padded(shape.n)
    made = CLayer(
        shape.places_in, places_out, c, n, shape.c, shape.n, sets,
        shape.relu, shape.pool, shape.own_biases, shape.dense, *shape.strides,
    )  # fmt: skip
    made.forward = plan(memory, plans.plan(shape.table, shape.places_in))
    made.forward_weights = memory.zeros(sets, c, n)
    made.input = memory.zeros(memory.room, shape.places_in + 1, c)
    made.largest = memory.zeros(memory.room, places_out // 4, n, dtype=np.uint8) if shape.pool else None
    if memory.learning:
        made.backward = plan(memory, plans.plan(plans.reverse(shape.table, shape.places_in), places_out))
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
    couples = min(-(-SUMMED // fewest), -(-memory.room // 2 // memory.threads))
    return one * max(1, couples)
