"""Fixtures: an empty store in each of both databases, and a detector with images that it judges."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from PIL import Image
from postgresql_server import postgresql_server
from psycopg import sql
from stored_inspections import DETECTOR_FILE

from oddlens.data.open import open_dataset
from oddlens.detector.detector import Detector
from oddlens.store.open import open_store
from oddlens.store.store import Store

_NUMBERS = itertools.count()


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The URL of a private PostgreSQL server."""
    with postgresql_server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a store that does not exist yet, in each database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/parts.db"
    server: str = request.getfixturevalue("server")
    name = f"parts{next(_NUMBERS)}"  # of a schema, which takes less time than a database
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(name)))
    return f"{server}?options=-csearch_path%3D{name}&files={tmp_path}/files"


@pytest.fixture
def store(url: str, tiles: Detector) -> Iterator[Store]:
    """An empty store with a detector."""
    with open_store(url) as store:
        store.add_detector(tiles, DETECTOR_FILE)
        yield store


@pytest.fixture(scope="session")
def tiles() -> Detector:
    """A detector of woven tiles; tests do not change it."""
    return Detector.load(DETECTOR_FILE, threads=1)


@pytest.fixture(scope="session")
def contents() -> list[bytes]:
    """The contents of 12 PNG files of woven tiles: six normal ones, then six with defects."""
    test = open_dataset("tiles").test
    indices = [*(test.labels == 0).nonzero()[0][:6], *(test.labels == 1).nonzero()[0][:6]]
    return [png(Image.fromarray(test.image(int(i)).squeeze())) for i in indices]


def png(image: Image.Image) -> bytes:
    """The content of an image's PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
