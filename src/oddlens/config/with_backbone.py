"""The settings of the families that compare the features of a network trained on other images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import Field

from oddlens.config.backbones import EFFICIENTNET_LITE0, Backbone, OnnxBackbone
from oddlens.config.family import FamilySettings

Depth = Annotated[int, Field(ge=0, le=63)]  # number of a block of a backbone, or of an output of the user's own


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
    differences. Their maps are added, and `top_percent` of the places count. The blocks `fine_depths`, less deep ones,
    show finer defects: the largest 1% of the places of their maps are a second score, and the larger of both counts.
    The map has the features of the blocks `map_depths`: shallow ones show where a defect is more precisely, deep ones
    whether it is one. `defect_weight` is the weight of a head that learns to tell synthetic defects from normal
    features, relative to the Gaussians; with 0 there is none. Where light varies, an image's mean features are
    subtracted at the blocks `depths`, and at others the share `map_mean_share` of them: all of it hides part of a
    defect that covers much of the image. Copies of the training images that are shifted by up to `shift` pixels, and
    by a 64th of the shorter side at most, are learned as well, so that parts may lie a little differently.

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
    fine_depths: tuple[Depth, ...] = Field((), max_length=4)
    top_percent: float = Field(5.0, gt=0, le=100)
    defect_weight: float = Field(0.0, ge=0, le=10)
    map_mean_share: float = Field(1.0, ge=0, le=1)
    shift: int = Field(0, ge=0, le=64)


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
