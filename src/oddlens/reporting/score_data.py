"""The scores behind a report as its page carries them: every image, every decision that the threshold can move to."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Context, Decimal
from typing import Any

import numpy as np
import numpy.typing as npt

from oddlens.conformal.grouped import GroupedDecision
from oddlens.conformal.ranks import Scores
from oddlens.detector.verdicts import Verdicts
from oddlens.errors import CalibrationError
from oddlens.evaluation.evaluate import Evaluation
from oddlens.io.text import as_text
from oddlens.reporting.figures import ScoreAxis, score_axis

UNKNOWN = -1  # the label of an image of which nobody said what it is
MAX_NAMES = 20_000  # names in a page; images beyond that many have their scores in it
MAX_CALIBRATION_SCORES = 20_000  # that a page draws
BORDERLINE = 0.03  # share of the axis to either side of the threshold within which an image is borderline
MANTISSAS = (*range(10, 20), *range(20, 50, 2), *range(50, 100, 5))  # of the rates that a threshold can be moved to
MAX_RATE = 0.9


@dataclass(frozen=True, eq=False)
class ScoredImages:
    """N scored images, the most anomalous first, and the decision on them.

    The fields from `index` to `parts` have one entry per image.
    """

    index: npt.NDArray[np.intp]  # position in the set that was scored
    names: tuple[str, ...]
    kinds: tuple[str, ...]
    labels: npt.NDArray[np.int8]  # 0 normal, 1 anomalous, or UNKNOWN
    scores: Scores
    p_values: Scores  # nan without calibration images
    thresholds: Scores
    counted: npt.NDArray[np.bool_]  # false for images that a threshold was computed from: they are in no rate
    parts: npt.NDArray[np.intp]  # which of the decision's parts decides
    decisions: GroupedDecision

    @classmethod
    def of_evaluation(cls, evaluation: Evaluation) -> ScoredImages:
        """The test images of an evaluation."""
        images, decisions = evaluation.images, evaluation.decisions
        p_values = decisions.p_values(evaluation.scores, images.groups)
        verdicts = Verdicts(images.names, evaluation.scores, p_values, evaluation.thresholds, images.labels)
        return cls.sort(verdicts, images.kinds, images.labels, evaluation.rate_mask, images.groups, decisions)

    @classmethod
    def of_verdicts(cls, verdicts: Verdicts, groups: Sequence[str], decisions: GroupedDecision) -> ScoredImages:
        """Images of which nobody said what they are; `groups` has the group of each, where there are groups."""
        n = len(verdicts)
        unknown = np.full(n, UNKNOWN, dtype=np.int8)
        return cls.sort(verdicts, ("images",) * n, unknown, np.ones(n, dtype=bool), groups, decisions)

    @classmethod
    def sort(
        cls,
        verdicts: Verdicts,
        kinds: Sequence[str],
        labels: npt.NDArray[np.int8],
        counted: npt.NDArray[np.bool_],
        groups: Sequence[str],
        decisions: GroupedDecision,
    ) -> ScoredImages:
        """Put everything into the order of the p-values, and among equal ones of the scores."""
        order = np.lexsort((-verdicts.anomaly_score, verdicts.p_value))
        numbers = {name: number for number, name in enumerate(decisions.parts)}
        parts = [numbers[name] for name in groups] if decisions.grouped else [0] * len(order)
        return cls(
            index=order,
            names=tuple(verdicts.files[i] for i in order),
            kinds=tuple(kinds[i] for i in order),
            labels=labels[order],
            scores=verdicts.anomaly_score[order],
            p_values=verdicts.p_value[order],
            thresholds=verdicts.threshold[order],
            counted=counted[order],
            parts=np.asarray(parts, dtype=np.intp)[order],
            decisions=decisions,
        )

    def __len__(self) -> int:
        return len(self.names)

    @property
    def kind_names(self) -> list[str]:
        """The kinds of images, normal ones first, then by name."""
        labels = dict(zip(self.kinds, self.labels.tolist(), strict=True))
        return sorted(labels, key=lambda kind: (labels[kind], kind))

    @property
    def flagged(self) -> npt.NDArray[np.bool_]:
        """(N,) whether an image is an anomaly by the detector's threshold."""
        return self.scores > self.thresholds

    @property
    def part_thresholds(self) -> Scores:
        """The detector's threshold of each part of its decision; nan for a part that has no image here."""
        thresholds = np.full(len(self.decisions.parts), np.nan)
        thresholds[self.parts] = self.thresholds
        return thresholds

    @property
    def calibration_scores(self) -> Scores:
        """(n,) the scores that the threshold was computed from; empty where there are several thresholds."""
        if self.decisions.grouped:
            return np.empty(0)
        scores = self.decisions.single.calibration_scores
        return scores[:: -(-len(scores) // MAX_CALIBRATION_SCORES) or 1]

    @property
    def axis(self) -> ScoreAxis:
        """The axis on which to draw scores, or with a threshold for each group -log10 of the p-values."""
        if self.decisions.grouped:
            return ScoreAxis(0.0, float(-np.log10(self.p_values.min(initial=0.01))) * 1.05, False, False)
        normal = self.scores[(self.labels == 0) & self.counted]
        normal = normal if len(normal) else self.calibration_scores if len(self.calibration_scores) else self.scores
        return score_axis(self.scores, normal, [float(value) for value in self.part_thresholds])

    def places(self, scores: Scores) -> npt.NDArray[np.float64]:
        """Places (n,) of scores on the axis, from 0 to 1."""
        axis = self.axis
        low, high = axis.low, axis.high
        if axis.logarithmic:
            scores, low, high = np.log(scores.clip(min=low)), np.log(low), np.log(high)
        places: npt.NDArray[np.float64] = ((scores - low) / (high - low)).clip(0, 1)
        return places

    @property
    def borderline(self) -> npt.NDArray[np.bool_]:
        """(N,) whether an image is so close to the threshold that a small move of it changes the verdict."""
        if self.decisions.grouped:
            level = np.full(1, self.decisions.false_alarm_rate)
            places, own = self.places(-np.log10(self.p_values)), self.places(-np.log10(level))
        else:
            places, own = self.places(self.scores), self.places(self.thresholds)
        near: npt.NDArray[np.bool_] = np.abs(places - own) <= BORDERLINE
        return near

    def select(self, count: int) -> npt.NDArray[np.intp]:
        """Positions of at most `count` images to show: misses, false alarms and borderline ones before the others.

        Of misses up to half of `count` are sure of their place, of false alarms and of borderline images a fifth each,
        of others a tenth; what is left over goes to the first of these of which there are more. Those of a kind are an
        even sample of all of them, from the most anomalous to the least.
        """
        wrong = self.flagged != (self.labels == 1)
        missed, alarms = wrong & (self.labels == 1), wrong & (self.labels == 0)
        border = self.borderline & ~missed & ~alarms
        groups = [np.flatnonzero(group) for group in (missed, alarms, border, ~(missed | alarms | border))]
        counts = np.array([len(group) for group in groups])
        sizes = np.minimum(counts, count * np.array([5, 2, 2, 1]) // 10)
        for i in range(len(sizes)):  # what is left over
            sizes[i] += min(counts[i] - sizes[i], count - sizes.sum())
        samples = [
            group[np.linspace(0, len(group) - 1, size).round().astype(int)]
            for group, size in zip(groups, sizes, strict=True)
            if size
        ]
        return np.sort(np.concatenate(samples)) if samples else np.empty(0, dtype=np.intp)


def decision_ladder(decisions: GroupedDecision) -> list[tuple[str, list[float]]]:
    """Rates as they are written after `--false-alarm-rate`, each with the threshold of each part that it gives.

    They rise from the lowest rate that can be guaranteed. Of rates with the same thresholds, it is the shortest.
    """
    ladder: list[tuple[str, list[float]]] = []
    for rate in ladder_rates(decisions):
        try:
            thresholds = [
                part.calibration.threshold(float(rate), part.settings.confidence) for part in decisions.parts.values()
            ]
        except CalibrationError:
            continue
        if ladder and ladder[-1][1] == thresholds:
            ladder[-1] = min(ladder[-1][0], rate, key=len), thresholds
        else:
            ladder.append((rate, thresholds))
    return ladder


def ladder_rates(decisions: GroupedDecision) -> list[str]:
    """Round rates, the lowest that can be guaranteed, and the one in use, in ascending order; empty without any."""
    if not all(len(part.calibration) for part in decisions.parts.values()):
        return []
    least = max(part.calibration.min_rate(part.settings.confidence) for part in decisions.parts.values())
    lowest = Decimal(str(least))  # as it would be written
    rates = {Decimal(mantissa).scaleb(exponent) for exponent in range(-7, 0) for mantissa in MANTISSAS}
    rates |= {Context(3, ROUND_CEILING).plus(lowest), Decimal(str(decisions.false_alarm_rate))}
    return [f"{rate.normalize():f}" for rate in sorted(rates) if lowest <= rate <= MAX_RATE]


def page_data(scored: ScoredImages) -> dict[str, Any]:
    """The scores as JSON for the page; arrays are little-endian bytes in base64."""
    kinds = scored.kind_names
    numbers = {kind: number for number, kind in enumerate(kinds)}
    axis, ladder = scored.axis, decision_ladder(scored.decisions)
    return {
        "n": len(scored),
        "scores": encode(scored.scores, "<f8"),
        "p_values": encode(scored.p_values, "<f8"),
        "labels": encode(scored.labels, "<i1"),
        "counted": encode(scored.counted, "<u1"),
        "kinds": kinds,
        "kind": encode(np.array([numbers[kind] for kind in scored.kinds]), "<u2"),
        "part": encode(scored.parts, "<u2"),
        "own": encode(scored.part_thresholds, "<f8"),
        "grouped": scored.decisions.grouped,
        "level": scored.decisions.false_alarm_rate,
        "guaranteed": scored.decisions.guaranteed_rate,
        "confidence": scored.decisions.settings.confidence,
        "calibration": encode(scored.calibration_scores, "<f8"),
        "axis": axis._asdict(),
        "borderline": BORDERLINE,
        "rates": [rate for rate, _ in ladder],
        "ladder": encode(np.array([thresholds for _, thresholds in ladder]), "<f8"),
        "names": [as_text(name) for name in scored.names[:MAX_NAMES]],
    }


def encode(values: npt.NDArray[Any], dtype: str) -> str:
    """Numbers as bytes in base64."""
    return base64.b64encode(np.ascontiguousarray(values).astype(dtype).tobytes()).decode("ascii")
