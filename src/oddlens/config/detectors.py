"""The settings of each family of detectors and of `auto`, and the table of families.

A family is two files: its settings here, and the module with its model, which `implementation` names and
`models.registry.register_family` ties to them. Names in files and on the command line are looked up in `FAMILIES`,
which only code can extend; they never lead to an import by themselves.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BeforeValidator, Field, SerializeAsAny
from pydantic_core import PydanticCustomError

from oddlens.config.backbones import EFFICIENTNET_LITE0, Backbone, OnnxBackbone
from oddlens.config.base import Settings, TrainingSettings, lists_to_tuples

Strategy = Literal["single", "plan", "folds", "auto"]
BACKBONE_EXCLUDED = "auto has no backbone with robust=True or pretrained=False: they exclude each other; drop one"
Depth = Annotated[int, Field(ge=0, le=63)]  # number of a block of a backbone, or of an output of the user's own

FAMILIES: dict[str, type[FamilySettings]] = {}  # name -> settings; filled by defining subclasses of FamilySettings


class DetectorSettings(Settings, ABC):
    """Base class of the settings of a family, and of `auto`.

    Class variables and properties tell the rest of oddlens what it needs to know without asking for a name.
    """

    family: str

    strategy: ClassVar[Strategy] = "single"  # how it is trained; see training.strategies
    default_budget: ClassVar[float | None] = None  # seconds for fitting unless a budget is set; None: no limit
    needs_plan: ClassVar[bool] = False  # a name is not enough to fit it
    is_composite: ClassVar[bool] = False  # made of several detectors, so that it cannot be one of them
    scores_reconstruction: ClassVar[bool] = False  # the anomaly score is a reconstruction error

    @property
    def title(self) -> str:
        """Name of the detector in remarks: its family, and what sets it apart from others of the family."""
        return self.family

    @property
    def uses_pretrained(self) -> bool:
        """Whether it, or a part of it, compares features of a network that was trained on other images."""
        return False

    @property
    def backbones(self) -> frozenset[str | OnnxBackbone]:
        """The backbones of the detector or of its parts."""
        return frozenset()

    @property
    def own_backbone(self) -> OnnxBackbone | None:
        """The user's own backbone, which the detector file contains, if it has one."""
        return next((backbone for backbone in self.backbones if isinstance(backbone, OnnxBackbone)), None)

    @property
    def tolerates_contamination(self) -> bool:
        """Whether it is trained for images some of which may be anomalies."""
        return False

    @property
    def n_folds(self) -> int:
        """Number of folds of the training images, each of which one model leaves out; 1 without folds."""
        return 1

    @property
    def planned_members(self) -> tuple[Member, ...]:
        """The members that the settings name; none where there are none, or they are still to be selected."""
        return ()

    @property
    def training_family(self) -> str:
        """The name, for messages, of what training settings apply to."""
        return self.family

    @property
    @abstractmethod
    def training_class(self) -> type[FamilySettings]:
        """The class of the settings of the model that training settings apply to."""


class FamilySettings(DetectorSettings):
    """Base class of a family's settings.

    A subclass with a `family` of its own enters `FAMILIES` under each name that its `family` admits.

    Raises:
        TypeError: another class has that name already.
    """

    implementation: ClassVar[str] = ""  # module that registers the model; empty where it is imported already

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if "family" not in inspect.get_annotations(cls):
            return
        for name in get_args(cls.model_fields["family"].annotation):
            if name in FAMILIES:
                raise TypeError(f"the family {name!r} is defined by {FAMILIES[name].__qualname__}; choose another name")
            FAMILIES[name] = cls

    @property
    def base(self) -> FamilySettings:
        """The settings of the models that training settings apply to: these, or those of each fold's model."""
        return self

    @property
    def training_class(self) -> type[FamilySettings]:
        """The class of `base`."""
        return type(self.base)

    def map_backbones(self, change: Callable[[PretrainedSettings], PretrainedSettings]) -> FamilySettings:
        """The settings with each part that has a backbone changed by `change`."""
        return self


