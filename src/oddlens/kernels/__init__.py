"""A network's steps in C (`network.c`), built by the C compiler of the machine where there is one.

Nothing else of oddlens needs a compiler. What is built is kept in the user's cache folder, under a name that says from
what it was made. `ODDLENS_KERNELS` in the environment says at first use whether they are wanted: `off` builds and
loads nothing, `on` takes them on processors with a matrix unit (AMX), too, where they were not measured.
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
EXTENSIONS = ("fma", "avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512bf16")  # of x86-64, that the kernels use
CHUNK = 64  # products that are summed before the sums leave their registers
FLAGS = ("-O3", *(f"-m{name}" for name in EXTENSIONS), f"-DCHUNK={CHUNK}", "-fopenmp", "-fPIC", "-shared")
SWITCH = "ODDLENS_KERNELS"
COMPILER_TIMEOUT = 60.0  # seconds that the compiler may take; it usually needs one or two
LOCK = threading.Lock()


def is_supported() -> bool:
    """Whether the processor multiplies bfloat16, and has no matrix unit (AMX), or the user wants them all the same."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    words = Path("/proc/cpuinfo").read_text().split()
    return "avx512_bf16" in words and ("amx_tile" not in words or os.environ.get(SWITCH) == "on")


def build_in_background() -> None:
    """Build them in the background, if that is still to be done, while something else is being prepared.

    A process that ends meanwhile waits for it, so that nothing half made is left behind.
    """
    threading.Thread(target=path).start()


@functools.cache
def library() -> ctypes.CDLL | None:
    """The kernels; None where they are switched off, not made for this machine, or cannot be built or loaded."""
    built_at = path()
    try:
        return ctypes.CDLL(str(built_at)) if built_at else None
    except OSError:
        return None


@functools.cache
def path() -> Path | None:
    """Where they are, built if need be; None where they are not for this machine."""
    compiler = shutil.which("cc")
    if compiler is None or os.environ.get(SWITCH) == "off":
        return None
    try:
        with LOCK:  # whoever comes while another thread builds waits, and finds them
            return built(compiler, cache_folder()) if is_supported() else None
    except (OSError, RuntimeError, subprocess.SubprocessError):  # RuntimeError: there is no home folder
        return None


def cache_folder() -> Path:
    """Where built kernels are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "oddlens" / "kernels"


def built(compiler: str, folder: Path) -> Path:
    """The library of kernels in `folder`, built if need be.

    Raises:
        OSError: the folder cannot be written, or is another user's.
        subprocess.SubprocessError: the compiler fails.
    """
    made_from = [SOURCE.read_text(), *FLAGS, compiler, str(Path(compiler).resolve())]
    name = hashlib.blake2b("\n".join(made_from).encode(), digest_size=16).hexdigest()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    target = folder / f"network-{name}.so"
    for each in (folder, target):  # what others could have written is not run
        if each.exists() and (each.stat().st_uid != os.geteuid() or each.stat().st_mode & 0o022):
            raise PermissionError(f"{each} can be written by others")
    if target.exists():
        return target
    handle, made = tempfile.mkstemp(suffix=".so", dir=folder)
    os.close(handle)
    try:
        command: list[str | Path] = [compiler, *FLAGS, "-o", made, SOURCE]
        subprocess.run(command, check=True, capture_output=True, timeout=COMPILER_TIMEOUT)  # noqa: S603
        with Path(made).open("rb") as file:  # whole on the disk before it has its name: half a library ends the process
            os.fsync(file.fileno())
        Path(made).chmod(0o600)
        Path(made).replace(target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            Path(made).unlink()
    return target
