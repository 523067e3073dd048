"""The environment of this process: variables that libraries read once, and the processor."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")  # of Linux


@contextmanager
def default_variable(name: str, value: str) -> Iterator[None]:
    """Set an environment variable inside the block, unless the user has set it."""
    if name in os.environ:
        yield
        return
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]


@cache
def processor_name() -> str:
    """Kind and number of cores of this machine's processor; where they are the same, scores have the same bits."""
    text = CPU_INFO.read_text(encoding="utf-8").partition("\n\n")[0] if CPU_INFO.exists() else ""
    lines = dict(re.findall(r"(model name|cpu family|model)\s*: (.+)", text))  # virtual machines name only the brand
    name = lines.get("model name") or platform.processor() or platform.machine()
    family = f" (family {lines['cpu family']} model {lines['model']})" if "cpu family" in lines else ""
    return f"{name}{family}, {os.cpu_count()} cores"