class AutoencoderSettings(FamilySettings):
    """The autoencoder family; the defaults are those of the CIFAR-10 reference recipe.

    `pooling` is convolution + max-pooling down, up-sampling + convolution back (the MNIST reference recipe);
    `strided` is strided convolutions, a linear bottleneck of `latent_dim`, and transposed
    convolutions back. `error` is the error at each pixel of the anomaly map. `noise` is the standard deviation, in
    units of the value range, of Gaussian noise added to the training inputs (denoising). `score` defines the anomaly
    score: "error", the mean of the largest `top_percent` of the map (100: the plain mean); "sap" and "nap", the
    distance between the hidden activations of an image and of its reconstruction, plain or whitened (RaPP); "latent",
    the Mahalanobis distance of the bottleneck from those of the training images, with shrinkage.

    Raises:
        SettingsError: a setting is wrong or unknown.

    Source: `sap` and `nap`, Kim et al., "RaPP", 2020.

    Example:
        >>> from oddlens import AutoencoderSettings, Detector
        >>> detector = Detector(AutoencoderSettings(architecture="pooling", loss="bce"))
    """

    implementation = "oddlens.models.autoencoder"
    scores_reconstruction = True

    family: Literal["autoencoder"] = "autoencoder"
    architecture: Literal["pooling", "strided"] = "strided"
    widths: tuple[Annotated[int, Field(ge=1, le=1024)], ...] = Field((32, 64, 128), min_length=1, max_length=6)
    latent_dim: int = Field(128, ge=1, le=4096)
    loss: Literal["bce", "mse", "l1", "ssim"] = "mse"
    error: Literal["mse", "l1", "ssim"] = "mse"
    score: Literal["error", "sap", "nap", "latent"] = "error"
    top_percent: float = Field(100.0, gt=0, le=100)
    noise: float = Field(0.0, ge=0, le=1)


class DictionarySettings(FamilySettings):
    """The dictionary family: whitened patches, pooled features, nearest neighbours. Closed form; no gradients.

    `score` compares features of the whole image ("pooled": small images of objects), or of the most unusual positions
    ("local": textures, large images), of which `top_percent` of the pixels count. `patch_sizes` are the sides of the
    patches, each with its own `atoms`; the map is computed from the first size. Features are pooled over `cells` parts
    each way. `neighbours` is the number of nearest normal features. `mirror` adds the training images' mirror images.
    `place` is the weight of the position in the image; 0 for textures. `bank_megabytes` limits the size of the memory
    bank of training features.

    Raises:
        SettingsError: a setting is wrong or unknown.

    Source: features after Coates and Ng 2012.

    Example:
        >>> from oddlens import Detector, DictionarySettings
        >>> detector = Detector(DictionarySettings(score="local", patch_sizes=(4, 8)))
    """

    implementation = "oddlens.models.patch_dictionary"

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


class RotationSettings(FamilySettings):
    """The rotation family, also called transforms: a network that classifies rotations by multiples of 90 degrees.

    Images are downscaled to `side` x `side` at most. With `mirror`, mirrored normal images count as normal. `widths`
    are the channels of the three blocks; `strided` blocks halve the image by a stride, which trains faster and is a
    little less accurate than pooling. `neighbours` is the number of nearest training features whose distance is the
    density part of the score, and `bank` the number of training images in the memory bank. `surprise` is the weight of
    the log-probabilities of the true rotations relative to the log-distances. `scored_rotations` is 4, or 1 to score an
    image only as it is, in a quarter of the time and a little less accurately.

    Raises:
        SettingsError: a setting is wrong or unknown.

    Source: Gidaris et al. 2018; Golan and El-Yaniv 2018.

    Example:
        >>> from oddlens import Detector, RotationSettings
        >>> detector = Detector(RotationSettings(mirror=False))
    """

    implementation = "oddlens.models.rotation"

    family: Literal["rotation", "transforms"] = "rotation"
    side: int = Field(32, ge=16, le=64)
    mirror: bool = True
    widths: tuple[Annotated[int, Field(ge=4, le=1024)], ...] = Field((64, 128, 256), min_length=3, max_length=3)
    strided: bool = False
    neighbours: int = Field(5, ge=1, le=100)
    bank: int = Field(1000, ge=2, le=100_000)
    surprise: float = Field(0.1, ge=0, le=10)
    scored_rotations: Literal[1, 4] = 4


