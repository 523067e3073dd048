"""First step of fitting: from the parameters of `Detector` to a complete plan, or an error before anything is read."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from oddlens.config.base import DecisionSettings, TrainingSettings
from oddlens.config.detectors import DEFAULT_BUDGET, AutoSettings, FamilySettings
from oddlens.config.parse import parse_model
from oddlens.conformal.ranks import threshold_rank
from oddlens.errors import DataError, SettingsError
from oddlens.inference.torch_backend import resolve_device
from oddlens.models.ensemble import Ensemble
from oddlens.models.registry import family_of

RESERVED_SHARE = 0.05  # of the budget, for what takes longer than estimated
RESERVED_SECONDS = 3.0  # of the budget, for computing the threshold and writing the file
MAX_AUTO_SIDE = 192  # longer side of the input of `auto`: small defects need more than the usual 128


@dataclass(frozen=True)
class FitConfig:
    """The parameters of `Detector`, and whether to hold out calibration images."""

    model: str | FamilySettings | AutoSettings
    training: TrainingSettings | None
    decision: DecisionSettings
    size: int | None
    roi: str | None
    device: str
    budget: float | None
    hold_out: bool


@dataclass(frozen=True)
class FitPlan:
    """Everything that fitting needs to know, every default filled in."""

    settings: FamilySettings | None  # None: `auto` selects the models
    training: TrainingSettings
    decision: DecisionSettings
    size: int | None
    max_side: int | None  # longer side of the input unless `size` is set; None: as usual for single detectors
    roi: str | None
    device: torch.device
    deadline: float  # of time.perf_counter
    holds_out: bool  # calibration images are held out
    robust: bool  # see AutoSettings

    @property
    def strategy(self) -> str:
        """How the model is trained: "auto", or the strategy of its family."""
        return "auto" if self.settings is None else self.settings.strategy

    @property
    def is_ensemble(self) -> bool:
        """Whether several members are brought to one scale, which takes images of its own."""
        return self.strategy in ("auto", "plan")


def resolve(config: FitConfig, n_images: int, has_groups: bool, started: float) -> FitPlan:
    """The plan for so many images, with groups or without; `started` is when fitting began, of time.perf_counter.

    Raises:
        SettingsError: a setting is wrong, or does not go with another one.
        DataError: there are too few images.
        CalibrationError: the images in folds cannot guarantee the requested rate.
    """
    is_auto = config.model == "auto" or isinstance(config.model, AutoSettings)
    settings = None if is_auto else resolve_settings(config.model)
    plan = FitPlan(
        settings=settings,
        training=resolve_training(config, settings),
        decision=config.decision,
        size=config.size,
        max_side=MAX_AUTO_SIDE if settings is None or settings.strategy == "plan" else None,
        roi=config.roi,
        device=resolve_device(config.device),
        deadline=started + resolve_budget(config, settings) * (1 - RESERVED_SHARE) - RESERVED_SECONDS,
        holds_out=config.hold_out and (settings is None or settings.strategy != "folds"),
        robust=isinstance(config.model, AutoSettings) and config.model.robust,
    )
    if n_images < 2:
        raise DataError(f"{n_images} normal image(s) found; fitting needs at least 2, and about 200 to guarantee 1%")
    if settings is not None and settings.n_folds > 1:
        check_folds(config, n_images, has_groups, settings.n_folds)
    return plan


def resolve_settings(model: str | FamilySettings | AutoSettings) -> FamilySettings:
    """The settings of the family that is named.

    Raises:
        SettingsError: there is no such family, or it needs more than a name.
    """
    if model == "ensemble":
        raise SettingsError("an ensemble needs members: use auto, which selects them, or give a plan (--plan)")
    if isinstance(model, str):
        return parse_model({"family": model}, "--detector")
    if isinstance(model, AutoSettings):
        raise SettingsError("auto is not a family; it selects the settings of an ensemble")
    return model


def resolve_training(config: FitConfig, settings: FamilySettings | None) -> TrainingSettings:
    """The default training of the family, with the settings that the user made.

    Raises:
        SettingsError: the family cannot follow one of them.
    """
    if settings is None:
        family, default, check = "auto", TrainingSettings(), Ensemble.check_training
    else:
        model = family_of(settings.base)
        family, default, check = settings.base.family, model.default_training, model.model.check_training
    requested = config.training or default
    changes = {name: getattr(requested, name) for name in requested.model_fields_set}
    if settings is not None and settings.planned_seed is not None:
        changes.setdefault("seed", settings.planned_seed)
    check(family, changes)
    return default.model_copy(update=changes)


def resolve_budget(config: FitConfig, settings: FamilySettings | None) -> float:
    """Seconds that fitting may take.

    Raises:
        SettingsError: it leaves no time, or is set for a plan, which determines how long it trains.
    """
    if config.budget is None:
        return DEFAULT_BUDGET if settings is None else math.inf
    if config.budget <= 0:
        raise SettingsError(f"the budget of {config.budget:g} s leaves no time to fit; give at least some seconds")
    if settings is not None and settings.strategy == "plan":
        raise SettingsError("a plan is trained as it says and takes no budget; leave one of the two out")
    return config.budget


def check_folds(config: FitConfig, n_images: int, has_groups: bool, folds: int) -> None:
    """Refuse what cross-conformal folds cannot do, before training.

    Raises:
        SettingsError: groups, a confidence, a percentile or calibration images from elsewhere are requested.
        DataError: there are no more images than folds.
        CalibrationError: this many images in this many folds cannot guarantee the requested rate.
    """
    decision = config.decision
    if has_groups or decision.confidence is not None or not config.hold_out:
        raise SettingsError(
            "--folds cannot be combined with groups (--group-by), --confidence, or calibration images from elsewhere; "
            "leave those out, or the folds"
        )
    if decision.method != "conformal":
        raise SettingsError("--folds gives no training scores, so there is no percentile of them; use conformal")
    if n_images <= folds:
        raise DataError(f"{n_images} images in {folds} folds can guarantee nothing; use more images or fewer folds")
    if decision.false_alarm_rate is not None:
        threshold_rank(n_images, decision.false_alarm_rate, None, folds)
