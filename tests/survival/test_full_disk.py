"""On a full disk a save fails with an error that says so, and the old file stays as it was."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from killed_saves import kinds
from small_disk import fill, small_disk

from oddlens.errors import DiskFullError
from oddlens.io.journal import open_journal
from oddlens.io.own_folder import claim
from oddlens.training.history import write_history

FILES = [Path(__file__).parent.parent / "compatibility" / name for name in ("digits.safetensors", "tiles.onnx")]
PAGE = 4096  # bytes, the unit of room on the disk


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path, 2) as folder:
        yield folder


def content(folder: Path) -> dict[str, bytes]:
    """All files but the filler, by their paths."""
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "filler"}


def save_with_little_room(save: Callable[[], object], disk: Path) -> int:
    """Save with room for no page, for one, for two... until it succeeds; gives how often it failed."""
    before, failures = content(disk), 0
    filler = fill(disk)
    while True:
        os.truncate(filler, max(0, filler.stat().st_size - PAGE))
        try:
            save()
        except DiskFullError as error:
            assert "cannot be written (No space left on device); free some space" in str(error)  # noqa: PT017
        else:
            return failures
        assert content(disk) == before
        failures += 1


@pytest.mark.parametrize(
    "name", ["detector", "onnx", "checkpoint", "verdicts.csv", "verdicts.jsonl", "verdicts.parquet", "map"]
)
def test_a_save_that_runs_out_of_room_at_any_page_leaves_the_old_file(disk: Path, name: str) -> None:
    kind = kinds(disk, *FILES)[name]
    kind.save(0)
    size = sum(map(len, content(disk).values()))
    failures = save_with_little_room(lambda: kind.save(1), disk)
    assert failures >= size // PAGE > 0 or size < PAGE
    assert kind.read() == 1


@pytest.mark.parametrize(
    ("write", "n_files"),
    [
        (lambda folder: write_history(folder, [{"epoch": float(number), "loss": 0.5} for number in range(300)]), 1),
        (lambda folder: claim(folder, [f"file {number}" for number in range(300)]), 1),
    ],
    ids=["history", "marker"],
)
def test_small_files_of_a_run_are_complete_or_as_they_were(
    disk: Path, write: Callable[[Path], object], n_files: int
) -> None:
    assert save_with_little_room(lambda: write(disk), disk) > 0
    assert len(content(disk)) == n_files


def test_a_journal_keeps_all_entries_from_before_the_disk_was_full(disk: Path) -> None:
    path, run = disk / "v.csv.partial", {"run": "survival"}
    filler, entry, added = fill(disk), {"scores": [0.25] * 100}, 0
    os.truncate(filler, filler.stat().st_size - 5 * PAGE)
    try:
        with open_journal(path, run, resume=False) as journal:
            while True:
                journal.add(entry)
                added += 1
    except DiskFullError as error:
        assert "No space left on device" in str(error)  # noqa: PT017
    assert added > 10
    filler.unlink()
    with open_journal(path, run, resume=True) as journal:
        assert list(journal) == [entry] * added
        journal.add(entry)
        assert journal.entries == added + 1
