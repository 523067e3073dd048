"""What the pages say, in each language, by keys: `texts/en.toml` and its translations."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from datetime import datetime
from importlib.resources import files
from typing import Any

FOLDER = files("oddlens.pages") / "texts"
DEFAULT = "en"


@functools.cache
def languages() -> tuple[str, ...]:
    """The languages that the pages speak, English first."""
    names = sorted(entry.name.removesuffix(".toml") for entry in FOLDER.iterdir() if entry.name.endswith(".toml"))
    return (DEFAULT, *(name for name in names if name != DEFAULT))


@functools.cache
def load_texts(language: str) -> Texts:
    """The texts of a language."""
    return Texts(language, flatten(tomllib.loads((FOLDER / f"{language}.toml").read_text("utf-8"))))


def flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested tables as one, whose keys have dots.

    >>> flatten({"review": {"title": "Review"}})
    {'review.title': 'Review'}
    """
    flat = dict[str, str]()
    for key, value in table.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def choose_language(cookie: str | None, accepted: str) -> str:
    """The language of a request: that of its cookie, else the first of its Accept-Language header that is spoken.

    >>> choose_language(None, "fr, de-AT;q=0.8, en;q=0.5")
    'de'
    """
    if cookie in languages():
        return str(cookie)
    wishes = list[tuple[float, str]]()
    for entry in accepted.split(","):
        name, _, quality = entry.partition(";q=")
        try:
            wishes.append((-float(quality or 1), name.strip().lower().partition("-")[0]))
        except ValueError:
            continue
    return next((name for _, name in sorted(wishes, key=lambda wish: wish[0]) if name in languages()), DEFAULT)


class Texts:
    """The texts of a language, and how it writes numbers and times."""

    def __init__(self, language: str, texts: Mapping[str, str]) -> None:
        self.language, self.texts = language, texts

    def __call__(self, key: str, **values: object) -> str:
        """The text of a key, with its values filled in; `key.one` where there is one and `n` is 1.

        Raises:
            KeyError: there is no such text; a template is wrong.
        """
        singular = f"{key}.one"
        if values.get("n") == 1 and singular in self.texts:
            key = singular
        elif key not in self.texts:
            key = f"{key}.other"
        numbers = {name: self.number(value) for name, value in values.items() if isinstance(value, int | float)}
        return self.texts[key].format(**values | numbers)

    def section(self, name: str) -> dict[str, str]:
        """The texts whose keys begin with a name, without it: what a script needs."""
        return {key.removeprefix(f"{name}."): text for key, text in self.texts.items() if key.startswith(f"{name}.")}

    def number(self, value: float, digits: int = 3) -> str:
        """A number; those that are not whole have as many significant digits as asked for."""
        is_large = isinstance(value, int) or abs(value) >= 1000
        return self.localize(f"{value:,.0f}" if is_large else f"{value:,.{digits}g}")

    def percent(self, value: float, digits: int = 3) -> str:
        """A share as a percentage."""
        return self.localize(f"{100 * value:.{digits}g}") + self.texts["format.percent"]

    def localize(self, text: str) -> str:
        """A number in English notation as this language writes it."""
        signs = {",": self.texts["format.thousands"], ".": self.texts["format.decimal"]}
        return "".join(signs.get(sign, sign) for sign in text).replace("-", "−")

    def time(self, value: datetime) -> str:
        """A time in UTC, as this language writes it; scripts show it in the browser's time zone."""
        return value.strftime(self.texts["format.time"])
