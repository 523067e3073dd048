"""Drift detection: a conformal test martingale that bets against the stream being like the calibration set.

Each image gets a smoothed p-value: its rank among the calibration scores *and all earlier scores of the stream*, with
ties broken at random. As long as all of them are exchangeable, these p-values are independent and uniform, and no bet
against them gains in the long run: by Ville's inequality, the capital ever reaches 1 / delta with a probability of at
most delta. (Ranked among the calibration scores alone, the p-values would be dependent and the guarantee would fail.)
The bets are those of the simple jumper (Vovk et al., "Retrain or not retrain", 2021), with a few more densities. NumPy
only.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from oddlens.config.base import Settings, lists_to_tuples
from oddlens.conformal.ranks import Scores
from oddlens.errors import ArtifactError, CalibrationError, StateError
from oddlens.io.atomic import write_bytes
from oddlens.io.digests import digest
from oddlens.io.text import as_text

DEFAULT_DELTA = 0.01  # probability of ever raising a false alarm
JUMP_RATE = 0.002  # share of the capital that is spread evenly over all bets before each image
BET_SLOPES = (-1.8, -0.9, 0.9, 1.8)  # bets on large (< 0) or small (> 0) p-values
BET_POWER = 0.6  # bet on a few very small p-values: density BET_POWER * p ** (BET_POWER - 1)
MAX_STATE_BYTES = 2**30


class DriftState(Settings):
    """The state of a stream between two runs, as its file stores it."""

    schema_version: Literal[1] = 1
    calibration: str  # digest of the calibration scores
    delta: float = Field(gt=0, lt=1)
    seed: int
    files: tuple[str, ...]
    scores: tuple[float, ...]
    evidence: tuple[float, ...]  # log10 of the capital after each image
    capital: tuple[float, ...]  # share of each bet


class DriftWatch:
    """Watch a stream of scores for drift from the calibration scores (n,).

    `delta` is the probability of ever raising a false alarm. Equal values of `seed` break equal ties equally.

    Raises:
        StateError: there are no calibration scores.
        CalibrationError: delta is not between 0 and 1.
    """

    def __init__(self, calibration_scores: Scores, delta: float = DEFAULT_DELTA, seed: int = 0) -> None:
        if not len(calibration_scores):
            raise StateError("drift is measured against calibration images, and there are none: run calibrate first")
        if not 0 < delta < 1:
            raise CalibrationError(f"delta must lie between 0 and 1, got {delta}: 0.01 is a 1% chance of a false alarm")
        self.delta, self.seed = delta, seed
        self.calibration = np.sort(np.asarray(calibration_scores, dtype=np.float64))
        self.sorted_scores = self.calibration.tolist()  # with all scores of the stream
        self.files: list[str] = []
        self.scores: list[float] = []
        self.evidence: list[float] = []
        self.capital = np.full(len(BET_SLOPES) + 2, 1 / (len(BET_SLOPES) + 2))

    def update(self, files: Sequence[str], scores: npt.ArrayLike) -> None:
        """Add the scores (N,) of the next images, in the order in which the images were taken."""
        for file, score in zip(files, np.asarray(scores, dtype=np.float64).tolist(), strict=True):
            total = self.evidence[-1] if self.evidence else 0.0
            self.capital = (1 - JUMP_RATE) * self.capital + JUMP_RATE / len(self.capital)
            self.capital = self.capital * bet_densities(self.p_value(score))
            growth = float(self.capital.sum())
            self.capital /= growth
            insort(self.sorted_scores, score)
            self.files.append(as_text(file))
            self.scores.append(score)
            self.evidence.append(total + math.log10(growth))

    def p_value(self, score: float) -> float:
        """Smoothed p-value of the next image: uniform in 0..1 as long as nothing changes."""
        tie_break = float(np.random.default_rng((self.seed, len(self.scores))).random())
        above = len(self.sorted_scores) - bisect_right(self.sorted_scores, score)
        equal = bisect_right(self.sorted_scores, score) - bisect_left(self.sorted_scores, score)
        return (above + tie_break * (equal + 1)) / (len(self.sorted_scores) + 1)

    @property
    def limit(self) -> float:
        """The evidence (log10 of the capital) at which the alarm is raised."""
        return -math.log10(self.delta)

    @property
    def alarm(self) -> int | None:
        """Index of the image that raised the alarm; None without an alarm."""
        return next((index for index, value in enumerate(self.evidence) if value >= self.limit), None)

    def drivers(self, max_count: int = 10) -> list[int]:
        """Indices of the images that raised the evidence most since its last minimum, the strongest first."""
        end = len(self.evidence) if self.alarm is None else self.alarm + 1
        if not end:
            return []
        growth = np.diff(np.array(self.evidence[:end]), prepend=0.0)
        start = int(np.argmin(self.evidence[:end])) + 1 if self.alarm is not None else 0
        order = np.argsort(-growth[start:], kind="stable")[:max_count] + start
        return [int(index) for index in order if growth[index] > 0]

    def save(self, path: Path) -> Path:
        """Write the state to a file, atomically.

        Raises:
            OddlensError: the file cannot be written.
        """
        state = DriftState(
            calibration=calibration_digest(self.calibration), delta=self.delta, seed=self.seed, files=tuple(self.files),
            scores=tuple(self.scores), evidence=tuple(self.evidence), capital=tuple(self.capital.tolist()),
        )  # fmt: skip
        return write_bytes(path, state.model_dump_json().encode())

    @classmethod
    def open(cls, path: Path, calibration_scores: Scores, delta: float = DEFAULT_DELTA, seed: int = 0) -> DriftWatch:
        """Load the stream from its state file, with its own delta and seed; start a new one if the file does not exist.

        Raises:
            ArtifactError, StateError, CalibrationError: as `load` and `DriftWatch`.
        """
        return cls.load(path, calibration_scores) if path.exists() else cls(calibration_scores, delta, seed)

    @classmethod
    def load(cls, path: Path, calibration_scores: Scores) -> DriftWatch:
        """Continue a stream from its state file.

        Raises:
            ArtifactError: the file is damaged, or belongs to a different calibration.
        """
        try:
            if path.stat().st_size > MAX_STATE_BYTES:
                raise ArtifactError(f"{path}: is larger than any drift state; choose another file")
            state = DriftState.model_validate(lists_to_tuples(json.loads(path.read_bytes())))
        except (OSError, ValueError, RecursionError) as error:
            raise ArtifactError(f"{path}: is not a drift state or is damaged; choose another file") from error
        watch = cls(calibration_scores, state.delta, state.seed)
        if state.calibration != calibration_digest(watch.calibration):
            raise ArtifactError(
                f"{path}: belongs to a different detector or calibration; start a new state in another file"
            )
        lengths = {len(state.files), len(state.scores), len(state.evidence)}
        if len(lengths) != 1 or len(state.capital) != len(watch.capital) or min(state.capital) < 0:
            raise ArtifactError(f"{path}: is a damaged drift state; start a new state in another file")
        watch.files, watch.scores, watch.evidence = list(state.files), list(state.scores), list(state.evidence)
        watch.sorted_scores = sorted([*watch.sorted_scores, *watch.scores])
        watch.capital = np.array(state.capital)
        return watch


def bet_densities(p: float) -> Scores:
    """Factor (B,) by which each bet multiplies its capital at p-value `p`: densities on 0..1, with a mean of 1."""
    slopes = [1 + slope * (0.5 - p) for slope in BET_SLOPES]
    return np.array([1.0, *slopes, BET_POWER * max(p, 1e-12) ** (BET_POWER - 1)])


def calibration_digest(scores: Scores) -> str:
    """Digest that identifies a set of calibration scores (n,)."""
    return digest([scores.tobytes()])
