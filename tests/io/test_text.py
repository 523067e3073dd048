"""File names as text."""

from __future__ import annotations

import os

import pytest

from oddlens.io.text import as_cell, as_text, first_line, from_cell, list_names


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (b"part.png", "part.png"),
        ("Prüfling 検査.png".encode(), "Prüfling 検査.png"),
        (b"caf\xe9.png", r"caf\xe9.png"),
        (b"\xff\xfe\x9b", r"\xff\xfe\x9b"),
    ],
)
def test_bytes_that_are_not_text_become_their_numbers(name: bytes, text: str) -> None:
    assert as_text(os.fsdecode(name)) == text
    assert as_text(as_text(os.fsdecode(name))) == text


def test_a_name_that_was_decoded_as_ascii_becomes_what_it_is() -> None:
    assert as_text("Prüfling".encode().decode("ascii", "surrogateescape")) == "Prüfling"


@pytest.mark.parametrize(
    "text", ["=1+1.png", "+1.png", "-1.png", "@a.png", "\ta.png", "'=a.png", "'a.png", "a=b.png", ""]
)
def test_no_cell_of_a_table_is_a_formula_and_its_text_comes_back(text: str) -> None:
    cell = as_cell(text)
    assert isinstance(cell, str)
    assert not cell.startswith(("=", "+", "-", "@", "\t"))
    if not text.startswith("'="):  # is read as what `as_cell` wrote
        assert from_cell(cell) == text


def test_numbers_in_a_table_stay_numbers() -> None:
    assert [as_cell(value) for value in (-1.5, 0, None, True)] == [-1.5, 0, None, True]


def test_ten_names_are_listed_and_the_others_counted() -> None:
    assert list_names(["a"]) == "a"
    assert list_names([str(i) for i in range(10)]).endswith("8, 9")
    assert list_names([str(i) for i in range(11)]).endswith("8, 9 and 1 more")


def test_an_error_of_a_runtime_is_shortened_to_one_line() -> None:
    assert first_line(ValueError("  no such node\nat line 3 of ...")) == "no such node"
    assert len(first_line(ValueError("x" * 1000))) == 200
