"""The environment of this process: variables that libraries read once, and the processor."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager
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


def processor_name() -> str:
    """Model and number of cores of this machine's processor: where they are the same, scores have the same bits."""
    names = re.findall(r"model name\s*: (.+)", CPU_INFO.read_text(encoding="utf-8")) if CPU_INFO.exists() else []
    return f"{names[0].strip() if names else platform.processor() or platform.machine()}, {os.cpu_count()} cores"
