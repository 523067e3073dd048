"""Optional C kernels for an autoencoder's forward and backward pass (`network.c`), built by the machine's C compiler.

Nothing else in oddlens needs a compiler. The library is cached in the user's cache folder, under a digest of what it is
built from. The environment variable `ODDLENS_KERNELS` is read at first use: `off` builds and loads nothing, `on` also
uses the kernels on processors with a matrix unit (AMX), where they have not been measured.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

SOURCE = Path(__file__).with_name("network.c")
CPU_FEATURES = ("fma", "avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512bf16")  # of x86-64 that the kernels need
CHUNK = 64  # products that are summed in registers before the sums are stored
FLAGS = ("-O3", *(f"-m{name}" for name in CPU_FEATURES), f"-DCHUNK={CHUNK}", "-fopenmp", "-fPIC", "-shared")
ENVIRONMENT_VARIABLE = "ODDLENS_KERNELS"
COMPILER_TIMEOUT = 60.0  # seconds; compiling usually takes one or two
BUILD_LOCK = threading.Lock()


def is_supported() -> bool:
    """Whether the processor has bfloat16 products, and no matrix unit (AMX) unless `ODDLENS_KERNELS=on` allows it."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    flags = Path("/proc/cpuinfo").read_text().split()
    return "avx512_bf16" in flags and ("amx_tile" not in flags or os.environ.get(ENVIRONMENT_VARIABLE) == "on")


def build_in_background() -> None:
    """Start building the kernels in a thread, unless they are cached already.

    The process waits for the thread before it exits, so that no incomplete file is left behind.
    """
    threading.Thread(target=library_path).start()


@functools.cache
def library() -> ctypes.CDLL | None:
    """Load the kernels; None if they are switched off, not supported here, or cannot be built or loaded."""
    shared_object = library_path()
    try:
        return ctypes.CDLL(str(shared_object)) if shared_object else None
    except OSError:
        return None


@functools.cache
def library_path() -> Path | None:
    """Path of the library, built if needed; None if it is switched off, not supported here, or cannot be built."""
    compiler = shutil.which("cc")
    if compiler is None or os.environ.get(ENVIRONMENT_VARIABLE) == "off":
        return None
    try:
        with BUILD_LOCK:  # a thread that comes while another builds waits for the result
            return build(compiler, cache_folder()) if is_supported() else None
    except (OSError, RuntimeError, subprocess.SubprocessError):  # RuntimeError: there is no home folder
        return None


def cache_folder() -> Path:
    """Folder in which built kernels are cached."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "oddlens" / "kernels"


def build(compiler: str, folder: Path) -> Path:
    """Build the library in `folder` unless it is there already; gives its path.

    Raises:
        OSError: the folder cannot be written, or other users can write to it or to the library.
        subprocess.SubprocessError: the compiler fails.
    """
    inputs = [SOURCE.read_text(), *FLAGS, compiler, str(Path(compiler).resolve())]
    name = hashlib.blake2b("\n".join(inputs).encode(), digest_size=16).hexdigest()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    target = folder / f"network-{name}.so"
    for checked in (folder, target):  # never run what other users could have written
        if checked.exists() and (checked.stat().st_uid != os.geteuid() or checked.stat().st_mode & 0o022):
            raise PermissionError(f"{checked} can be written by others: chmod go-w it, or delete it")
    if target.exists():
        return target
    handle, temporary = tempfile.mkstemp(suffix=".so", dir=folder)
    os.close(handle)
    try:
        command: list[str | Path] = [compiler, *FLAGS, "-o", temporary, SOURCE]
        subprocess.run(command, check=True, capture_output=True, timeout=COMPILER_TIMEOUT)  # noqa: S603
        # Complete on disk before it gets its name: loading half a library crashes.
        with Path(temporary).open("rb") as file:
            os.fsync(file.fileno())
        Path(temporary).chmod(0o600)
        Path(temporary).replace(target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            Path(temporary).unlink()
    return target
