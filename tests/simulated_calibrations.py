"""False alarms of each scheme of calibration on simulated normal images: held out, leave-one-out, folds; by group.

Images are points of a plane, their score is the distance to the nearest training point. Half of the parts are seen once
and lie far from the others; the other half are photographed eight times, nearly in one place. A repeat draws new
parts to calibrate, and tests with the first photographs of parts that are new again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from oddlens.config.base import DecisionSettings
from oddlens.conformal.calibration_scores import NO_CLUSTERS
from oddlens.conformal.decision import Decision
from oddlens.conformal.schemes import HELD_OUT, LEAVE_ONE_OUT

Points = npt.NDArray[np.float64]  # (N, 2)
Scores = npt.NDArray[np.float64]
Rng = np.random.Generator

N_PARTS, N_TRAINING, N_TEST = 60, 20, 20
N_PHOTOGRAPHS, SPREAD = 8, 0.02
RATES = (0.05, 0.1, 0.2)


class Photographs(NamedTuple):
    """Photographs of parts."""

    points: Points  # (N, 2)
    parts: npt.NDArray[np.intp]  # (N,) the part of each photograph


def photographs(rng: Rng, n_parts: int) -> Photographs:
    """Photographs of new parts: rare ones once, usual ones several times."""
    rare = rng.random(n_parts) < 0.5
    centers = rng.normal(size=(n_parts, 2)) * np.where(rare, 3.0, 1.0)[:, None]
    parts = np.repeat(np.arange(n_parts), np.where(rare, 1, N_PHOTOGRAPHS))
    return Photographs(centers[parts] + rng.normal(scale=SPREAD, size=(len(parts), 2)), parts)


def one_of_each(rng: Rng, n_parts: int) -> Points:
    """One photograph (N, 2) of each of so many new parts."""
    drawn = photographs(rng, n_parts)
    return drawn.points[np.unique(drawn.parts, return_index=True)[1]]


def nearest(points: Points, training: Points, ignored: npt.NDArray[np.bool_] | None = None) -> Scores:
    """Distances (N,) of points (N, 2) to the nearest training point (M, 2) that is not `ignored` (N, M)."""
    distances = np.linalg.norm(points[:, None] - training[None], axis=2)
    if ignored is not None:
        distances = np.where(ignored, np.inf, distances)
    return np.asarray(distances.min(axis=1))


def held_out(rng: Rng, by_group: bool) -> tuple[Decision, Scores]:
    """A decision from held-out photographs, and the scores of new parts."""
    training, calibration = photographs(rng, N_TRAINING).points, photographs(rng, N_PARTS)
    clusters = calibration.parts if by_group else NO_CLUSTERS
    decision = Decision(DecisionSettings(), nearest(calibration.points, training), np.empty(0), HELD_OUT, clusters)
    return decision, nearest(one_of_each(rng, N_TEST), training)


def leave_one_out(rng: Rng, by_group: bool) -> tuple[Decision, Scores]:
    """A decision by leave-one-out, and the scores of new parts; without groups, parts are seen once."""
    training = photographs(rng, N_PARTS)
    if not by_group:
        points = one_of_each(rng, N_PARTS)
        training = Photographs(points, np.arange(len(points)))
    together = training.parts[:, None] == training.parts[None]
    scores = nearest(training.points, training.points, together)
    decision = Decision(DecisionSettings(), scores, np.empty(0), LEAVE_ONE_OUT, training.parts)
    return decision, nearest(one_of_each(rng, N_TEST), training.points)


def leave_photograph_out(rng: Rng) -> tuple[Decision, Scores]:
    """The wrong way: near-duplicates of a photograph are compared with it, and each photograph counts."""
    training = photographs(rng, N_PARTS)
    scores = nearest(training.points, training.points, np.eye(len(training.points), dtype=bool))
    decision = Decision(DecisionSettings(), scores, np.empty(0), LEAVE_ONE_OUT)
    return decision, nearest(one_of_each(rng, N_TEST), training.points)


SCHEMES: dict[str, Callable[[Rng], tuple[Decision, Scores]]] = {
    "held out, counted by group": lambda rng: held_out(rng, True),
    "held out, counted by image": lambda rng: held_out(rng, False),
    "leave-one-out, parts seen once": lambda rng: leave_one_out(rng, False),
    "leave-one-out, whole groups left out": lambda rng: leave_one_out(rng, True),
    "leave-one-out, single photographs left out": leave_photograph_out,
}


def flagged_shares(scheme: str, rate: float, repeats: int, seed: int = 0) -> Scores:
    """The share of new parts that are flagged in each repeat (repeats,), where `rate` is guaranteed."""
    rng, shares = np.random.default_rng(seed), []
    for _ in range(repeats):
        decision, scores = SCHEMES[scheme](rng)
        shares.append(float((decision.p_values(scores) <= rate).mean()))
    return np.array(shares)
