"""Which backbone a detector compares features of: the one that comes with an extra, or the user's own."""

from __future__ import annotations

from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from oddlens.config.base import MAX_MODEL_SIDE, Settings

EFFICIENTNET_LITE0 = "efficientnet-lite0"
TIMM_PREFIX = "timm:"
CHOICES = f"{EFFICIENTNET_LITE0}, a FILE.onnx, timm:NAME, or the .safetensors file of a detector with its own"
MAX_CHANNELS = 16_384  # of an output
MAX_OUTPUTS = 64

Side = Annotated[int, Field(ge=1, le=MAX_MODEL_SIDE)]
Layout = Literal["channels_first", "channels_last", "tokens", "pooled"]
Colour = tuple[float, float, float]  # red, green, blue


class BackboneOutput(Settings):
    """An output of the user's own backbone, for images of the backbone's size.

    `channels_first` is (N, channels, rows, columns), `channels_last` (N, rows, columns, channels), `tokens`
    (N, prefix + rows * columns, channels) and `pooled` (N, channels).

    Raises:
        SettingsError: a setting is wrong or unknown, or the layout has no such rows, columns or prefix.

    Example:
        >>> from oddlens import BackboneOutput
        >>> BackboneOutput(name="tokens", layout="tokens", channels=384, rows=16, columns=16, prefix=1).shape
        (257, 384)
    """

    name: str
    layout: Layout
    channels: int = Field(ge=1, le=MAX_CHANNELS)
    rows: Side = 1
    columns: Side = 1
    prefix: int = Field(0, ge=0, le=64)  # number of tokens before those of the places: class and register tokens

    @model_validator(mode="after")
    def _check_layout(self) -> BackboneOutput:
        if self.layout == "pooled" and self.rows * self.columns != 1:
            raise PydanticCustomError("pooled", "A pooled output has one row and one column")
        if self.layout != "tokens" and self.prefix:
            raise PydanticCustomError("prefix", "Only tokens have a prefix")
        return self

    @property
    def is_pooled(self) -> bool:
        """Whether its features are those of the whole image: without places, or with a single one."""
        return self.layout == "pooled" or self.rows * self.columns == 1

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the output for one image."""
        return {
            "channels_first": (self.channels, self.rows, self.columns),
            "channels_last": (self.rows, self.columns, self.channels),
            "tokens": (self.prefix + self.rows * self.columns, self.channels),
            "pooled": (self.channels,),
        }[self.layout]

    def describe(self) -> str:
        """The output in words."""
        places = "" if self.is_pooled else f" at {self.columns} x {self.rows} places"
        return f"'{self.name}' ({self.channels} channels{places})"


class OnnxBackbone(Settings):
    """The user's own backbone in a detector file, whose tensor `backbone.graph` is the graph in ONNX format.

    It gets images of `height` x `width` pixels in 0..1, normalized by `mean` and `std`. `depths` of a family are
    positions in `outputs`, which go from the finest grid to the coarsest. Fitting makes these settings of the file that
    `backbone` names; `Detector.manifest` shows them.

    Example: see `BackboneOutput`.
    """

    name: str  # of the file, or timm:NAME
    source: str
    licence: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")  # of the graph
    height: Side
    width: Side
    mean: Colour
    std: Colour
    outputs: tuple[BackboneOutput, ...] = Field(min_length=1, max_length=MAX_OUTPUTS)


def is_backbone_name(name: str) -> bool:
    """Whether a name is one of `CHOICES`."""
    is_timm = name.removeprefix(TIMM_PREFIX) not in ("", name)
    return name == EFFICIENTNET_LITE0 or is_timm or PurePath(name).suffix.lower() in (".onnx", ".safetensors")


def _validate_backbone(value: Any) -> Any:
    """A backbone by its name, or the one in plain values."""
    if isinstance(value, dict):
        return OnnxBackbone.model_validate(value)
    if not isinstance(value, OnnxBackbone) and not (isinstance(value, str) and is_backbone_name(value)):
        raise PydanticCustomError("backbone", "Must be {choices}", {"choices": CHOICES})
    return value


Backbone = Annotated[str | OnnxBackbone, BeforeValidator(_validate_backbone)]
