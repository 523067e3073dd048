"""First step of fitting: from the parameters of `Detector` to a complete plan, or an error before anything is read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from oddlens.config.backbones import EFFICIENTNET_LITE0
from oddlens.config.base import DecisionSettings, Tiling, TrainingSettings
from oddlens.config.detectors import AutoSettings, DetectorSettings, Strategy
from oddlens.config.manifest import CountBy
from oddlens.config.parse import check_choice, parse_detector
from oddlens.conformal.ranks import threshold_rank
from oddlens.conformal.schemes import in_folds
from oddlens.data.image_io import Pixels
from oddlens.data.training_images import ENSEMBLE_SIDES, PRETRAINED_SIDES, MaxSides
from oddlens.errors import DataError, SettingsError
from oddlens.inference.torch_backend import resolve_device
from oddlens.models.backbones.efficientnet_lite import is_installed
from oddlens.models.backbones.onnx_graph import BackboneFile
from oddlens.models.ranks import ALONE, Ranks
from oddlens.models.registry import registered_family
from oddlens.training.own_backbone import input_sides, open_backbone
from oddlens.training.tiling import Tile, check_tile

RESERVED_SHARE = 0.05  # of the budget, for what takes longer than estimated
RESERVED_SECONDS = 3.0  # of the budget, for computing the threshold and writing the file
MAX_SCORED_TRAINING_IMAGES = 500  # of ensembles, with which scoring an image takes time
MIN_SCORED_TRAINING_IMAGES = 100  # for which the budget sets time aside; the others are scored if time is left


Calibration = Literal["auto", "held_out", "leave_one_out"]


@dataclass(frozen=True)
class FitConfig:
    """The parameters of `Detector` and of its `fit`: which images calibrate, and what counts as one of them."""

    model: str | DetectorSettings
    training: TrainingSettings | None
    decision: DecisionSettings
    size: int | None
    roi: str | None
    device: str
    budget: float | None
    hold_out: bool
    calibration: Calibration = "auto"
    count_by: CountBy = "group"
    tile: Tile = "auto"
    ranks: Ranks = ALONE


@dataclass(frozen=True)
class FitPlan:
    """Everything that fitting needs to know, every default filled in."""

    settings: DetectorSettings
    training: TrainingSettings
    decision: DecisionSettings
    size: int | None
    max_sides: MaxSides | None  # of the input unless `size` is set; None: as usual for single detectors
    roi: str | None
    device: torch.device
    deadline: float  # of time.perf_counter
    holds_out: bool  # calibration images are held out
    leaves_one_out: bool = False  # each training image calibrates, scored without itself
    count_by: CountBy = "group"
    tile: Tile = "off"
    seconds: float = math.inf  # for fitting
    tiling: Tiling | None = None  # of the images, once their sizes are known
    backbone: BackboneFile | None = None  # the user's own
    ranks: Ranks = ALONE  # the processes that train together

    @property
    def strategy(self) -> Strategy:
        """How the model is trained."""
        return self.settings.strategy

    @property
    def is_ensemble(self) -> bool:
        """Whether several members are brought to one scale, which takes images of its own."""
        return self.strategy in ("auto", "plan")

    def scored_images(self, train: Pixels) -> Pixels:
        """The training images (N, H, W, C) whose scores are kept: all, or for ensembles some, evenly spaced."""
        return spaced(train, MAX_SCORED_TRAINING_IMAGES) if self.is_ensemble else train

    def n_images_to_score(self, train: Pixels, calibration: Pixels) -> int:
        """Number of images for whose scoring the budget sets time aside."""
        n_scored = len(self.scored_images(train))
        return len(calibration) + (min(n_scored, MIN_SCORED_TRAINING_IMAGES) if self.may_score_fewer else n_scored)

    @property
    def may_score_fewer(self) -> bool:
        """Whether the scores of some training images may be left out where time is short."""
        return self.deadline < math.inf and self.decision.method != "train_percentile"


def spaced(pixels: Pixels, count: int) -> Pixels:
    """At most so many of the pixels (N, H, W, C), evenly spaced."""
    return pixels[:: max(1, -(-len(pixels) // count))]


def resolve(config: FitConfig, n_images: int, has_groups: bool, started: float) -> FitPlan:
    """The plan for so many images, with groups or without; `started` is when fitting began, of time.perf_counter.

    Raises:
        SettingsError: a setting is wrong, or does not go with another one.
        DataError: there are too few images.
        CalibrationError: the images in folds cannot guarantee the requested rate.
    """
    check_choice("calibration", config.calibration, get_args(Calibration))
    check_choice("count_by", config.count_by, get_args(CountBy))
    settings = parse_detector(config.model) if isinstance(config.model, str) else config.model
    if config.decision.method == "train_percentile":
        settings = without_backbone(settings)
    leaves_one_out = resolve_calibration(config, settings, has_groups)
    check_tile(config.tile)
    seconds = resolve_budget(config.budget, settings)
    backbone = open_backbone(settings)
    plan = FitPlan(
        settings=settings,
        training=resolve_training(config.training, settings),
        decision=config.decision,
        size=config.size,
        max_sides=resolve_sides(settings) if backbone is None else input_sides(backbone),
        roi=config.roi,
        device=resolve_device(config.device),
        deadline=started + seconds * (1 - RESERVED_SHARE) - RESERVED_SECONDS,
        holds_out=config.hold_out and settings.strategy != "folds" and not leaves_one_out,
        leaves_one_out=leaves_one_out,
        count_by=config.count_by,
        tile="off" if settings.strategy == "folds" else config.tile,
        seconds=seconds,
        backbone=backbone,
        ranks=config.ranks,
    )
    if n_images < 2:
        raise DataError(f"{n_images} normal image(s) found; fitting needs at least 2, and about 200 to guarantee 1%")
    if settings.strategy == "folds":
        check_folds(config, n_images, has_groups, settings.n_folds)
    return plan


def without_backbone(settings: DetectorSettings) -> DetectorSettings:
    """Settings of a detector whose training scores say something about new images.

    Raises:
        SettingsError: they do not, because it compares pretrained features.
    """
    if settings.uses_pretrained or settings.backbones - {EFFICIENTNET_LITE0}:
        raise SettingsError(
            f"the training scores of {settings.title} are far below those of new images, so that no percentile of them "
            "is of use; decide by conformal"
        )
    return settings.model_copy(update={"pretrained": False}) if isinstance(settings, AutoSettings) else settings


def resolve_sides(settings: DetectorSettings) -> MaxSides | None:
    """How large the input may be; None: as usual for single detectors."""
    if settings.uses_pretrained or (isinstance(settings, AutoSettings) and settings.takes_backbone and is_installed()):
        return PRETRAINED_SIDES
    return ENSEMBLE_SIDES if settings.strategy in ("auto", "plan") else None


def resolve_calibration(config: FitConfig, settings: DetectorSettings, has_groups: bool) -> bool:
    """Whether the training images calibrate by leave-one-out instead of images that are held out.

    Raises:
        SettingsError: leave-one-out is requested and does not go with the detector or another setting.
    """
    if config.calibration == "held_out" or (config.calibration == "auto" and not config.hold_out):
        return False
    decision = config.decision
    is_single = settings.strategy == "single"
    is_supported = is_single and registered_family(settings.training_class).model.supports_leave_one_out
    obstacles = {
        f"the detector {settings.family}, whose scores of training images say nothing about new ones": not is_supported,
        "groups with a threshold each (--group-by)": has_groups,
        "a confidence (--confidence)": decision.confidence is not None,
        f"the method {decision.method}": decision.method != "conformal",
        "calibration images from elsewhere (hold_out=False)": not config.hold_out,
    }
    obstacle = next((text for text, is_there in obstacles.items() if is_there), None)
    if obstacle is not None and config.calibration == "leave_one_out":
        raise SettingsError(f"calibration by leave-one-out cannot be combined with {obstacle}; use held-out images")
    return obstacle is None


def resolve_training(requested: TrainingSettings | None, settings: DetectorSettings) -> TrainingSettings:
    """The default training of the family, with the settings that the user made.

    Raises:
        SettingsError: the family cannot follow one of them.
    """
    family = registered_family(settings.training_class)
    requested = requested or family.default_training
    changes = {name: getattr(requested, name) for name in requested.model_fields_set}
    if settings.planned_members:  # a plan is repeated with its own seed
        changes.setdefault("seed", settings.planned_members[0].training.seed)
    family.model.check_training(settings.training_family, changes)
    return family.default_training.model_copy(update=changes)


def resolve_budget(budget: float | None, settings: DetectorSettings) -> float:
    """Seconds that fitting may take.

    Raises:
        SettingsError: it leaves no time, or a plan, which says itself how long it trains, has one.
    """
    if budget is None:
        return settings.default_budget or math.inf
    if budget <= 0:
        raise SettingsError(f"the budget of {budget:g} s leaves no time to fit; give at least some seconds")
    if settings.planned_members:
        raise SettingsError("a plan is trained as it says and takes no budget; leave one of the two out")
    return budget


def check_folds(config: FitConfig, n_images: int, has_groups: bool, folds: int) -> None:
    """Refuse what cross-conformal folds cannot do, before training.

    Raises:
        SettingsError: groups, a confidence, a percentile or calibration images from elsewhere are requested.
        DataError: there are no more images than folds.
        CalibrationError: this many images in this many folds cannot guarantee the requested rate.
    """
    decision = config.decision
    if config.tile not in ("auto", "off"):
        raise SettingsError("--folds cannot be combined with --tile: tiles of one image would be in several folds")
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
        threshold_rank(n_images, decision.false_alarm_rate, None, in_folds(folds))