class DefectsSettings(FamilySettings):
    """The defects family: a network that segments synthetic defects pasted into normal images.

    `shrink` is the factor by which images are downscaled: larger values suit large defects, 1 small ones. `widths` are
    the channels of the levels, from half the (downscaled) image's size on, each level half the one before; small images
    use the first few. `top_percent` is the percentage of the map whose mean is the anomaly score.

    Raises:
        SettingsError: a setting is wrong or unknown.

    Source: Li et al., "CutPaste", 2021; Zavrtanik et al., "DRAEM", 2021; Schlüter et al. 2022.

    Example:
        >>> from oddlens import DefectsSettings, Detector
        >>> detector = Detector(DefectsSettings(shrink=2))
    """

    implementation = "oddlens.models.defect_segmentation"

    family: Literal["defects"] = "defects"
    shrink: int = Field(1, ge=1, le=8)
    widths: tuple[Annotated[int, Field(ge=4, le=1024)], ...] = Field((32, 64, 96, 128, 128), min_length=1, max_length=8)
    top_percent: float = Field(0.5, gt=0, le=100)

    @property
    def title(self) -> str:
        """The family, with its scale where it is not the images' own."""
        return f"{self.family} at 1/{self.shrink} of the size" if self.shrink > 1 else self.family


class PretrainedSettings(FamilySettings):
    """Base class of the families that compare the features of a frozen backbone.

    `backbone` is "efficientnet-lite0", trained on ImageNet, which the extra `pretrained` brings, or the user's own: the
    path of an .onnx file, "timm:NAME", or the path of a detector that has one. Fitting makes an `OnnxBackbone` of it.
    `depths` are the blocks of the former, or the outputs of the latter, whose features are compared; unless they are
    set, the last two outputs. Smaller images are enlarged to a longer side of `side` pixels.
    """

    backbone: Backbone = EFFICIENTNET_LITE0
    depths: tuple[Depth, ...]
    side: int = Field(128, ge=16, le=1024)

    @property
    def uses_pretrained(self) -> bool:
        """It does."""
        return True

    @property
    def backbones(self) -> frozenset[str | OnnxBackbone]:
        """Its backbone."""
        return frozenset([self.backbone])

    def map_backbones(self, change: Callable[[PretrainedSettings], PretrainedSettings]) -> FamilySettings:
        """The settings changed by `change`."""
        return change(self)

    @property
    def compares_classes(self) -> bool:
        """Whether it compares the classes that the backbone finds, too."""
        return False

    @property
    def light_varies(self) -> bool:
        """Whether brightness alone does not make an image anomalous."""
        return False


class PlaceSettings(PretrainedSettings):
    """Base class of the families that compare features at each place of the image.

    With `light` "varies", the light may be somewhat
    brighter or darker than in the training images without making an image anomalous; with "fixed", brightness counts
    like everything else.
    """

    light: Literal["varies", "fixed"] = "varies"

    @property
    def light_varies(self) -> bool:
        """Whether brightness alone does not make an image anomalous."""
        return self.light == "varies"


class PadimSettings(PlaceSettings):
    """The padim family: a Gaussian distribution of a backbone's features at each place of the image. Closed form.

    `depths` are the blocks of the backbone by whose features images are scored: deep ones tell defects from harmless
    differences. Their maps are added, and `top_percent` of the places count. The map has the features of the blocks
    `map_depths`: shallow ones show where a defect is more precisely, deep ones whether it is one. `defect_weight` is
    the weight of a head that learns to tell synthetic defects from normal features, relative to the Gaussians; with 0
    there is none.

    Raises:
        SettingsError: a setting is wrong or unknown.

    Source: after Defard et al., "PaDiM", 2021.

    Example:
        >>> from oddlens import Detector, PadimSettings
        >>> detector = Detector(PadimSettings(light="fixed"))
    """

    implementation = "oddlens.models.pretrained.padim"

    family: Literal["padim"] = "padim"
    depths: tuple[Depth, ...] = Field((10, 14), min_length=1, max_length=4)
    map_depths: tuple[Depth, ...] = Field((3, 4, 7, 14), min_length=1, max_length=4)
    top_percent: float = Field(5.0, gt=0, le=100)
    defect_weight: float = Field(0.0, ge=0, le=10)


