"""The manifest: everything about a detector that is not a tensor."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from oddlens.config.base import (
    MAX_MODEL_SIDE,
    DecisionSettings,
    InputSpec,
    RuntimeSettings,
    Settings,
    Tiling,
    TrainingSettings,
)
from oddlens.config.detectors import AnyModel

SCHEMA_VERSION = 1


CalibrationKind = Literal["held_out", "leave_one_out"]
CountBy = Literal["image", "group"]


class DataSummary(Settings):
    """The images that a detector was trained and calibrated on."""

    source: str
    normal: str
    n_training: int = Field(ge=1)
    n_standardising: int = Field(0, ge=0)  # normal images by which an ensemble's members were brought to one scale
    fingerprint: str  # of the training and standardization images, in any order
    n_calibration: int = Field(0, ge=0)
    calibration_source: str = "none"
    folds: int = Field(1, ge=1, le=20)  # above 1: calibrated on the training images, each scored out of fold
    calibration: CalibrationKind = "held_out"  # or on the training images, each scored without itself
    count_by: CountBy = "image"  # what counts once: an image, or a group of near-duplicates
    groups: tuple[str, ...] = ()  # names of the groups with a threshold each
    grouped_by: str = ""  # where groups come from: "folder", or "column NAME" of a CSV file


class Notice(Settings):
    """Work of others inside a detector: where it comes from, and the terms under which it may be passed on."""

    name: str
    source: str
    sha256: str  # of the file that it was read from
    licence: str
    text: str  # of the licence


class Manifest(Settings):
    """Everything about a detector that is not a tensor; what `Detector.manifest` returns, and detector files have.

    Example:
        >>> from oddlens import Detector, TrainingSettings, open_dataset
        >>> threes = open_dataset("digits", normal="3").train
        >>> manifest = Detector("autoencoder", training=TrainingSettings(epochs=1)).fit(threes).manifest
        >>> manifest.model.family, manifest.input.height, manifest.data.normal, manifest.schema_version
        ('autoencoder', 8, '3', 1)
    """

    schema_version: Literal[1] = 1
    model: AnyModel
    training: TrainingSettings
    input: InputSpec
    tiling: Tiling | None = None  # of the images; None: the model scores them whole
    runtime: RuntimeSettings = RuntimeSettings()  # of the calibration and golden scores; it must stay the same
    decision: DecisionSettings
    data: DataSummary
    history: dict[str, float]
    remarks: tuple[str, ...] = ()  # why `auto` selected this detector, and what the detector reports about itself
    versions: dict[str, str]
    created: str
    notices: tuple[Notice, ...] = ()  # on the weights of others that it contains
    golden: tuple[float, ...] = Field(min_length=1, max_length=16)
    digest: str = ""

    @model_validator(mode="after")
    def _check_tiling(self) -> Manifest:
        if self.tiling is not None:
            self.tiling.check(self.input)
        elif max(self.input.height, self.input.width) > MAX_MODEL_SIDE:
            raise ValueError(f"input: without tiling, at most {MAX_MODEL_SIDE} pixels a side")
        return self

    @property
    def model_input(self) -> InputSpec:
        """The form of what the model scores at a time: a tile, or a whole image."""
        return self.input if self.tiling is None else self.tiling.tile_spec(self.input)
