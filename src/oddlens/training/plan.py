"""Plans: the settings of an ensemble that `auto` selected, which fit the same detector again."""

from __future__ import annotations

import json
from pathlib import Path

from oddlens.artifact import detector_file
from oddlens.config.detectors import EnsembleSettings
from oddlens.config.parse import parse_model
from oddlens.errors import ArtifactError, DataNotFoundError, SettingsError


def load_plan(path: Path) -> EnsembleSettings:
    """The plan in a detector file, or in a JSON file (an ensemble's settings, or what `show --json` prints).

    Raises:
        DataNotFoundError: there is no such file.
        ArtifactError: the detector file is damaged, or the file is of another kind.
        SettingsError: it holds no plan.
    """
    if path.suffix == ".json":
        model = parse_model(read_plan_json(path), str(path))
    elif path.suffix == ".safetensors":
        model = detector_file.load(path)[0].model
    else:
        raise ArtifactError(f"{path}: holds no plan; plans are in .safetensors detectors and .json files")
    if not isinstance(model, EnsembleSettings):
        raise SettingsError(f"{path}: is the plan of a single detector ({model.family}); use --detector {model.family}")
    return model


def read_plan_json(path: Path) -> object:
    """The plain values of a plan in a JSON file."""
    if not path.exists():
        raise DataNotFoundError(f"{path}: no such plan; `oddlens show DETECTOR --json` prints a detector's")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path}: cannot be read as a plan ({error}); give an ensemble's settings") from error
    if isinstance(values, dict) and isinstance(values.get("manifest"), dict):
        return values["manifest"].get("model")
    return values
