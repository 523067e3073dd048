"""Frozen, strict settings, as recipes and the manifests of detectors contain them.

Each class refuses unknown keys and wrong types, and survives a round trip through JSON. Nothing
here touches an image or a tensor, so a deployed detector can read its manifest without torch.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from oddlens.errors import SettingsError

if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(BaseModel)  # which has no public name

MAX_SIDE = 16_384  # pixels, of the images that a detector takes
MAX_MODEL_SIDE = 4096  # pixels, of what a model scores at a time: a whole image, or one tile of it
MAX_TILES = 2**17  # of an image


class SettingsType(ModelMetaclass):
    """The type of settings classes: their constructors raise an error of oddlens, not one of pydantic."""

    def __call__(cls, *args: Any, **values: Any) -> Any:  # noqa: N805 - of a class of classes
        """Construct settings.

        Raises:
            SettingsError: with every wrong setting at once.
        """
        try:
            return super().__call__(*args, **values)
        except ValidationError as error:
            from oddlens.config.parse import describe_problems

            problems = describe_problems(cls, values, error)  # type: ignore[arg-type]  # they are of type[Settings]
            raise SettingsError(f"{cls.__name__}: {problems}") from error


class Settings(BaseModel, metaclass=SettingsType):
    """Base of all settings: frozen, strict, no unknown keys, finite numbers.

    `model_copy(update=...)`, `model_dump_json()` and `model_validate_json()` are pydantic's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


S = TypeVar("S", bound=Settings)


class InputSpec(Settings):
    """The pixels that a detector takes: (N, height, width, channels), integers in 0..value_max.

    `value_max` follows from the training images: 255 (8 bits, uint8), 4095 (12 bits, uint16) or 65535 (16 bits,
    uint16). Images of another size are stretched to height x width, so that nothing is cropped and each pixel of a map
    corresponds to a position in the image.

    Raises:
        SettingsError: a setting is wrong or unknown.

    Example:
        >>> from oddlens import InputSpec
        >>> InputSpec(height=480, width=640, channels=1, value_max=4095).dtype
        'uint16'
    """

    height: int = Field(ge=4, le=MAX_SIDE)
    width: int = Field(ge=4, le=MAX_SIDE)
    channels: Literal[1, 3]
    value_max: Literal[255, 4095, 65535] = 255

    @property
    def dtype(self) -> Literal["uint8", "uint16"]:
        """The NumPy name of the pixels' integer type."""
        return "uint8" if self.value_max == 255 else "uint16"


class Tiling(Settings):
    """Tiles of one size that cover an image, evenly spaced and flush with its edges, and that are scored one by one.

    Sides and `overlap` are in pixels. Neighbouring tiles share at least `overlap` pixels, or half of the tile where
    that is less.

    Raises:
        SettingsError: a setting is wrong or unknown.

    Example:
        >>> from oddlens import InputSpec, Tiling
        >>> Tiling(height=256, width=256, overlap=32).count(InputSpec(height=1000, width=2000, channels=3))
        45
    """

    height: int = Field(ge=4, le=MAX_MODEL_SIDE)
    width: int = Field(ge=4, le=MAX_MODEL_SIDE)
    overlap: int = Field(ge=0, le=MAX_MODEL_SIDE)

    def tops(self, spec: InputSpec) -> list[int]:
        """The first row of each row of tiles, of images of that form."""
        return tile_starts(spec.height, self.height, self.overlap)

    def lefts(self, spec: InputSpec) -> list[int]:
        """The first column of each column of tiles, of images of that form."""
        return tile_starts(spec.width, self.width, self.overlap)

    def count(self, spec: InputSpec) -> int:
        """Number of tiles of an image of that form."""
        return len(self.tops(spec)) * len(self.lefts(spec))

    def tile_spec(self, spec: InputSpec) -> InputSpec:
        """The form of a tile of images of that form."""
        return spec.model_copy(update={"height": self.height, "width": self.width})

    def describe(self, spec: InputSpec) -> str:
        """The tiles of images of that form, in words."""
        return f"{self.count(spec):,} of {self.width} x {self.height} that overlap by {self.overlap} pixels or more"

    def check(self, spec: InputSpec) -> None:
        """Refuse tiles that are larger than images of that form, or too many.

        Raises:
            ValueError: says which.
        """
        if self.height > spec.height or self.width > spec.width:
            raise ValueError(
                f"tiles of {self.width} x {self.height} do not fit into images of {spec.width} x {spec.height}"
            )
        if self.count(spec) > MAX_TILES:
            raise ValueError(f"{self.count(spec):,} tiles an image are more than the limit of {MAX_TILES:,}")


