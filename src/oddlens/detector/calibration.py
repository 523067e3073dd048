"""Calibration: which images may take part, the statistics of their scores, and the decision based on them."""

from __future__ import annotations

import numpy as np

from oddlens.artifact.detector_file import STATISTICS_DTYPES, Tensors
from oddlens.config.base import DecisionSettings, InputSpec
from oddlens.config.manifest import DataSummary
from oddlens.conformal.decision import Decision
from oddlens.conformal.grouped import UNGROUPED, GroupedDecision
from oddlens.data.image_set import ImageSet
from oddlens.data.near_duplicates import fingerprints
from oddlens.data.pixel_store import take_rows
from oddlens.data.splitting import CalibrationSet
from oddlens.errors import DataError, StateError
from oddlens.inference.backend import Backend
from oddlens.inference.scoring import batch_size, in_batches, score_batches

CALIBRATION_STATISTICS = tuple(name for name in STATISTICS_DTYPES if name.startswith("calibration."))


def check_mixing(data: DataSummary, images: ImageSet, add: bool) -> None:
    """Refuse images that cannot be combined with the detector's calibration: in folds, or by groups.

    Raises:
        StateError: they cannot be combined.
    """
    if add and data.folds > 1:
        raise StateError("a calibration in folds takes no further images; recalibrate on new normal images alone")
    if data.groups and not images.groups:
        raise StateError(
            f"this detector has a threshold for each group ({', '.join(data.groups)}), and these images have no "
            "groups; give them (--group-by)"
        )
    if add and images.groups and not data.groups:
        raise StateError("images with groups can only be added to a calibration by groups")


def calibration_set(images: ImageSet, spec: InputSpec, statistics: Tensors, add: bool) -> CalibrationSet:
    """The pixels of new calibration images; with `add`, without those that are calibration images already.

    Raises:
        DataError: the detector was trained on some of them.
        ImageError: one cannot be read or does not fit the spec.
    """
    pixels = images.load(spec)
    prints = fingerprints(pixels)
    in_training = np.isin(prints, statistics["training.fingerprints"])
    if in_training.any():
        raise DataError(
            f"{int(in_training.sum())} of {len(in_training)} calibration images are training images, first "
            f"{images.names[int(in_training.argmax())]}; their scores say nothing about new images: "
            "give images that the detector was not trained on"
        )
    if add:
        new = np.flatnonzero(~np.isin(prints, statistics["calibration.fingerprints"]))
        images, pixels = images.subset(new), take_rows(pixels, new)
    return CalibrationSet(pixels, images.groups, images.grouped_by)


def calibration_statistics(
    backend: Backend, new_set: CalibrationSet, statistics: Tensors, names: tuple[str, ...], add: bool
) -> Tensors:
    """The statistics of a calibration set, whose groups are among `names`; with `add`, joined with the present ones."""
    before = {name: statistics[name] if add else np.empty(0) for name in CALIBRATION_STATISTICS}
    scores, peaks = [before["calibration.scores"]], [before["calibration.map_peaks"]]
    prints = [before["calibration.fingerprints"].astype(np.uint64), fingerprints(new_set.pixels)]
    for predictions in score_batches(backend, in_batches(new_set.pixels, batch_size(backend.spec))):
        scores.append(predictions.anomaly_score)
        if predictions.anomaly_map is not None:
            peaks.append(predictions.anomaly_map.max(axis=(1, 2)).astype(np.float64))
    all_scores = np.concatenate(scores)
    groups = [before["calibration.groups"], np.array([names.index(name) for name in new_set.groups])]
    order = np.argsort(all_scores, kind="stable")
    return {
        **statistics,
        "calibration.scores": all_scores[order],
        "calibration.map_peaks": np.sort(np.concatenate(peaks)),
        "calibration.fingerprints": np.sort(np.concatenate(prints)),
        "calibration.groups": np.concatenate(groups).astype(np.uint64)[order if names else slice(0)],
    }


def build_decision(settings: DecisionSettings, statistics: Tensors, data: DataSummary) -> GroupedDecision:
    """The decision that follows from the statistics: one threshold for all images, or one for each group."""
    scores, training = statistics["calibration.scores"], statistics["training.scores"]
    if not data.groups:
        return GroupedDecision({UNGROUPED: Decision(settings, scores, training, data.folds)})
    groups = statistics["calibration.groups"]
    parts = {name: Decision(settings, scores[groups == number], training) for number, name in enumerate(data.groups)}
    return GroupedDecision(parts)
