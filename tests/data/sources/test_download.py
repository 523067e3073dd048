"""Files are downloaded completely and verified, or not at all."""

from __future__ import annotations

import hashlib
import socket
from pathlib import Path

import pytest

from oddlens.data.sources.download import fetch
from oddlens.errors import DataError, DataNotFoundError

pytestmark = pytest.mark.usefixtures("no_data_elsewhere")


def test_a_file_appears_only_if_it_is_complete_and_has_the_published_checksum(
    tmp_path: Path, mirror: tuple[Path, str]
) -> None:
    served, address = mirror
    (served / "a.gz").write_bytes(b"hello")
    path = fetch(f"{address}/a.gz", hashlib.md5(b"hello").hexdigest(), tmp_path / "data")
    assert path == tmp_path / "data/a.gz"
    assert path.read_bytes() == b"hello"
    path.unlink()
    with pytest.raises(DataError, match=r"is not the published file \(its MD5 sum is not 0000"):
        fetch(f"{address}/a.gz", "0" * 32, tmp_path / "data")
    with pytest.raises(DataNotFoundError, match="cannot be downloaded"):
        fetch(f"{address}/cut/a.gz", "0" * 32, tmp_path / "data")
    with pytest.raises(
        DataNotFoundError,
        match=r"cannot be downloaded \(404 .*not found",
    ):
        fetch(f"{address}/b.gz", "0" * 32, tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []


def test_progress_ends_with_all_bytes(tmp_path: Path, mirror: tuple[Path, str]) -> None:
    steps: list[tuple[str, int, int | None]] = []
    content = bytes(50_000)
    (mirror[0] / "a.gz").write_bytes(content)
    fetch(f"{mirror[1]}/a.gz", hashlib.md5(content).hexdigest(), tmp_path, lambda *step: steps.append(step))
    assert [done for _, done, _ in steps] == sorted(done for _, done, _ in steps)
    assert steps[-1] == ("a.gz", 50_000, 50_000)
    assert len(steps) > 1


def test_a_download_from_a_silent_server_times_out(tmp_path: Path) -> None:
    silent = socket.create_server(("127.0.0.1", 0))
    with silent, pytest.raises(DataNotFoundError, match=r"http://127\.0\.0\.1:\d+/a\.gz "):
        fetch(f"http://127.0.0.1:{silent.getsockname()[1]}/a.gz", "0" * 32, tmp_path, stall_seconds=0.2)
    assert not any(tmp_path.glob("*.gz"))


def test_invalid_urls_and_folders_are_reported(tmp_path: Path, mirror: tuple[Path, str]) -> None:
    with pytest.raises(DataNotFoundError, match="cannot be downloaded"):
        fetch("mirror.example/a.gz", "0" * 32, tmp_path)
    (mirror[0] / "a.gz").write_bytes(b"hello")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="cannot be written to"):
        fetch(f"{mirror[1]}/a.gz", hashlib.md5(b"hello").hexdigest(), tmp_path / "file")
