"""The manifest: everything about a detector that is not a tensor."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from oddlens.config.base import DecisionSettings, InputSpec, RuntimeSettings, Settings, TrainingSettings
from oddlens.config.detectors import AnyModel

SCHEMA_VERSION = 1


class DataSummary(Settings):
    """What a detector was made from."""

    source: str
    normal: str
    n_training: int = Field(ge=1)
    n_standardising: int = Field(0, ge=0)  # normal images that brought an ensemble's members to one scale
    fingerprint: str  # of the training and standardising images, whatever their order
    n_calibration: int = Field(0, ge=0)
    calibration_source: str = "none"
    folds: int = Field(1, ge=1, le=20)  # above 1, calibrated on the training images, each scored out of its fold
    groups: tuple[str, ...] = ()  # names of those that a decision is made for, each by itself
    grouped_by: str = ""  # how images are told apart: "folder", or "column NAME" of a CSV file


class Manifest(Settings):
    """Everything about a detector that is not a tensor."""

    schema_version: Literal[1] = 1
    model: AnyModel
    training: TrainingSettings
    input: InputSpec
    runtime: RuntimeSettings = RuntimeSettings()  # what computed the calibration and golden scores, and must go on to
    decision: DecisionSettings
    data: DataSummary
    history: dict[str, float]
    remarks: tuple[str, ...] = ()  # why `auto` chose this detector, and what it says of itself
    versions: dict[str, str]
    created: str
    golden: tuple[float, ...] = Field(min_length=1, max_length=16)
    digest: str = ""
