"""Frozen, strict settings: what a recipe says and what a detector's manifest keeps.

Every class refuses unknown keys and wrong types, and survives a round trip through JSON. Nothing
here touches an image or a tensor, so a deployed detector can read its own manifest without torch.
"""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from oddlens.errors import SettingsError

MAX_SIDE = 4096
VALUE_MAXIMA = (255, 4095, 65535)


class Settings(BaseModel):
    """Base of all settings: frozen, strict, no unknown keys, finite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


S = TypeVar("S", bound=Settings)


class InputSpec(Settings):
    """The pixels that a detector takes: (N, height, width, channels), integers in 0..value_max.

    `value_max` is fixed from the training images: 255 (8 bits, uint8), 4095 (12 bits, uint16) or
    65535 (16 bits, uint16). Images of another size are stretched to height x width, so that nothing
    is cut off and every pixel of a map belongs to a place in the image.
    """

    height: int = Field(ge=4, le=MAX_SIDE)
    width: int = Field(ge=4, le=MAX_SIDE)
    channels: Literal[1, 3]
    value_max: Literal[255, 4095, 65535] = 255

    @property
    def dtype(self) -> Literal["uint8", "uint16"]:
        """The NumPy name of the pixels' integer type."""
        return "uint8" if self.value_max == 255 else "uint16"


class AutoencoderSettings(Settings):
    """The autoencoder family; the defaults are the CIFAR-10 seed's.

    `pooling` is convolution + max-pooling down, up-sampling + convolution back (the MNIST seed);
    `strided` is strided convolutions, a linear bottleneck of `latent_dim`, and transposed
    convolutions back. `error` is what the anomaly map holds at each pixel; `top_percent` is the share
    of the map's largest values whose mean is the anomaly score (100 = plain mean). `noise` is the
    sigma, in units of the value range, of Gaussian noise added to the training inputs (denoising).
    """

    family: Literal["autoencoder"] = "autoencoder"
    architecture: Literal["pooling", "strided"] = "strided"
    widths: tuple[Annotated[int, Field(ge=1, le=1024)], ...] = Field((32, 64, 128), min_length=1, max_length=6)
    latent_dim: int = Field(128, ge=1, le=4096)
    loss: Literal["bce", "mse", "l1", "ssim"] = "mse"
    error: Literal["mse", "l1", "ssim"] = "mse"
    top_percent: float = Field(100.0, gt=0, le=100)
    noise: float = Field(0.0, ge=0, le=1)


# One class a family; when there is a second one this becomes a union told apart by `family`.
ModelSettings = AutoencoderSettings


class TrainingSettings(Settings):
    """How gradient training runs; the defaults are the CIFAR-10 seed's.

    `precision` "auto" trains in bfloat16 where the processor has instructions for it; weights,
    optimiser state and all scoring stay in float32.
    """

    epochs: int = Field(10, ge=1, le=100_000)
    batch_size: int = Field(64, ge=1, le=65_536)
    learning_rate: float = Field(1e-3, gt=0, le=10)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    seed: int = Field(0, ge=0, lt=2**31)


class DecisionSettings(Settings):
    """How a score becomes a verdict.

    `conformal` promises `false_alarm_rate` from held-out normals; None takes 1% where the
    calibration set can promise it, else the smallest rate that it can. With `confidence`, the promise
    holds with that confidence over calibration sets (PAC) instead of on average. `train_percentile`
    is the seeds' way: that percentile of the training scores, which promises nothing.
    """

    method: Literal["conformal", "train_percentile"] = "conformal"
    false_alarm_rate: float | None = Field(None, gt=0, lt=1)
    confidence: float | None = Field(None, gt=0, lt=1)
    train_percentile: float = Field(99.0, gt=0, lt=100)


class DataSettings(Settings):
    """Which images a recipe learns from and is tested on.

    `calibration` says where the conformal calibration images come from: `split` holds out a part of
    the training normals; `test_half` trains on all of them, as the seeds do, and takes a seeded half
    of the test normals, which are then left out of every rate. `distort` adds the evaluation
    corruptions and unseen patterns as anomalies, for data sets in which every class is normal;
    `foreign` names a data set whose pictures are shown too, where it is on this machine.
    """

    source: str
    normal: str | None = None
    calibration: Literal["split", "test_half"] = "split"
    distort: bool = False
    foreign: str | None = None
    size: int | None = Field(None, ge=4, le=MAX_SIDE)


class Recipe(Settings):
    """A whole run: data, model, training, decision. Read from TOML with `load_recipe`."""

    name: str = Field(min_length=1, max_length=80, pattern=r"^[\w.-]+$")
    title: str = ""
    data: DataSettings
    model: ModelSettings = ModelSettings()
    training: TrainingSettings = TrainingSettings()
    decision: DecisionSettings = DecisionSettings()

    @model_validator(mode="before")
    @classmethod
    def _arrays_become_tuples(cls, values: Any) -> Any:
        """TOML and JSON have arrays only; strict settings ask for tuples."""
        return _tuples(values)


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def load_recipe(path: Path) -> Recipe:
    """Read a recipe from a TOML file.

    Raises:
        SettingsError: the file is missing, is not TOML, or has wrong or unknown settings; all of
            them are named, with the nearest known name beside each unknown one.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read ({error.strerror}); give the path of a recipe file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: is not a TOML file ({error}); see docs/training.md for an example") from error
    return parse(Recipe, values, str(path))


def parse(kind: type[S], values: object, source: str) -> S:
    """Check plain values against a settings class; `source` names them in the error.

    Raises:
        SettingsError: with every wrong setting at once.
    """
    try:
        return kind.model_validate(_tuples(values))
    except ValidationError as error:
        problems = "; ".join(_problem(kind, detail) for detail in error.errors())
        raise SettingsError(f"{source}: {problems}") from error


def _problem(kind: type[Settings], detail: Any) -> str:
    where = ".".join(str(part) for part in detail["loc"]) or "settings"
    if detail["type"] == "extra_forbidden":
        known = _known_names(kind, detail["loc"][:-1])
        near = difflib.get_close_matches(str(detail["loc"][-1]), known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known here: {', '.join(known)}"
        return f"'{where}' is not a setting ({hint})"
    return f"'{where}': {detail['msg'][0].lower()}{detail['msg'][1:]}, got {str(detail['input'])[:80]!r}"


def _known_names(kind: type[BaseModel], parents: tuple[int | str, ...]) -> list[str]:
    for name in parents:
        field = kind.model_fields.get(str(name))
        if field is None or not isinstance(field.annotation, type) or not issubclass(field.annotation, BaseModel):
            break
        kind = field.annotation
    return list(kind.model_fields)
