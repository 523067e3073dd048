"""The memory of the kernels; what they compute is tested in test_autoencoder.py."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from oddlens_kernels import network, plans
from oddlens_kernels.network import LayerShape, Memory
from oddlens_kernels.structures import CHUNK, LANES

DENSE = LayerShape(plans.dense_from_places(4), 4, 20, 5, (5, 20, 1))
CONVOLUTION = LayerShape(plans.strided_convolution(4, 4, 1), 16, 16, 32, (16, 1, 144))


@pytest.mark.parametrize(("count", "padded"), [(0, 0), (1, 16), (16, 16), (17, 32)])
def test_channels_are_padded_to_whole_registers(count: int, padded: int) -> None:
    assert network.padded_to_lanes(count) == padded


def test_a_layer_is_dense_if_no_two_places_share_weights() -> None:
    assert DENSE.dense
    assert LayerShape(plans.dense_to_places(4), 1, 16, 16, (16, 1, 64)).dense
    assert not CONVOLUTION.dense


def test_the_input_of_an_image_has_a_border_place_and_padded_channels() -> None:
    assert DENSE.bytes == 2 * (4 + 1) * 32
    assert CONVOLUTION.bytes == 2 * (16 + 1) * 16


def test_allocated_arrays_live_as_long_as_the_memory() -> None:
    memory = Memory(capacity=2, threads=1, training=False)
    array = np.arange(5, dtype=np.int32)
    address = memory.add_array(array)
    assert any(reference is array for reference in memory.references)
    assert (ctypes.c_int32 * 5).from_address(address)[:] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("bf16", "dtype"), [(True, np.uint16), (False, np.float32)])
def test_buffers_have_the_precision_of_the_network(bf16: bool, dtype: type[np.generic]) -> None:
    memory = Memory(capacity=2, threads=1, training=False, bf16=bf16)
    memory.zeros(3, 4)
    (buffer,) = memory.references
    assert isinstance(buffer, np.ndarray)
    assert (buffer.dtype, buffer.shape) == (dtype, (3, 4))
    assert not buffer.any()


def test_capacity_is_rounded_up_to_pairs_of_images() -> None:
    memory = network.allocate(
        [DENSE], (2, 2, 1), np.zeros((4, 3), dtype=np.int64), np.zeros((9, 2), dtype=np.int64), 3, 1,
        training=True, bf16=True,
    )  # fmt: skip
    assert memory.capacity == 4
    assert memory.network.scratch_size == network.scratch_size(DENSE, memory) == CHUNK * (32 + LANES)


def test_a_convolution_sums_gradients_over_as_many_pairs_as_fill_a_chunk() -> None:
    per_pair = (16 + 1) * 16 + (16 + 1) * 32
    memory = Memory(capacity=1000, threads=2, training=True)
    places = int((CONVOLUTION.table >= 0).sum(axis=0).min())  # of the corner taps
    assert places == 9
    assert network.scratch_size(CONVOLUTION, memory) == per_pair * -(-CHUNK // places)
    assert network.scratch_size(CONVOLUTION, Memory(capacity=2, threads=2, training=True)) == per_pair
