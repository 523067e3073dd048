"""Drift: a conformal test martingale that bets, image after image, against the stream being like the calibration set.

Each image gets a smoothed p-value: its rank among the calibration scores *and all earlier scores of the stream*, ties
broken at random. As long as all of them are exchangeable, these p-values are independent and uniform, and no bet
against that gains in the long run: by Ville's inequality the capital ever reaches 1 / delta with a chance of at most
delta. (Ranked among the calibration scores alone the p-values are dependent, and the promise fails.) The bets are
those of the simple jumper (Vovk et al., "Retrain or not retrain", 2021), with a few more shapes. NumPy alone.
"""

from __future__ import annotations

import hashlib
import json
import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from oddlens.config.base import Settings
from oddlens.conformal.ranks import Scores
from oddlens.errors import ArtifactError, CalibrationError, StateError
from oddlens.io.atomic import write_bytes

DELTA = 0.01  # chance of a false alarm, ever
JUMP = 0.002  # share of the capital that is spread over all bets before each image
SLOPES = (-1.8, -0.9, 0.9, 1.8)  # bets that p-values are large (< 0) or small (> 0)
POWER = 0.6  # bet that a few are very small: density POWER * p ** (POWER - 1)
MAX_STATE = 2**30  # bytes of a state file


class DriftState(Settings):
    """What is kept of a stream between two runs."""

    schema_version: Literal[1] = 1
    calibration: str  # digest of the calibration scores that the stream is compared with
    delta: float = Field(gt=0, lt=1)
    seed: int
    files: tuple[str, ...]
    scores: tuple[float, ...]
    evidence: tuple[float, ...]  # log10 of the capital after each image
    capital: tuple[float, ...]  # shares of the bets


class DriftWatch:
    """A stream of scores, compared with the calibration scores (n,) and with itself.

    `delta` is the chance of ever raising a false alarm. The same `seed` breaks the same ties the same way.

    Raises:
        StateError: there are no calibration scores.
        CalibrationError: delta is no chance.
    """

    def __init__(self, calibration_scores: Scores, delta: float = DELTA, seed: int = 0) -> None:
        if not len(calibration_scores):
            raise StateError("drift is measured against calibration images and there are none: run calibrate first")
        if not 0 < delta < 1:
            raise CalibrationError(f"delta must lie between 0 and 1, got {delta}: 0.01 is one false alarm in 100")
        self.delta, self.seed = delta, seed
        self.calibration = np.sort(np.asarray(calibration_scores, dtype=np.float64))
        self.sorted_scores = self.calibration.tolist()  # sorted; with every score of the stream
        self.files: list[str] = []
        self.scores: list[float] = []
        self.evidence: list[float] = []
        self.capital = np.full(len(SLOPES) + 2, 1 / (len(SLOPES) + 2))

    def update(self, files: Sequence[str], scores: npt.ArrayLike) -> None:
        """Take the next images' scores (N,), in the order in which the images were made."""
        for file, score in zip(files, np.asarray(scores, dtype=np.float64).tolist(), strict=True):
            total = self.evidence[-1] if self.evidence else 0.0
            self.capital = (1 - JUMP) * self.capital + JUMP / len(self.capital)
            self.capital = self.capital * bets(self.p_value(score))
            growth = float(self.capital.sum())
            self.capital /= growth
            insort(self.sorted_scores, score)
            self.files.append(file)
            self.scores.append(score)
            self.evidence.append(total + math.log10(growth))

    def p_value(self, score: float) -> float:
        """The next image's smoothed p-value: uniform in 0..1 as long as nothing changes."""
        tie_break = float(np.random.default_rng((self.seed, len(self.scores))).random())
        above = len(self.sorted_scores) - bisect_right(self.sorted_scores, score)
        equal = bisect_right(self.sorted_scores, score) - bisect_left(self.sorted_scores, score)
        return (above + tie_break * (equal + 1)) / (len(self.sorted_scores) + 1)

    @property
    def limit(self) -> float:
        """The evidence (log10 of the capital) from which on there is an alarm."""
        return -math.log10(self.delta)

    @property
    def alarm(self) -> int | None:
        """The image (from 0) at which the alarm was raised; None as long as there is none."""
        return next((place for place, value in enumerate(self.evidence) if value >= self.limit), None)

    def drivers(self, most: int = 10) -> list[int]:
        """The images (from 0) that raised the evidence most, among those since it last was low, the strongest first."""
        end = len(self.evidence) if self.alarm is None else self.alarm + 1
        if not end:
            return []
        growth = np.diff(np.array(self.evidence[:end]), prepend=0.0)
        start = int(np.argmin(self.evidence[:end])) + 1 if self.alarm is not None else 0
        order = np.argsort(-growth[start:], kind="stable")[:most] + start
        return [int(place) for place in order if growth[place] > 0]

    # -- between two runs ---------------------------------------------------------------------------

    def save(self, path: Path) -> Path:
        """Write the state, in one step.

        Raises:
            OddlensError: it cannot be written.
        """
        state = DriftState(
            calibration=digest(self.calibration), delta=self.delta, seed=self.seed, files=tuple(self.files),
            scores=tuple(self.scores), evidence=tuple(self.evidence), capital=tuple(self.capital.tolist()),
        )  # fmt: skip
        return write_bytes(path, state.model_dump_json().encode())

    @classmethod
    def open(cls, path: Path, calibration_scores: Scores, delta: float = DELTA, seed: int = 0) -> DriftWatch:
        """The stream that a state file holds, with its own delta and seed; a new one where there is no such file.

        Raises:
            ArtifactError, StateError, CalibrationError: as `load` and `DriftWatch`.
        """
        return cls.load(path, calibration_scores) if path.exists() else cls(calibration_scores, delta, seed)

    @classmethod
    def load(cls, path: Path, calibration_scores: Scores) -> DriftWatch:
        """Go on where a stream stopped.

        Raises:
            ArtifactError: the file is damaged, or belongs to another calibration.
        """
        try:
            if path.stat().st_size > MAX_STATE:
                raise ArtifactError(f"{path}: is larger than any stream's state; name another file")
            state = DriftState.model_validate(_tuples(json.loads(path.read_bytes())))
        except (OSError, ValueError, AttributeError, RecursionError) as error:
            raise ArtifactError(f"{path}: is not the state of a stream or is damaged; name another file") from error
        watch = cls(calibration_scores, state.delta, state.seed)
        if state.calibration != digest(watch.calibration):
            raise ArtifactError(
                f"{path}: belongs to another detector or calibration; begin a new stream with another file"
            )
        lengths = {len(state.files), len(state.scores), len(state.evidence)}
        if len(lengths) != 1 or len(state.capital) != len(watch.capital) or min(state.capital) < 0:
            raise ArtifactError(f"{path}: is damaged; begin a new stream with another file")
        watch.files, watch.scores, watch.evidence = list(state.files), list(state.scores), list(state.evidence)
        watch.sorted_scores = sorted([*watch.sorted_scores, *watch.scores])
        watch.capital = np.array(state.capital)
        return watch


def bets(p: float) -> Scores:
    """What one unit of capital becomes in each bet at a p-value: densities on 0..1, so that none gains on average."""
    slopes = [1 + slope * (0.5 - p) for slope in SLOPES]
    return np.array([1.0, *slopes, POWER * max(p, 1e-12) ** (POWER - 1)])


def digest(scores: Scores) -> str:
    """What tells one calibration from another."""
    return hashlib.blake2b(scores.tobytes(), digest_size=16).hexdigest()


def _tuples(values: Any) -> Any:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
