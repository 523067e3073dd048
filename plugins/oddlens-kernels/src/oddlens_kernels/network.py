"""The memory that a network's layers need, and the calls of the kernels that work on it."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from oddlens_kernels import plans
from oddlens_kernels.library import library
from oddlens_kernels.structures import CHUNK, INT64, LANES, POINTER, CLayer, CNetwork, CPlan

ERROR_KINDS = {"": 0, "l1": 1, "mse": 2}  # the enum of network.c


class TensorLike(Protocol):
    """A float32 array without gaps, such as a tensor."""

    def data_ptr(self) -> int:
        """Address of the first number."""

    def stride(self) -> tuple[int, ...]:
        """Steps along its axes."""

    @property
    def nbytes(self) -> int:
        """Size of all numbers in bytes."""


@dataclass(frozen=True)
class LayerShape:
    """Shape of a layer, as the kernels need it.

    A place is a position of a feature map; a set of weights is a (c, n) matrix that maps one input place to an output.
    """

    table: plans.Table  # (output places, sets of weights), see plans.py
    places_in: int
    c: int  # channels of an input place
    n: int  # channels of an output place
    strides: tuple[int, int, int]  # of the weights along sets, c and n; that of c or n is 1
    relu: bool = False
    pool: bool = False  # whether 2x2 max-pooling follows
    bias_per_place: bool = False  # whether each output place has its own biases; in dense layers

    @functools.cached_property
    def dense(self) -> bool:
        """Whether each set of weights is used by one output place only."""
        return bool(((self.table >= 0).sum(axis=0) == 1).all())

    @functools.cached_property
    def forward(self) -> list[npt.NDArray[np.int32]]:
        """Plan of the forward pass."""
        return plans.build_plan(self.table, self.places_in, padded_to_lanes(self.c), single_phase=self.pool)

    @functools.cached_property
    def backward(self) -> list[npt.NDArray[np.int32]]:
        """Plan of the gradient of the input."""
        return plans.build_plan(plans.reverse(self.table, self.places_in), len(self.table), padded_to_lanes(self.n))

    @property
    def bytes(self) -> int:
        """Size of the input of one image in bfloat16."""
        return 2 * (self.places_in + 1) * padded_to_lanes(self.c)


@dataclass(eq=False)
class Memory:
    """A network and its buffers for up to `capacity` images; with gradients, and always in bfloat16, for training."""

    capacity: int
    threads: int
    training: bool
    bf16: bool = True  # whether numbers are bfloat16, multiplied in pairs; otherwise float32
    packed: Sequence[TensorLike] = ()  # copies of the parameters as they were when they were packed; set by the caller
    biases: Sequence[TensorLike] = ()
    network: CNetwork = field(default_factory=CNetwork)
    references: list[object] = field(default_factory=list)  # keeps alive what the network points to

    def add_array(self, array: npt.NDArray[Any]) -> int:
        """Keep an array alive as long as this object; gives its address."""
        self.references.append(array)
        return int(array.ctypes.data)

    def pack(self, weights: Sequence[TensorLike], biases: Sequence[TensorLike]) -> None:
        """Pack weights into the order in which the kernels multiply them, and keep the biases."""
        self.biases = biases
        self.call("pack", addresses(weights), self.training)

    def forward(
        self, images: TensorLike, count: int, logits: TensorLike, errors: TensorLike | None = None, kind: str = ""
    ) -> None:
        """Compute logits of images (count, height, width, channels), into an array of the same shape.

        With `errors` (count, height, width), that array gets reconstructions instead, and `errors` their errors of
        kind "l1" or "mse", averaged over the channels.
        """
        outputs = address(logits), None if errors is None else address(errors), ERROR_KINDS[kind]
        self.call("forward", addresses(self.biases), address(images), count, *outputs, self.training, self.capacity)

    def backward(
        self, logit_gradients: TensorLike, count: int, weights: Sequence[TensorLike], biases: Sequence[TensorLike]
    ) -> None:
        """Compute the gradients of all weights and biases from those of the logits."""
        self.call("backward", address(logit_gradients), count, addresses(weights), addresses(biases))

    def has_packed(self, parameters: Sequence[TensorLike]) -> bool:
        """Whether these parameters equal the copies in `packed` bit by bit.

        Parameters with gaps count as unequal, since copies have none.
        """
        if [parameter.stride() for parameter in parameters] != [copy.stride() for copy in self.packed]:
            return False
        sizes = (INT64 * len(parameters))(*(parameter.nbytes for parameter in parameters))
        return bool(self.call("same", addresses(parameters), addresses(self.packed), sizes))

    def call(self, name: str, *arguments: object) -> int:
        """Call a kernel without the interpreter lock."""
        return int(library()[f"network_{name}"](ctypes.byref(self.network), *arguments, self.threads))

    def zeros(self, *shape: int, dtype: type[np.generic] | None = None) -> int:
        """Address of a new array of zeros, by default in the precision of the network (bfloat16 as uint16)."""
        return self.add_array(np.zeros(shape, dtype or (np.uint16 if self.bf16 else np.float32)))


def address(tensor: TensorLike) -> ctypes.c_void_p:
    """Pointer to the data of a tensor."""
    return POINTER(tensor.data_ptr())


def addresses(tensors: Sequence[TensorLike]) -> ctypes.Array[ctypes.c_void_p]:
    """C array of pointers to the data of tensors."""
    return (POINTER * len(tensors))(*(tensor.data_ptr() for tensor in tensors))


def padded_to_lanes(count: int) -> int:
    """Round up to a multiple of `LANES`."""
    return -(-count // LANES) * LANES


def allocate(
    shapes: Sequence[LayerShape],
    size: tuple[int, int, int],
    windows: plans.Table,
    corners: plans.Table,
    capacity: int,
    threads: int,
    *,
    training: bool,
    bf16: bool,
) -> Memory:
    """Allocate memory for images of `size` (height, width, channels).

    `windows` (places of the first layer, 3) are the offsets of the rows of each place's 3x3 window in a padded image.
    `corners` (places of the last layer, 2) are the offset of each place's four pixels in an image, and a bit mask of
    those of their channels that lie inside it.
    """
    memory = Memory(capacity + capacity % 2, threads, training, bf16)
    height, width, channels = size
    layers = (CLayer * len(shapes))(*(layer_struct(memory, shape) for shape in shapes))
    scratch = max(scratch_size(shape, memory) for shape in shapes) if training else 1
    border = (height + 2) * (width + 2) * channels + LANES
    memory.network = CNetwork(
        len(shapes), height, width, channels, bf16,
        memory.add_array(np.ascontiguousarray(windows, dtype=np.int32)),
        memory.add_array(np.ascontiguousarray(corners, dtype=np.int32)),
        memory.zeros(threads, border), border, scratch, memory.zeros(threads, scratch, dtype=np.uint32),
        ctypes.addressof(layers),
    )  # fmt: skip
    memory.references.append(layers)
    return memory


def layer_struct(memory: Memory, shape: LayerShape) -> CLayer:
    """`CLayer` with its plans and buffers."""
    places_out, sets = shape.table.shape
    c, n = padded_to_lanes(shape.c), padded_to_lanes(shape.n)
    struct = CLayer(
        shape.places_in, places_out, c, n, shape.c, shape.n, sets,
        shape.relu, shape.pool, shape.bias_per_place, shape.dense, *shape.strides,
    )  # fmt: skip
    struct.forward = plan_struct(memory, shape.forward)
    struct.forward_weights = memory.zeros(sets, c, n)
    struct.input = memory.zeros(memory.capacity, shape.places_in + 1, c)
    struct.largest = memory.zeros(memory.capacity, places_out // 4, n, dtype=np.uint8) if shape.pool else None
    if memory.training:
        struct.backward = plan_struct(memory, shape.backward)
        struct.backward_weights = memory.zeros(sets, c, n)
        struct.gradient = memory.zeros(memory.capacity, places_out + 1, n)
        if not shape.dense:
            struct.weight_sums = memory.zeros(memory.threads, sets, c, n, dtype=np.float32)
            struct.bias_sums = memory.zeros(memory.threads, n, dtype=np.float32)
    return struct


def plan_struct(memory: Memory, arrays: Sequence[npt.NDArray[np.int32]]) -> CPlan:
    """`CPlan` of the arrays that `plans.build_plan` gives."""
    return CPlan(len(arrays[0]) - 1, *(memory.add_array(array) for array in arrays))


def scratch_size(shape: LayerShape, memory: Memory) -> int:
    """Number of 32-bit words that a thread needs to sum a layer's gradients, for at least one pair of images."""
    if shape.dense:
        return CHUNK * (padded_to_lanes(shape.c) + padded_to_lanes(shape.n))
    places_out = len(shape.table)
    pair_size = (shape.places_in + 1) * padded_to_lanes(shape.c) + (places_out + 1) * padded_to_lanes(shape.n)
    min_places = max(1, int((shape.table >= 0).sum(axis=0).min()))  # that use the same set of weights
    n_pairs = min(-(-CHUNK // min_places), -(-memory.capacity // 2 // memory.threads))
    return pair_size * max(1, n_pairs)
