from __future__ import annotations

import re
import string
from datetime import UTC, datetime
from pathlib import Path

import pytest

import oddlens.pages
from oddlens.pages.texts import choose_language, languages, load_texts

PAGES = Path(oddlens.pages.__file__).parent


def fields(text: str) -> set[str | None]:
    """The values that a text names."""
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


def test_every_language_has_every_text_with_the_same_values() -> None:
    english = load_texts("en").texts
    for language in languages():
        texts = load_texts(language).texts
        assert texts.keys() == english.keys()
        for key, text in texts.items():
            assert fields(text) <= fields(english[key]) | {"n"}, (language, key)
            assert key.startswith("format.") or text.strip(), (language, key)


def test_every_text_that_a_template_asks_for_exists() -> None:
    english = load_texts("en").texts
    for path in sorted((PAGES / "templates").rglob("*.html")):
        for key in re.findall(r"\bt\(\"([a-z0-9_.]+)\"(?! ~)", path.read_text("utf-8")):
            assert key in english or f"{key}.other" in english, (path.name, key)


def test_every_text_that_a_script_asks_for_exists() -> None:
    keys = {tuple(key.split(".")) for key in load_texts("en").texts}
    ends = {".".join(key[i:]) for key in keys for i in range(len(key))}
    for path in sorted((PAGES / "static").glob("*.js")):
        for key in re.findall(r"oddlens\.text\(\"([a-z0-9_.]+)\"", path.read_text("utf-8")):
            assert key in ends or f"{key}.other" in ends, (path.name, key)


def test_templates_and_scripts_have_no_sentence_of_their_own() -> None:
    """Text between tags of a template is a value, a selector of the page of components, or the name."""
    for path in sorted((PAGES / "templates").rglob("*.html")):
        text = re.sub(r"\{#.*?#\}|\{%.*?%\}|\{\{.*?\}\}|<script.*?</script>", " ", path.read_text("utf-8"), flags=re.S)
        words = re.findall(r">([^<]*[A-Za-z]{3,}[^<]*)<", text)
        allowed = re.compile(r"[\s.,·]*(oddlens|\.?[a-z]+(, \.[a-z]+)*)[\s.,·]*")
        assert [word for word in words if not allowed.fullmatch(word)] == [], path.name


@pytest.mark.parametrize(
    ("cookie", "accepted", "language"),
    [(None, "", "en"), ("de", "en", "de"), ("xx", "de-CH", "de"), (None, "fr;q=1, de;q=0.1", "de"), (None, "*", "en")],
)  # fmt: skip
def test_the_language_is_what_the_person_chose_or_their_browser_asks_for(
    cookie: str | None, accepted: str, language: str
) -> None:
    assert choose_language(cookie, accepted) == language


def test_numbers_and_times_are_written_as_in_the_language() -> None:
    english, german = load_texts("en"), load_texts("de")
    assert (english.number(12345), german.number(12345)) == ("12,345", "12.345")
    assert (english.number(0.01234), german.number(-1234.5)) == ("0.0123", "−1.234")
    assert (english.percent(0.0125), german.percent(0.0125)) == ("1.25%", "1,25\xa0%")
    assert german.time(datetime(2026, 11, 29, 8, 5, tzinfo=UTC)) == "29.11.2026 08:05"


def test_a_text_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(KeyError):
        load_texts("en")("no.such.text")
