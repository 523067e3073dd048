"""Frozen, strict settings: what a recipe says and what a detector's manifest keeps.

Every class refuses unknown keys and wrong types, and survives a round trip through JSON. Nothing
here touches an image or a tensor, so a deployed detector can read its own manifest without torch.
"""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from oddlens.errors import SettingsError

MAX_SIDE = 4096
BUDGET = 300.0  # seconds that `auto` takes at most unless told otherwise
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
    convolutions back. `error` is what the anomaly map holds at each pixel. `noise` is the sigma, in units of the
    value range, of Gaussian noise added to the training inputs (denoising). `score` is what the anomaly score is:
    "error", the mean of the map's largest `top_percent` (100 = plain mean); "sap" and "nap", how far the hidden
    activations of an image and of its reconstruction lie apart, plain or whitened (RaPP); "latent", how far the
    bottleneck lies from the training images' (shrunk Mahalanobis).
    """

    family: Literal["autoencoder"] = "autoencoder"
    architecture: Literal["pooling", "strided"] = "strided"
    widths: tuple[Annotated[int, Field(ge=1, le=1024)], ...] = Field((32, 64, 128), min_length=1, max_length=6)
    latent_dim: int = Field(128, ge=1, le=4096)
    loss: Literal["bce", "mse", "l1", "ssim"] = "mse"
    error: Literal["mse", "l1", "ssim"] = "mse"
    score: Literal["error", "sap", "nap", "latent"] = "error"
    top_percent: float = Field(100.0, gt=0, le=100)
    noise: float = Field(0.0, ge=0, le=1)


class DictionarySettings(Settings):
    """The dictionary family: whitened patches, pooled features, nearest neighbours. Closed form; no gradients.

    `score` is made from descriptions of the whole picture ("pooled": small pictures of objects), or from the most
    unusual places ("local": textures, large pictures), of which `top_percent` of the pixels count. `patch_sizes` are
    the sides of the patches, each with its own `atoms`; the first one makes the map. `cells` is the number of parts
    each way over which a picture is described. `neighbours` is the number of nearest normal ones. `mirror` adds the
    training images' mirror images. `place` is how much it matters where in the picture something is; 0 for textures.
    `bank_megabytes` caps what is kept of the training images.
    """

    family: Literal["dictionary"] = "dictionary"
    score: Literal["pooled", "local"] = "pooled"
    patch_sizes: tuple[Annotated[int, Field(ge=2, le=32)], ...] = Field((6,), min_length=1, max_length=4)
    atoms: int = Field(150, ge=2, le=2000)
    cells: int = Field(2, ge=1, le=8)
    neighbours: int = Field(2, ge=1, le=100)
    mirror: bool = False
    place: float = Field(1.0, ge=0, le=100)
    top_percent: float = Field(1.0, gt=0, le=100)
    bank_megabytes: float = Field(16.0, gt=0, le=1024)


class TransformsSettings(Settings):
    """The transforms family: a small network that tells by how many quarter turns a picture was rotated.

    Pictures are brought to `side` x `side` at most. `mirror` says that a mirrored normal picture is normal too.
    `widths` are the channels of its three blocks; `strided` blocks halve the picture by a stride, which trains faster
    and ends a little worse than pooling. `neighbours` is the number of nearest training features whose distance is
    the density part of the score, and `bank` the number of training images whose features are kept. `surprise` is the
    weight of the log-probabilities of the right turns beside the log-distances.
    """

    family: Literal["transforms"] = "transforms"
    side: int = Field(32, ge=16, le=64)
    mirror: bool = True
    widths: tuple[Annotated[int, Field(ge=4, le=1024)], ...] = Field((64, 128, 256), min_length=3, max_length=3)
    strided: bool = False
    neighbours: int = Field(5, ge=1, le=100)
    bank: int = Field(1000, ge=2, le=100_000)
    surprise: float = Field(0.1, ge=0, le=10)


class DefectsSettings(Settings):
    """The defects family: a network that segments synthetic defects pasted into normal images.

    `shrink` is the number of pixels each way whose mean it sees as one: more finds large defects, 1 small ones.
    `widths` are the channels of its levels, from half the picture's (shrunk) size on, each level half the one before;
    small pictures use the first few. `top_percent` is the share of the map whose mean is the anomaly score.
    """

    family: Literal["defects"] = "defects"
    shrink: int = Field(1, ge=1, le=8)
    widths: tuple[Annotated[int, Field(ge=4, le=1024)], ...] = Field((32, 64, 96, 128, 128), min_length=1, max_length=8)
    top_percent: float = Field(0.5, gt=0, le=100)


MemberModel = Annotated[
    AutoencoderSettings | DictionarySettings | TransformsSettings | DefectsSettings, Field(discriminator="family")
]


class TrainingSettings(Settings):
    """How gradient training runs; the defaults are the CIFAR-10 seed's.

    An epoch goes through all images, or through `epoch_images` of them drawn anew. `muon` steps
    convolutions along their orthogonalised momentum. `linear` lowers the learning rate to nothing over the whole
    training; `one_cycle` raises it over the first fifth before that. `pace` is the share of
    the whole training that was done after each epoch, where a budget made it other than even; it replaces
    `epochs`. `precision` "auto" trains in bfloat16 where the processor has instructions for it; weights,
    optimiser state and all scoring stay in float32.
    """

    epochs: int = Field(10, ge=1, le=100_000)
    epoch_images: int | None = Field(None, ge=1)
    batch_size: int = Field(64, ge=1, le=65_536)
    learning_rate: float = Field(1e-3, gt=0, le=10)
    optimizer: Literal["adam", "muon"] = "adam"
    schedule: Literal["constant", "linear", "one_cycle"] = "constant"
    weight_decay: float = Field(0.0, ge=0, le=1)
    pace: tuple[Annotated[float, Field(gt=0, le=1)], ...] = ()
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    seed: int = Field(0, ge=0, lt=2**31)

    @model_validator(mode="after")
    def _goes_together(self) -> TrainingSettings:
        if any(after <= before for before, after in pairwise(self.pace)):
            raise ValueError("pace must rise from epoch to epoch")
        if self.optimizer == "muon" and self.weight_decay:
            raise ValueError("muon keeps convolutions at a fixed norm and takes no weight_decay")
        return self


# How each family trains unless told otherwise; closed-form families take the seed alone.
TRAINING: dict[str, TrainingSettings] = {
    "autoencoder": TrainingSettings(),
    "dictionary": TrainingSettings(),
    "transforms": TrainingSettings(
        epochs=120, epoch_images=512, learning_rate=3e-3, optimizer="muon", schedule="linear"
    ),
    "defects": TrainingSettings(
        epochs=100, epoch_images=256, batch_size=16, learning_rate=3e-3, optimizer="muon", schedule="one_cycle"
    ),
    "ensemble": TrainingSettings(),
}


class Member(Settings):
    """One detector of an ensemble, how it is trained, and how much its standardised score counts."""

    model: MemberModel
    training: TrainingSettings = TrainingSettings()
    weight: float = Field(1.0, gt=0, le=100)


class EnsembleSettings(Settings):
    """The ensemble family: the weighted sum of its members' standardised raw scores."""

    family: Literal["ensemble"] = "ensemble"
    members: tuple[Member, ...] = Field(min_length=1, max_length=16)


