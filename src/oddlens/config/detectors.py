"""The settings of `auto` and of each family of detectors, which `FAMILIES` has by their names.

A family is two files: its settings, in one of the modules that are imported here, and the module with its model, which
`implementation` names and `models.registry.register_family` ties to them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, field_validator
from pydantic_core import PydanticCustomError

from oddlens.config.backbones import EFFICIENTNET_LITE0, Backbone, OnnxBackbone
from oddlens.config.base import Settings, TrainingSettings, lists_to_tuples
from oddlens.config.family import FAMILIES, DetectorSettings, FamilySettings, Strategy
from oddlens.config.from_scratch import AutoencoderSettings, DefectsSettings, DictionarySettings, RotationSettings
from oddlens.config.with_backbone import (
    FeaturesSettings,
    PadimSettings,
    PatchcoreSettings,
    PlaceSettings,
    PretrainedSettings,
)

__all__ = [
    "BACKBONE_EXCLUDED", "FAMILIES", "AnyDetector", "AnyModel", "AutoSettings", "AutoencoderSettings",
    "CrossfitSettings", "DefectsSettings", "DetectorSettings", "DictionarySettings", "EnsembleSettings",
    "FamilySettings", "FeaturesSettings", "Member", "PadimSettings", "PatchcoreSettings", "PlaceSettings",
    "PretrainedSettings", "RotationSettings", "SingleModel", "Strategy", "settings_class",
]  # fmt: skip

BACKBONE_EXCLUDED = "auto has no backbone with robust=True or pretrained=False: they exclude each other; drop one"


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
    """One detector of an ensemble, how it is trained, and how much its standardized score and its map count.

    With `map_only`, its score does not count.

    Example: see `EnsembleSettings`.
    """

    model: SingleModel
    training: TrainingSettings = TrainingSettings()
    weight: float = Field(1.0, gt=0, le=100)
    map_only: bool = False


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

    @field_validator("members")
    @classmethod
    def _score(cls, members: tuple[Member, ...]) -> tuple[Member, ...]:
        if all(member.map_only for member in members):
            raise ValueError("all members are map_only; at least one must count for the score")
        return members

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
    members (see `PlaceSettings`); `light` is also that of the dictionary beside them.

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