class PatchcoreSettings(PlaceSettings):
    """The patchcore family: the distance of a backbone's features at each place from those of normal images.

    `depths` are the blocks of the backbone, whose features are compared together. `bank_megabytes` limits the size of
    the memory bank, in which each training image has equally many places; `top_percent` of the places count.

    Raises:
        SettingsError: a setting is wrong or unknown.

    Source: after Roth et al., "PatchCore", 2022.

    Example:
        >>> from oddlens import Detector, PatchcoreSettings
        >>> detector = Detector(PatchcoreSettings(bank_megabytes=24.0))
    """

    implementation = "oddlens.models.pretrained.patchcore"

    family: Literal["patchcore"] = "patchcore"
    depths: tuple[Depth, ...] = Field((10, 14), min_length=1, max_length=4)
    bank_megabytes: float = Field(12.0, gt=0, le=1024)
    top_percent: float = Field(5.0, gt=0, le=100)


class FeaturesSettings(PretrainedSettings):
    """The features family: a backbone's features of the whole image, for small images of one object each.

    Smaller images are enlarged to `side`. The score has the distances from the Gaussian distributions of normal images
    at the blocks `depths` of the backbone, the distance from the nearest of at most `bank` normal images, and with the
    weight `class_weight` how much less probable the classes that the backbone finds in the image are among normal
    images than among photographs of all kinds; a backbone of the user's own has no classes. `mirror` adds the training
    images' mirror images.

    Raises:
        SettingsError: a setting is wrong or unknown.

    Source: Gaussians of deep features after Rippel et al. 2021.

    Example:
        >>> from oddlens import Detector, FeaturesSettings
        >>> detector = Detector(FeaturesSettings(mirror=True))
    """

    implementation = "oddlens.models.pretrained.features"

    family: Literal["features"] = "features"
    depths: tuple[Depth, ...] = Field((14, 15, 16), min_length=1, max_length=4)
    side: int = Field(128, ge=16, le=512)
    mirror: bool = False
    class_weight: float = Field(2.0, ge=0, le=100)
    bank: int = Field(5000, ge=2, le=100_000)

    @property
    def compares_classes(self) -> bool:
        """Whether classes have a weight, and the backbone has classes."""
        return self.class_weight > 0 and self.backbone == EFFICIENTNET_LITE0


def _validate_family(value: Any) -> Any:
    """Settings of the family that plain values name; anything else is left to pydantic."""
    if not isinstance(value, dict):
        return value
    family = value.get("family")
    if family is None:
        raise PydanticCustomError("no_family", "has no 'family'; name a detector: auto, {families}", _family_names())
    if not isinstance(family, str) or family not in FAMILIES:
        message = "{family} is not a detector; there are auto, {families}"
        raise PydanticCustomError("unknown_family", message, {"family": repr(family), **_family_names()})
    return FAMILIES[family].model_validate(lists_to_tuples(value))


def _validate_single(value: Any) -> Any:
    """Settings of a single detector, which is not itself made of several, that plain values name."""
    model = _validate_family(value)
    if isinstance(model, FamilySettings) and model.is_composite:
        singles = ", ".join(name for name, settings in FAMILIES.items() if not settings.is_composite)
        raise PydanticCustomError("composite", "must be a single detector: {families}", {"families": singles})
    return model


def _family_names() -> dict[str, str]:
    return {"families": ", ".join(FAMILIES)}


AnyModel = Annotated[SerializeAsAny[FamilySettings], BeforeValidator(_validate_family)]
SingleModel = Annotated[SerializeAsAny[FamilySettings], BeforeValidator(_validate_single)]


class Member(Settings):
    """One detector of an ensemble, how it is trained, and how much its standardized score counts.

    Example: see `EnsembleSettings`.
    """

    model: SingleModel
    training: TrainingSettings = TrainingSettings()
    weight: float = Field(1.0, gt=0, le=100)


