"""Fixtures for the tests of the engineer's work: a desk of one's own, and one with a fit that is done."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from learning_client import Engineer, engineer_client
from photo_folders import Desk, do_here
from stored_inspections import DETECTOR_FILE

from oddlens.pages.learning.job import Job


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """A new desk; what still runs at the end is stopped."""
    desk = Desk(tmp_path)
    yield desk
    desk.close()


@pytest.fixture(scope="session")
def fitted_desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Desk, Job]]:
    """A desk with a fit that is done; tests do not change it, but for retuning."""
    desk = Desk(tmp_path_factory.mktemp("desk"))
    excluded = [photo.id for photo in desk.photographs.images(desk.parts)[:2]] + ["0" * 16]
    region = [[[0.1, 0.1], [0.9, 0.1], [0.9, 0.9], [0.1, 0.9]]]
    yield desk, do_here(desk.jobs.add("fit", desk.project(excluded=excluded, region=region), "Ada"))
    desk.close()


@pytest.fixture
def engineer(tmp_path: Path) -> Iterator[Engineer]:
    """Somebody at the engineer's pages."""
    with engineer_client(tmp_path) as engineer:
        yield engineer


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Engineer, Job]]:
    """Somebody at the engineer's pages with a fit that is done; tests may only add to it. `part` is in service."""
    with engineer_client(tmp_path_factory.mktemp("judged"), detectors={"part": DETECTOR_FILE}) as engineer:
        yield engineer, engineer.done(engineer.project())
