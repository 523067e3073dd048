"""The door to the store, which imports the database's packages only when it is opened."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from oddlens.errors import MissingExtraError

if TYPE_CHECKING:
    from oddlens.store.store import Store


def open_store(url: str, files: str | Path | None = None, *, create: bool = True) -> Store:
    """Open a store of inspections; see `Store.open`.

    Raises:
        MissingExtraError: the packages of the extra `serve` are not installed.
        OddlensError: as `Store.open`.
    """
    try:
        from oddlens.store.store import Store
    except ModuleNotFoundError as error:
        raise MissingExtraError("a store of inspections", "serve") from error
    return Store.open(url, files, create=create)