class CrossfitSettings(Settings):
    """The crossfit family: `folds` detectors of one family, each trained without one fold of the normal images."""

    family: Literal["crossfit"] = "crossfit"
    model: MemberModel
    folds: int = Field(5, ge=2, le=20)


ModelSettings = (
    AutoencoderSettings
    | DictionarySettings
    | TransformsSettings
    | DefectsSettings
    | EnsembleSettings
    | CrossfitSettings
)  # told apart by `family`


class AutoSettings(Settings):
    """Not a family: `auto` chooses, trains and weights an ensemble for the pictures that it is given.

    `robust` is for images of which some may be anomalies, to find those: others of their kind that were learned must
    not make them look normal. So more is compared with many neighbours, and what a network predicts counts for more
    than what it remembers.
    """

    family: Literal["auto"] = "auto"
    robust: bool = False


AnyModel = Annotated[ModelSettings, Field(discriminator="family")]
FAMILIES: dict[str, type[Settings]] = {
    "autoencoder": AutoencoderSettings,
    "dictionary": DictionarySettings,
    "transforms": TransformsSettings,
    "defects": DefectsSettings,
    "ensemble": EnsembleSettings,
    "crossfit": CrossfitSettings,
}


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


class RuntimeSettings(Settings):
    """What computes a detector's scores, and how precisely. Scores, and so thresholds, are of one runtime.

    `torch` runs `.safetensors` files; `onnxruntime` and `openvino` run exported ones. "bf16" multiplies in bfloat16,
    which moves scores by parts in a thousand; ONNX Runtime's CPU provider has no such arithmetic.
    """

    engine: Literal["torch", "onnxruntime", "openvino"] = "torch"
    precision: Literal["fp32", "bf16"] = "fp32"

    @model_validator(mode="after")
    def _goes_together(self) -> RuntimeSettings:
        if self.engine == "onnxruntime" and self.precision == "bf16":
            raise ValueError("onnxruntime computes in fp32 alone: take openvino for bf16, or the precision fp32")
        return self


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
    model: Annotated[ModelSettings | AutoSettings, Field(discriminator="family")] = AutoencoderSettings()
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