class EnsembleSettings(FamilySettings):
    """The ensemble family: the weighted sum of its members' standardized raw scores.

    Raises:
        SettingsError: a setting is wrong or unknown.

    Example:
        >>> from oddlens import AutoencoderSettings, Detector, DictionarySettings, EnsembleSettings, Member
        >>> members = Member(model=AutoencoderSettings()), Member(model=DictionarySettings(), weight=2.0)
        >>> detector = Detector(EnsembleSettings(members=members))
    """

    implementation = "oddlens.models.ensemble"
    strategy = "plan"
    needs_plan = True
    is_composite = True

    family: Literal["ensemble"] = "ensemble"
    members: tuple[Member, ...] = Field(min_length=1, max_length=16)

    @property
    def uses_pretrained(self) -> bool:
        """Whether a member does."""
        return any(member.model.uses_pretrained for member in self.members)

    @property
    def backbones(self) -> frozenset[str | OnnxBackbone]:
        """Those of the members."""
        return frozenset().union(*(member.model.backbones for member in self.members))

    @property
    def planned_members(self) -> tuple[Member, ...]:
        """The members."""
        return self.members

    def map_backbones(self, change: Callable[[PretrainedSettings], PretrainedSettings]) -> FamilySettings:
        """The ensemble with each member that has a backbone changed."""
        changed = (m.model_copy(update={"model": m.model.map_backbones(change)}) for m in self.members)
        return self.model_copy(update={"members": tuple(changed)})


class CrossfitSettings(FamilySettings):
    """The crossfit family: `folds` detectors of one family, each trained without one fold of the normal images.

    Raises:
        SettingsError: a setting is wrong or unknown.

    Source: cross-conformal prediction, Vovk 2015.

    Example:
        >>> from oddlens import CrossfitSettings, Detector, DictionarySettings
        >>> detector = Detector(CrossfitSettings(model=DictionarySettings(), folds=10))
    """

    implementation = "oddlens.models.cross_conformal"
    strategy = "folds"
    is_composite = True

    family: Literal["crossfit"] = "crossfit"
    model: SingleModel
    folds: int = Field(5, ge=2, le=20)

    @property
    def n_folds(self) -> int:
        """Number of folds."""
        return self.folds

    @property
    def uses_pretrained(self) -> bool:
        """Whether each fold's model does."""
        return self.model.uses_pretrained

    @property
    def backbones(self) -> frozenset[str | OnnxBackbone]:
        """Those of each fold's model."""
        return self.model.backbones

    def map_backbones(self, change: Callable[[PretrainedSettings], PretrainedSettings]) -> FamilySettings:
        """The folds of a changed model."""
        return self.model_copy(update={"model": self.model.map_backbones(change)})

    @property
    def base(self) -> FamilySettings:
        """The settings of each fold's model."""
        return self.model

    @property
    def training_family(self) -> str:
        """The family of each fold's model."""
        return self.model.family


class AutoSettings(DetectorSettings):
    """Not a family: `auto` selects, trains and weights the members of an ensemble for the training images.

    `robust` is for finding anomalies among the training images themselves: other anomalies of the same kind must not
    make them look normal. It compares with many neighbours, and weights the predictions of a network more than
    distances to training images.

    With `pretrained`, the members may have a backbone that was trained on other images, where its weights are
    installed, unless `robust`: their Gaussians would take anomalies in. `backbone` and `light` are those of these
    members (see `PlaceSettings`).

    Raises:
        SettingsError: a setting is wrong or unknown.

    Example:
        >>> from oddlens import AutoSettings, Detector
        >>> detector = Detector(AutoSettings(pretrained=False))
    """

    strategy = "auto"
    default_budget = 300.0
    is_composite = True

    family: Literal["auto"] = "auto"
    robust: bool = False
    pretrained: bool = True
    backbone: Backbone = EFFICIENTNET_LITE0
    light: Literal["varies", "fixed"] = "varies"

    @property
    def takes_backbone(self) -> bool:
        """Whether members may have a backbone."""
        return self.pretrained and not self.robust

    @property
    def backbones(self) -> frozenset[str | OnnxBackbone]:
        """That of its members."""
        return frozenset([self.backbone] if self.takes_backbone else [])

    @property
    def tolerates_contamination(self) -> bool:
        """Whether it is `robust`."""
        return self.robust

    @property
    def training_class(self) -> type[FamilySettings]:
        """An ensemble."""
        return EnsembleSettings


def _validate_detector(value: Any) -> Any:
    """Settings of `auto` or of the family that plain values name."""
    if isinstance(value, dict) and value.get("family") == "auto":
        return AutoSettings.model_validate(value)
    return _validate_family(value)


AnyDetector = Annotated[SerializeAsAny[DetectorSettings], BeforeValidator(_validate_detector)]


def settings_class(family: object) -> type[DetectorSettings] | None:
    """The class of the settings of `auto` or of a family by its name; None where there is no such detector."""
    return AutoSettings if family == "auto" else FAMILIES.get(family) if isinstance(family, str) else None
