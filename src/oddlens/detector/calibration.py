"""How a detector is calibrated: which images may take part, the statistics of their scores, the decisions of those."""

from __future__ import annotations

import numpy as np

from oddlens.artifact.detector_file import Tensors
from oddlens.config.base import DecisionSettings, InputSpec
from oddlens.config.manifest import DataSummary
from oddlens.conformal.decision import Decision
from oddlens.conformal.grouped import EVERYTHING, GroupedDecision
from oddlens.data.image_set import ImageSet
from oddlens.data.near_duplicates import fingerprints
from oddlens.data.pixel_store import take_rows
from oddlens.data.splitting import CalibrationSet
from oddlens.errors import DataError, StateError
from oddlens.inference.backend import Backend
from oddlens.inference.scoring import batch_size, in_batches, score_batches

CALIBRATION_STATISTICS = (
    "calibration.scores",
    "calibration.map_peaks",
    "calibration.fingerprints",
    "calibration.groups",
)


def check_mixing(data: DataSummary, images: ImageSet, add: bool) -> None:
    """Refuse images that do not go with how the detector is calibrated: in folds, or by groups.

    Raises:
        StateError: says which, and what to do instead.
    """
    if add and data.folds > 1:
        raise StateError("a calibration in folds takes no further images; calibrate anew, on new normal images alone")
    if data.groups and not images.groups:
        raise StateError(
            f"this detector decides for each group by itself ({', '.join(data.groups)}), and these images came without "
            "their groups; give them (--group-by)"
        )
    if add and images.groups and not data.groups:
        raise StateError("images of groups can join a calibration by groups only")


def calibration_set(images: ImageSet, spec: InputSpec, statistics: Tensors, add: bool) -> CalibrationSet:
    """The pixels of images that may calibrate; with `add`, without those that do already.

    Raises:
        DataError: the detector was trained on some of them.
        ImageError: one cannot be read or does not fit the spec.
    """
    pixels = images.load(spec)
    prints = fingerprints(pixels)
    learned = np.isin(prints, statistics["training.fingerprints"])
    if learned.any():
        raise DataError(
            f"{int(learned.sum())} of {len(learned)} calibration images were trained on, "
            f"{images.names[int(learned.argmax())]} first, so that their scores say nothing about new ones; "
            "give images that the detector has not seen"
        )
    if add:
        new = np.flatnonzero(~np.isin(prints, statistics["calibration.fingerprints"]))
        images, pixels = images.subset(new), take_rows(pixels, new)
    return CalibrationSet(pixels, images.groups, images.grouped_by)


def calibration_statistics(
    backend: Backend, held_out: CalibrationSet, statistics: Tensors, names: tuple[str, ...], add: bool
) -> Tensors:
    """The statistics with those of held-out images, of groups among `names`; with `add`, beside the old ones."""
    before = {name: statistics[name] if add else np.empty(0) for name in CALIBRATION_STATISTICS}
    scores, peaks = [before["calibration.scores"]], [before["calibration.map_peaks"]]
    prints = [before["calibration.fingerprints"].astype(np.uint64), fingerprints(held_out.pixels)]
    for outputs in score_batches(backend, in_batches(held_out.pixels, batch_size(backend.spec))):
        scores.append(outputs.anomaly_score)
        if outputs.anomaly_map is not None:
            peaks.append(outputs.anomaly_map.max(axis=(1, 2)).astype(np.float64))
    every = np.concatenate(scores)
    places = [before["calibration.groups"], np.array([names.index(name) for name in held_out.groups])]
    order = np.argsort(every, kind="stable")
    return {
        **statistics,
        "calibration.scores": every[order],
        "calibration.map_peaks": np.sort(np.concatenate(peaks)),
        "calibration.fingerprints": np.sort(np.concatenate(prints)),
        "calibration.groups": np.concatenate(places).astype(np.uint64)[order if names else slice(0)],
    }


def build_decision(settings: DecisionSettings, statistics: Tensors, data: DataSummary) -> GroupedDecision:
    """What a decision is made from: for all images, or for each group by itself."""
    scores, training = statistics["calibration.scores"], statistics["training.scores"]
    if not data.groups:
        return GroupedDecision({EVERYTHING: Decision(settings, scores, training, data.folds)})
    places = statistics["calibration.groups"]
    own = {name: scores[places == place] for place, name in enumerate(data.groups)}
    return GroupedDecision({name: Decision(settings, of_group, training) for name, of_group in own.items()})