def tile_starts(side: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin that cover `side` pixels, the last one flush with the end.

    >>> tile_starts(100, 40, 10)
    [0, 30, 60]
    """
    count = 1 + -(-(side - tile) // (tile - min(overlap, tile // 2)))
    return [number * (side - tile) // max(1, count - 1) for number in range(count)]


class TrainingSettings(Settings):
    """How gradient training runs; the defaults are those of the CIFAR-10 reference recipe.

    An epoch goes through all images, or through `epoch_images` of them, newly drawn each time. `muon` steps
    convolutions along their orthogonalized momentum. `linear` lowers the learning rate to zero over the whole training;
    `one_cycle` raises it over the first fifth before that. `pace` is the progress of the whole training after each
    epoch, for trainings whose budget made it uneven; it replaces `epochs`. Where the time made some of them shorter,
    `pace_shares` has the share of its steps that each epoch of the pace has. With the `precision` "auto", training
    multiplies in bfloat16 where the processor has instructions for it, and so does a step of `muon`; weights, optimizer
    state and all scoring stay in float32.

    Raises:
        SettingsError: a setting is wrong or unknown, or settings exclude each other.

    Source: `muon`, Jordan 2024.

    Example:
        >>> from oddlens import Detector, TrainingSettings
        >>> detector = Detector("autoencoder", training=TrainingSettings(epochs=20, batch_size=128, seed=1))
    """

    epochs: int = Field(10, ge=1, le=100_000)
    epoch_images: int | None = Field(None, ge=1)
    batch_size: int = Field(64, ge=1, le=65_536)
    learning_rate: float = Field(1e-3, gt=0, le=10)
    optimizer: Literal["adam", "muon"] = "adam"
    schedule: Literal["constant", "linear", "one_cycle"] = "constant"
    weight_decay: float = Field(0.0, ge=0, le=1)
    pace: tuple[Annotated[float, Field(gt=0, le=1)], ...] = ()
    pace_shares: tuple[Annotated[float, Field(gt=0, le=1)], ...] = ()
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    seed: int = Field(0, ge=0, lt=2**31)

    @model_validator(mode="after")
    def _check_combination(self) -> TrainingSettings:
        if any(after <= before for before, after in pairwise(self.pace)):
            raise ValueError("pace must rise from epoch to epoch")
        if self.pace_shares and len(self.pace_shares) != len(self.pace):
            raise ValueError("pace_shares must have one value for each epoch of the pace")
        if self.optimizer == "muon" and self.weight_decay:
            raise ValueError("muon keeps convolutions at a fixed norm and takes no weight_decay")
        return self


class DecisionSettings(Settings):
    """How a score becomes a verdict.

    `conformal` guarantees `false_alarm_rate` by held-out normal images; None means 1% where the calibration set can
    guarantee it, else the smallest rate that it can guarantee. With `confidence`, the guarantee holds with that
    confidence over calibration sets (PAC) instead of on average. `train_percentile` is the method of the reference
    recipes: a percentile of the training scores, with no guarantee. Rates and the confidence are shares from 0 to 1,
    the percentile is from 0 to 100.

    Raises:
        SettingsError: a setting is wrong or unknown.

    Example:
        >>> from oddlens import DecisionSettings, Detector
        >>> detector = Detector(decision=DecisionSettings(false_alarm_rate=0.01, confidence=0.95))
    """

    method: Literal["conformal", "train_percentile"] = "conformal"
    false_alarm_rate: float | None = Field(None, gt=0, lt=1)
    confidence: float | None = Field(None, gt=0, lt=1)
    train_percentile: float = Field(99.0, gt=0, lt=100)


class RuntimeSettings(Settings):
    """The runtime and precision of a detector's scores. Scores, and so thresholds, are valid for one runtime only.

    `torch` runs `.safetensors` files; `onnxruntime` and `openvino` run exported ones. "bf16" multiplies in bfloat16,
    which changes scores by parts in a thousand; ONNX Runtime's CPU provider does not support it.

    Raises:
        SettingsError: a setting is wrong or unknown, or settings exclude each other.

    Example:
        >>> from oddlens import RuntimeSettings
        >>> RuntimeSettings(engine="openvino", precision="bf16").precision
        'bf16'
    """

    engine: Literal["torch", "onnxruntime", "openvino"] = "torch"
    precision: Literal["fp32", "bf16"] = "fp32"

    @model_validator(mode="after")
    def _check_combination(self) -> RuntimeSettings:
        if self.engine == "onnxruntime" and self.precision == "bf16":
            raise ValueError("onnxruntime computes in fp32 only: use openvino for bf16, or the precision fp32")
        return self


def lists_to_tuples(value: Any) -> Any:
    """Plain values with every list, at any depth, as a tuple: JSON and TOML have lists, strict settings want tuples."""
    if isinstance(value, dict):
        return {key: lists_to_tuples(item) for key, item in value.items()}
    if not isinstance(value, list):
        return value
    is_flat = not any(isinstance(item, dict | list) for item in value)
    return tuple(value) if is_flat else tuple(lists_to_tuples(item) for item in value)
