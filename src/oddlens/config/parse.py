"""Parse plain values (from TOML, JSON or the command line) as settings; all errors are reported at once."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel, TypeAdapter, ValidationError

from oddlens.config.backbones import CHOICES, OnnxBackbone, is_backbone_name
from oddlens.config.base import S, Settings, lists_to_tuples
from oddlens.config.detectors import (
    BACKBONE_EXCLUDED,
    FAMILIES,
    AnyModel,
    AutoSettings,
    DetectorSettings,
    FamilySettings,
    PretrainedSettings,
    settings_class,
)
from oddlens.errors import SettingsError


def duration(text: str) -> float:
    """Seconds from "90s", "5m", "1h" or plain seconds.

    Raises:
        SettingsError: the text has another form, or the time is not above 0.

    Example:
        >>> [duration(text) for text in ("90s", "5m", "1h", "2.5")]
        [90.0, 300.0, 3600.0, 2.5]
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    seconds = float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]] if match else 0.0
    if not 0 < seconds < math.inf:
        raise SettingsError(f"'{text}' is not a duration; write it as 90s, 5m, 1h or plain seconds")
    return seconds


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Refuse a parameter's value that is not one of its choices.

    Raises:
        SettingsError: names them.
    """
    if value not in choices:
        raise SettingsError(f"{name} must be one of {', '.join(choices)}, got {str(value)[:80]!r}")


def parse(settings_class: type[S], values: object, source: str) -> S:
    """Settings from plain values; `source` names the values in the error.

    Raises:
        SettingsError: with every wrong setting at once.
    """
    try:
        return settings_class.model_validate(lists_to_tuples(values))
    except ValidationError as error:
        raise SettingsError(f"{source}: {describe_problems(settings_class, values, error)}") from error


def parse_model(values: object, source: str) -> FamilySettings:
    """Settings of the family that the `family` among plain values names.

    Raises:
        SettingsError: with every wrong setting at once.
    """
    try:
        model: FamilySettings = TypeAdapter(AnyModel).validate_python(lists_to_tuples(values))
        return model
    except ValidationError as error:
        raise SettingsError(f"{source}: {describe_problems(FamilySettings, values, error)}") from error


def parse_detector(name: str, source: str = "--detector") -> DetectorSettings:
    """The settings of `auto` or of a family, all at their defaults, by its name.

    Raises:
        SettingsError: there is no such detector, or it needs more than a name.
    """
    named = settings_class(name)
    if named is not None and named.needs_plan:
        raise SettingsError(f"{source}: {name} needs members: use auto, which selects them, or give a plan (--plan)")
    return AutoSettings() if named is AutoSettings else parse_model({"family": name}, source)


def with_backbone(settings: DetectorSettings, name: str, source: str) -> DetectorSettings:
    """The settings of a detector with another backbone, by its name (see `PretrainedSettings`), and its usual depths.

    Raises:
        SettingsError: there is no such backbone, or the detector has none.
    """
    if isinstance(settings, AutoSettings) and not settings.takes_backbone:
        raise SettingsError(f"{source}: {BACKBONE_EXCLUDED}")
    if not settings.backbones:
        raise SettingsError(f"{source}: {settings.title} has no backbone; choose auto, padim, patchcore or features")
    if not is_backbone_name(name):
        raise SettingsError(f"{source} must be {CHOICES}, got {name[:80]!r}")
    if isinstance(settings, FamilySettings):
        return settings.map_backbones(lambda part: _with_other_backbone(part, name))
    return settings.model_copy(update={"backbone": name})


def _with_other_backbone(part: PretrainedSettings, name: str) -> PretrainedSettings:
    """The settings of a family with that backbone; depths of another backbone mean nothing in it."""
    if part.backbone == name:
        return part
    others = part.model_fields_set - {"backbone", "depths", "map_depths", "fine_depths"}
    return type(part)(backbone=name, **{field: getattr(part, field) for field in others})


def with_light(settings: DetectorSettings, light: str, source: str) -> DetectorSettings:
    """The settings of a detector with what is said of the light, "varies" or "fixed".

    Raises:
        SettingsError: the detector does not ask for it, or it is neither.
    """
    check_choice(source, light, ("varies", "fixed"))
    if "light" not in type(settings).model_fields:
        obstacle = {"plan": "a plan", "folds": "--folds"}.get(settings.strategy, f"the detector {settings.family}")
        raise SettingsError(f"{source} is for the detectors {detectors_with_light()}, not for {obstacle}; leave it out")
    return settings.model_copy(update={"light": light})


def detectors_with_light() -> str:
    """The names of the detectors whose settings say whether the light varies.

    >>> detectors_with_light()
    'auto, dictionary, padim and patchcore'
    """
    detectors: dict[str, type[DetectorSettings]] = {"auto": AutoSettings, **FAMILIES}
    names = [name for name, settings in detectors.items() if "light" in settings.model_fields]
    return f"{', '.join(names[:-1])} and {names[-1]}"


def with_file_of_own(settings: FamilySettings, name: str) -> FamilySettings:
    """The settings of a detector whose parts have its own backbone by the name of a file that contains it."""

    def change(part: PretrainedSettings) -> PretrainedSettings:
        return part.model_copy(update={"backbone": name}) if isinstance(part.backbone, OnnxBackbone) else part

    return settings.map_backbones(change)


def describe_problems(expected: type[Settings], values: object, error: ValidationError) -> str:
    """Every wrong setting among plain values, in words."""
    return "; ".join(_describe_problem(expected, values, detail) for detail in error.errors())


def _describe_problem(expected: type[Settings], values: object, detail: Any) -> str:
    where = ".".join(map(str, detail["loc"])) or "settings"
    if detail["type"] == "extra_forbidden":
        *parents, name = detail["loc"]
        names = _setting_names(expected, values, parents)
        near = difflib.get_close_matches(str(name), names, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(names)}"
        return f"'{where}' is not a setting ({hint})"
    if detail["type"] == "value_error" and not detail["loc"]:
        return str(detail["msg"]).removeprefix("Value error, ")
    if detail["type"] in ("unknown_family", "no_family"):
        return str(detail["msg"]) if where == "settings" else f"'{where}': {detail['msg']}"
    return f"'{where}': {detail['msg'][0].lower()}{detail['msg'][1:]}, got {str(detail['input'])[:80]!r}"


def _setting_names(expected: type[BaseModel], values: Any, path: list[int | str]) -> list[str]:
    """Names of the settings at a path into `values`, whose families say which classes they are checked against."""
    for step in [None, *path]:
        if isinstance(step, str):
            annotation = expected.model_fields[step].annotation
            candidates = [annotation, *get_args(annotation)]
            expected = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), Settings)
        values = values if step is None else values[step]
        if issubclass(expected, DetectorSettings):
            expected = settings_class(values.get("family")) or expected
    return list(expected.model_fields)
