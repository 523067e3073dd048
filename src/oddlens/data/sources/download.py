"""Downloading published files: checked, in one piece, and never waiting for ever."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path
from threading import Thread
from typing import Any

from oddlens.errors import DataError, DataNotFoundError, MissingExtraError

STALL_SECONDS = 30.0  # without a byte, after which a download is given up
CHUNK_BYTES = 2**14

DownloadProgress = Callable[[str, int, int | None], None]  # file name, bytes so far, bytes in all if known


def fetch(
    url: str,
    md5: str,
    folder: Path,
    progress: DownloadProgress | None = None,
    stall_seconds: float = STALL_SECONDS,
) -> Path:
    """Download one file into `folder`; it appears there only when it is complete and its MD5 sum is right.

    `progress` is called from another thread as bytes arrive, and at the end with as many bytes as there are in all.

    Raises:
        DataNotFoundError: no connection, or no byte for `stall_seconds`.
        DataError: the file is not the one that was published, or cannot be written.
        MissingExtraError: pooch is not installed.
    """
    pooch = import_pooch(f"downloading {url}")
    import requests

    name = Path(url).name
    last_byte = time.monotonic()
    result: Future[str] = Future()

    def download(url: str, path: str, _: object) -> None:
        nonlocal last_byte
        with requests.get(url, stream=True, timeout=stall_seconds) as response, Path(path).open("wb") as file:
            response.raise_for_status()
            total, done = int(response.headers.get("content-length", 0)) or None, 0
            for chunk in response.iter_content(CHUNK_BYTES):
                file.write(chunk)
                last_byte, done = time.monotonic(), done + len(chunk)
                if progress:
                    progress(name, done, total)
            if progress and done != total:  # of unknown or wrong length
                progress(name, done, done)

    def work() -> None:
        try:
            result.set_result(pooch.retrieve(url, f"md5:{md5}", name, folder, downloader=download))
        except BaseException as error:
            result.set_exception(error)

    # A thread, because socket timeouts cover neither name resolution nor addresses that are tried one after another.
    Thread(target=work, daemon=True).start()
    try:
        while not wait([result], timeout=stall_seconds / 10).done:
            if time.monotonic() - last_byte > stall_seconds:
                raise DataNotFoundError(f"{url} sent nothing for {stall_seconds:g} seconds")
        return Path(result.result())
    except requests.RequestException as error:
        raise DataNotFoundError(f"{url} cannot be downloaded ({innermost_reason(error)})") from error
    except ValueError as error:
        raise DataError(f"{url}: is not the published file (its MD5 sum is not {md5}); try another mirror") from error
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())
        raise DataError(f"{folder}: cannot be written to ({reason}); name another folder with --data") from error


def innermost_reason(error: BaseException) -> str:
    """The reason at the bottom of a chain of exceptions, in a few words; libraries wrap it three deep."""
    while error.__context__ is not None:
        error = error.__context__
    return " ".join(str(error).split())[:120] or type(error).__name__


def import_pooch(feature: str) -> Any:
    """The package pooch, silenced.

    Raises:
        MissingExtraError: `feature` needs it and it is not installed.
    """
    try:
        import pooch
    except ImportError as error:
        raise MissingExtraError(feature, "train") from error
    pooch.get_logger().setLevel("WARNING")
    return pooch
