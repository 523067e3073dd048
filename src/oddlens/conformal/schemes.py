"""Schemes of calibration: which images calibrate, and the bound on false alarms that follows.

A new image *loses* to a calibration image whose score is at or above its own. In each scheme, at most
(`slope` c + `offset`) / (n + `extra`) of normal images lose to at most c of n calibration images, on average.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class CalibrationScheme:
    """A scheme of calibration; `HELD_OUT`, `LEAVE_ONE_OUT` and `in_folds` are all that there are."""

    name: Literal["held-out", "leave-one-out", "folds"]
    slope: int
    offset: int
    extra: int

    @property
    def is_held_out(self) -> bool:
        """Whether the calibration images were not used for training, so that they are exchangeable with new ones."""
        return self.name == "held-out"

    @property
    def folds(self) -> int:
        """The number of folds; 1 without them."""
        return self.extra

    @property
    def bound(self) -> str:
        """The bound as a formula of the losses c and the number n of calibration images (or of their groups)."""
        if self.name == "folds":
            return f"2 (c + {self.folds}) / (n + {self.folds})"
        return "(2 c + 1) / (n + 1)" if self.name == "leave-one-out" else "(c + 1) / (n + 1)"

    @property
    def remedy(self) -> str:
        """What to do where the images are too few, apart from requesting a higher rate."""
        if self.name == "folds":
            return "add normal images, use fewer folds,"
        return "hold out more normal images" if self.is_held_out else "add normal images"

    def format_count(self, n: int, n_images: int | None = None) -> str:
        """Format the number of calibration images for a sentence, n of them or `n_images` in n groups."""
        count = n if n_images is None else n_images
        text = f"{count} {'held-out ' if self.is_held_out else ''}normal image{'' if count == 1 else 's'}"
        if self.name == "folds":
            text += f" in {self.folds} folds"
        details = ["leave-one-out"] if self.name == "leave-one-out" else []
        if n_images is not None:
            details.append(f"counted as {n} group{'' if n == 1 else 's'} of near-duplicates")
        return f"{text} ({', '.join(details)})" if details else text


HELD_OUT = CalibrationScheme("held-out", slope=1, offset=1, extra=1)
LEAVE_ONE_OUT = CalibrationScheme("leave-one-out", slope=2, offset=1, extra=1)


def in_folds(folds: int) -> CalibrationScheme:
    """The scheme of cross-conformal prediction in so many folds: each image was scored by the model without its fold.

    In each fold the rank is a conformal p-value, and twice a mean of p-values is a p-value (Vovk et al., Annals of
    Statistics 2018).
    """
    return CalibrationScheme("folds", slope=2, offset=2 * folds, extra=folds)
