"""Plain values checked against settings: every wrong one is named at once, with the nearest known name."""

from __future__ import annotations

import difflib
import math
import re
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from oddlens.config.base import S, Settings
from oddlens.config.detectors import FAMILIES, AnyModel, Member, ModelSettings
from oddlens.errors import SettingsError


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def duration(text: str) -> float:
    """Seconds from "90s", "5m", "1h" or plain seconds.

    Raises:
        SettingsError: it is written another way, or is no time at all.

    Example:
        >>> [duration(text) for text in ("90s", "5m", "1h", "2.5")]
        [90.0, 300.0, 3600.0, 2.5]
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    seconds = float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]] if match else 0.0
    if not 0 < seconds < math.inf:
        raise SettingsError(f"'{text}' is not a duration; write it as 90s, 5m, 1h or plain seconds")
    return seconds


def parse(kind: type[S], values: object, source: str) -> S:
    """Check plain values against a settings class; `source` names them in the error.

    Raises:
        SettingsError: with every wrong setting at once.
    """
    try:
        return kind.model_validate(_tuples(values))
    except ValidationError as error:
        raise _refused(kind, error, source) from error


def parse_model(values: object, source: str) -> ModelSettings:
    """Check plain values, whose `family` says which settings they are.

    Raises:
        SettingsError: with every wrong setting at once.
    """
    try:
        model: ModelSettings = TypeAdapter(AnyModel).validate_python(_tuples(values))
        return model
    except ValidationError as error:
        raise _refused(Settings, error, source) from error


def _refused(kind: type[Settings], error: ValidationError, source: str) -> SettingsError:
    return SettingsError(f"{source}: " + "; ".join(_problem(kind, detail) for detail in error.errors()))


def _problem(kind: type[Settings], detail: Any) -> str:
    where = ".".join(str(part) for part in detail["loc"] if part not in FAMILIES) or "settings"
    if detail["type"] == "extra_forbidden":
        known = _known_names(kind, detail["loc"][:-1])
        near = difflib.get_close_matches(str(detail["loc"][-1]), known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known here: {', '.join(known)}"
        return f"'{where}' is not a setting ({hint})"
    if detail["type"] == "union_tag_invalid":
        return f"{detail['input']['family']!r} is not a detector; there are auto, {', '.join(FAMILIES)}"
    return f"'{where}': {detail['msg'][0].lower()}{detail['msg'][1:]}, got {str(detail['input'])[:80]!r}"


def _known_names(kind: type[BaseModel], parents: tuple[int | str, ...]) -> list[str]:
    for name in parents:
        field = kind.model_fields.get(str(name))
        if name in FAMILIES:
            kind = FAMILIES[str(name)]
        elif field is not None and isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            kind = field.annotation
        elif name == "members":
            kind = Member
    return list(kind.model_fields)
