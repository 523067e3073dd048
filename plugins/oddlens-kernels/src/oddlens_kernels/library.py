"""The library that `network.c` is built into, and whether this machine uses it."""

from __future__ import annotations

import ctypes
import functools
import os
from pathlib import Path

from oddlens.errors import PluginError, SettingsError
from oddlens_kernels.structures import INT32, LAYOUT

PATH = Path(__file__).with_name("libkernels.so")
ENVIRONMENT_VARIABLE = "ODDLENS_KERNELS"
SUPPORTED, MATRIX_UNIT = 1, 2  # what `kernels_processor` gives, beside 0


@functools.cache
def library() -> ctypes.CDLL:
    """Load the library, which any x86-64 processor can do.

    Raises:
        PluginError: it is not there, is not a library, or is of another version than its Python modules.
    """
    try:
        kernels = ctypes.CDLL(str(PATH))
        layout = list((INT32 * len(LAYOUT)).in_dll(kernels, "network_layout"))
    except (OSError, ValueError) as error:  # ValueError: it has no such constant
        raise PluginError(f"the kernels cannot be loaded ({error}): install oddlens-kernels again") from error
    if layout != LAYOUT:
        raise PluginError(f"{PATH} and its Python modules are of different versions: install oddlens-kernels again")
    return kernels


def processor() -> int:
    """`SUPPORTED` where the processor and its system can run the kernels, `MATRIX_UNIT` beside AMX, 0 elsewhere."""
    return int(library().kernels_processor())


def why_unused() -> str | None:
    """Why the kernels are not used; None where they are.

    Raises:
        SettingsError: the environment variable is neither `on` nor `off`.
        PluginError: the library cannot be loaded.
    """
    switch = os.environ.get(ENVIRONMENT_VARIABLE, "")
    if switch not in ("", "on", "off"):
        raise SettingsError(f"{ENVIRONMENT_VARIABLE} is {switch!r}: set it to on or off, or unset it")
    if switch == "off":
        return f"{ENVIRONMENT_VARIABLE} is off"
    kind = processor()
    if kind == MATRIX_UNIT and switch != "on":
        return (
            "this processor has a matrix unit (AMX), beside which the kernels have not been measured; "
            f"{ENVIRONMENT_VARIABLE}=on uses them"
        )
    return None if kind else "this processor does not multiply bfloat16 numbers (AVX-512 BF16)"
