"""The structures and constants of `network.c`, for ctypes."""

from __future__ import annotations

import ctypes
from typing import ClassVar

LANES = 16  # float32 numbers in a register: channels are padded to a multiple of it
ROWS = 8  # output places that are multiplied at once
CHUNK = 64  # products that are summed in registers before the sums are stored

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


LAYOUT = [LANES, ROWS, CHUNK, *(ctypes.sizeof(structure) for structure in (CPlan, CLayer, CNetwork))]
