"""Recipes: data, model, training and decision of a whole run, read from TOML."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from oddlens.config.base import MAX_SIDE, DecisionSettings, Settings, TrainingSettings, lists_to_tuples
from oddlens.config.detectors import AnyDetector, AutoencoderSettings
from oddlens.config.parse import parse
from oddlens.errors import SettingsError


class DataSettings(Settings):
    """The training, calibration and test images of a recipe.

    `calibration` selects the conformal calibration images: `split` holds out a part of the normal training images;
    `test_half` trains on all of them, as the reference recipes do, and calibrates on a random half of the normal test
    images, which are then left out of all rates. `distort` adds the evaluation corruptions and unseen patterns as
    anomalies, for data sets in which every class is normal; `foreign` names a data set whose images are added as
    anomalies too, where it is on this machine.
    """

    source: str
    normal: str | None = None
    calibration: Literal["split", "test_half"] = "split"
    distort: bool = False
    foreign: str | None = None
    size: int | None = Field(None, ge=4, le=MAX_SIDE)
    tile: Literal["auto", "off"] | int = "auto"


class Recipe(Settings):
    """A whole run: data, model, training, decision. Read from TOML with `load_recipe`."""

    name: str = Field(min_length=1, max_length=80, pattern=r"^[\w.-]+$")
    title: str = ""
    data: DataSettings
    model: AnyDetector = AutoencoderSettings()
    training: TrainingSettings = TrainingSettings()
    decision: DecisionSettings = DecisionSettings()

    @model_validator(mode="before")
    @classmethod
    def _arrays_become_tuples(cls, values: Any) -> Any:
        """TOML and JSON have arrays only; strict settings require tuples."""
        return lists_to_tuples(values)


def load_recipe(path: Path) -> Recipe:
    """Read a recipe from a TOML file.

    Raises:
        SettingsError: the file is missing, is not TOML, or has wrong or unknown settings; all of them are listed, each
            unknown one with the nearest valid name.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read ({error.strerror}); give the path of a recipe file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"{path}: is not a TOML file ({error}); see docs/how-to/recipes.md for an example"
        ) from error
    return parse(Recipe, values, str(path))
