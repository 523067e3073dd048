"""What the settings of all families of detectors have in common, and the table of families.

Names in files and on the command line are looked up in `FAMILIES`, which only code can extend; they never lead to an
import by themselves. `config.detectors` fills it.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from oddlens.config.backbones import OnnxBackbone
from oddlens.config.base import Settings

if TYPE_CHECKING:
    from oddlens.config.detectors import Member
    from oddlens.config.with_backbone import PretrainedSettings

Strategy = Literal["single", "plan", "folds", "auto"]

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
