"""Environment variables for a while."""

from __future__ import annotations

import os

import pytest

from oddlens.io.environment import default_variable

NAME = "ODDLENS_TEST_VARIABLE"


def test_a_variable_is_set_in_the_block_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(NAME, raising=False)
    with default_variable(NAME, "1"):
        assert os.environ[NAME] == "1"
    assert NAME not in os.environ
    with pytest.raises(ZeroDivisionError), default_variable(NAME, "1"):
        raise ZeroDivisionError
    assert NAME not in os.environ


def test_what_the_user_has_set_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NAME, "0")
    with default_variable(NAME, "1"):
        assert os.environ[NAME] == "0"
    assert os.environ[NAME] == "0"
