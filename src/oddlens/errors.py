"""The exceptions that oddlens raises on purpose.

OddlensError
├── DataError               the user's images cannot be used as they are
│   ├── ImageError          one image file or array cannot be used; has its `name`
│   │   └── UnreadableImageError    an image file cannot be decoded; it can be left out
│   └── DataNotFoundError   a path, a named data set or a stored inspection does not exist
├── SettingsError           a setting, recipe or option is invalid
├── StateError              a method is called before the step it depends on
├── CalibrationError        the calibration images cannot guarantee the requested rate
├── TrainingError           training fails: NaN, divergence, a checkpoint of a different run
├── ArtifactError           a file written by oddlens is damaged or foreign, or a detector's scores have changed
├── StoreError              the store of inspections cannot be reached, read or written
├── DiskFullError           a disk has no room for what is to be written
├── PluginError             an installed plug-in cannot be loaded
└── MissingExtraError       a feature needs packages that are not installed

Every message says what was wrong, what was found, and what to do.
"""


class OddlensError(Exception):
    """Base class of all exceptions that oddlens raises on purpose."""


class DataError(OddlensError):
    """Raised when the user's images cannot be used as they are."""


class ImageError(DataError):
    """Raised when one image cannot be read or used; `name` is its file or its position in an array."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason

    def __reduce__(self) -> tuple[type["ImageError"], tuple[str, str]]:
        return type(self), (self.name, self.reason)


class UnreadableImageError(ImageError):
    """Raised when an image file cannot be decoded; it can be left out."""


class DataNotFoundError(DataError):
    """Raised when a path, a named data set or a stored inspection does not exist."""


class SettingsError(OddlensError):
    """Raised when a setting, recipe or option is invalid."""


class StateError(OddlensError):
    """Raised when a method is called before the step it depends on."""


class CalibrationError(OddlensError):
    """Raised when the calibration images cannot guarantee the requested false-alarm rate."""


class TrainingError(OddlensError):
    """Raised when training fails: NaN, divergence, or a checkpoint of a different run."""


class ArtifactError(OddlensError):
    """Raised when a file written by oddlens is damaged or foreign, or a detector does not reproduce its scores."""


class StoreError(OddlensError):
    """Raised when the store of inspections cannot be reached, read or written."""


class DiskFullError(OddlensError):
    """Raised when a disk has no room for what is to be written; nothing is damaged, and later writes may succeed."""


class PluginError(OddlensError):
    """Raised when an installed plug-in cannot be loaded."""


class MissingExtraError(OddlensError):
    """Raised when a feature needs packages that are not installed; `extra` is the extra that installs them."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs packages that are not installed: pip install 'oddlens[{extra}]'")
        self.feature = feature
        self.extra = extra

    def __reduce__(self) -> tuple[type["MissingExtraError"], tuple[str, str]]:
        return type(self), (self.feature, self.extra)
