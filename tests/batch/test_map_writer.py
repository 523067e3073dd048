"""Maps are written by the threads that decode, with a bounded number of images in memory."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_files import write_image

from oddlens.batch import map_writer, verdict_files
from oddlens.batch.map_writer import MapWriter
from oddlens.batch.scoring_job import ScoringJob
from oddlens.config.base import InputSpec
from oddlens.data.image_io import DECODERS, Pixels
from oddlens.data.image_set import ImageSet
from oddlens.data.ordered_pool import OrderedPool
from oddlens.detector.detector import Detector
from oddlens.errors import OddlensError
from oddlens.io.journal import open_journal

MAPS = np.linspace(0, 2, 6 * 4 * 4, dtype=np.float32).reshape(6, 4, 4)


@pytest.fixture
def images(tmp_path: Path) -> ImageSet:
    """Six images of 20 x 30 pixels."""
    return ImageSet.from_files([write_image(tmp_path / f"{i}.png", 30 * i, (20, 30)) for i in range(6)])


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str]]:
    """The images that are decoded from here on, and by which thread."""
    calls: list[tuple[int, str]] = []
    real = ImageSet.image

    def image(self: ImageSet, i: int, spec: InputSpec | None = None) -> Pixels:
        calls.append((i, threading.current_thread().name))
        return real(self, i, spec)

    monkeypatch.setattr(ImageSet, "image", image)
    return calls


def test_an_image_that_has_waited_is_not_decoded_again(
    images: ImageSet, tmp_path: Path, decoded: list[tuple[int, str]]
) -> None:
    with OrderedPool[None](2) as pool:
        writer = MapWriter(tmp_path / "maps", images, 1.0, 255, pool)
        for i in (0, 1, 2, 4, 5):
            writer.add_image(i, images.image(i))
        decoded.clear()
        writer.write(range(6), MAPS)
    assert [i for i, _ in decoded] == [3]
    assert (writer.waiting, writer.free_bytes) == ({}, map_writer.MAX_WAITING_BYTES)
    for i in range(6):
        verdict_files.write_map(tmp_path / "expected.png", images.image(i), MAPS[i], 1.0, 255)
        assert (tmp_path / f"maps/{i}_map.png").read_bytes() == (tmp_path / "expected.png").read_bytes()


def test_images_beyond_the_room_do_not_wait(
    images: ImageSet, tmp_path: Path, decoded: list[tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(map_writer, "MAX_WAITING_BYTES", 2 * 20 * 30)
    with OrderedPool[None](1) as pool:
        writer = MapWriter(tmp_path / "maps", images, 1.0, 255, pool)
        for i in range(6):
            writer.add_image(i, images.image(i))
        assert sum(image.nbytes for image in writer.waiting.values()) == 2 * 20 * 30
        decoded.clear()
        writer.write(range(6), MAPS)
    assert [i for i, _ in decoded] == [2, 3, 4, 5]


def test_an_error_of_writing_is_raised(images: ImageSet, tmp_path: Path) -> None:
    (tmp_path / "maps").write_text("a file")
    with (
        OrderedPool[None](2) as pool,
        pytest.raises(OddlensError, match=r"maps/\d_map.png: cannot be written"),
    ):
        MapWriter(tmp_path / "maps", images, 1.0, 255, pool).write(range(6), MAPS)


def test_the_threads_of_a_job_decode_each_image_once_and_write_its_map(
    digits_detector: Detector,
    images: ImageSet,
    tmp_path: Path,
    decoded: list[tuple[int, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So no more large images are in memory at once than without maps."""
    writers: list[str] = []
    real = verdict_files.write_map

    def write_map(path: Path, *arguments: Any) -> None:
        if path.parent == tmp_path / "maps":  # and not a thread that an earlier test left behind
            writers.append(threading.current_thread().name)
        real(path, *arguments)

    monkeypatch.setattr(verdict_files, "write_map", write_map)
    job = ScoringJob(digits_detector, images, tmp_path / "maps")
    with open_journal(None, job.identity(), resume=False) as journal:
        assert [done for done, _ in job.score(journal)] == [0, 6]
    assert sorted(i for i, _ in decoded) == list(range(6))
    assert len(writers) == len(list((tmp_path / "maps").iterdir())) == 6
    threads = {*writers, *(name for _, name in decoded)}
    assert len(threads) <= DECODERS
    assert threading.current_thread().name not in threads
