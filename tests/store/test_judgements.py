"""Judgements: only what makes sense is recorded, and nothing of it is lost."""

from __future__ import annotations

import pytest
from stored_inspections import add_some

from oddlens.errors import SettingsError, StateError
from oddlens.store.store import Store


def test_judgements_that_make_no_sense_are_refused(store: Store) -> None:
    add_some(store, 1)
    with pytest.raises(SettingsError, match="'bad' is not a verdict"):
        store.judge(1, "bad", person="Ann")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="needs the name of the person"):
        store.judge(1, "normal", person=" ")
    first = store.judge(1, "normal", person="Ann\0", reason="dust")
    assert (first.person, first.reason, first.verdict) == ("Ann\\x00", "dust", "normal")
    undo = store.withdraw(first.id, person="Ann")
    with pytest.raises(StateError, match="was withdrawn already"):
        store.withdraw(first.id, person="Ann")
    with pytest.raises(StateError, match="is itself the undoing"):
        store.withdraw(undo.id, person="Ann")
    assert len(store.judgements(1)) == 2
