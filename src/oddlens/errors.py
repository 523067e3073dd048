"""Every error that oddlens raises on purpose.

OddlensError
├── DataError               the user's images are not usable as they are
│   ├── ImageError          one image file or array; carries its `name`
│   │   └── UnreadableImageError    its file cannot be decoded; it can be left out
│   └── DataNotFoundError   a path or a named data set is not there
├── SettingsError           a setting, recipe or option is wrong
├── StateError              a step was asked for before the step that it needs
├── CalibrationError        the calibration images cannot promise what was asked
├── TrainingError           training broke down: NaN, explosion, a checkpoint of another run
├── ArtifactError           a file that oddlens wrote is damaged or foreign, or a detector scores no more as it did
└── MissingExtraError       a feature needs packages that are not installed

Every message says what was wrong, what was found, and what to do.
"""


class OddlensError(Exception):
    """Root of all errors that oddlens raises on purpose."""


class DataError(OddlensError):
    """The user's images are not usable as they are."""


class ImageError(DataError):
    """One image cannot be read or used; `name` is its file or its place in an array."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason

    def __reduce__(self) -> tuple[type["ImageError"], tuple[str, str]]:
        return type(self), (self.name, self.reason)


class UnreadableImageError(ImageError):
    """An image file cannot be decoded; it can be left out."""


class DataNotFoundError(DataError):
    """A path or a named data set is not there."""


class SettingsError(OddlensError):
    """A setting, recipe or option is wrong."""


class StateError(OddlensError):
    """A step was asked for before the step that it needs."""


class CalibrationError(OddlensError):
    """The calibration images cannot promise what was asked."""


class TrainingError(OddlensError):
    """Training broke down."""


class ArtifactError(OddlensError):
    """A file that oddlens wrote is damaged or foreign, or a detector does not reproduce its own scores."""


class MissingExtraError(OddlensError):
    """A feature needs packages that are not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs packages that are not installed: pip install 'oddlens[{extra}]'")
        self.feature = feature
        self.extra = extra
