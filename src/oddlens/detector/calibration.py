"""Calibration: which images may take part, the statistics of their scores, and the decision based on them."""

from __future__ import annotations

from typing import get_args

import numpy as np

from oddlens.artifact.detector_file import STATISTICS_DTYPES, Tensors
from oddlens.config.base import DecisionSettings, InputSpec
from oddlens.config.manifest import CountBy, DataSummary
from oddlens.config.parse import check_choice
from oddlens.conformal.decision import Decision
from oddlens.conformal.grouped import UNGROUPED, GroupedDecision
from oddlens.conformal.ranks import DEFAULT_RATE, Scores, format_percent, min_calibration_size, threshold_rank
from oddlens.conformal.schemes import HELD_OUT, LEAVE_ONE_OUT, CalibrationScheme, in_folds
from oddlens.data.image_io import Index
from oddlens.data.image_set import ImageSet
from oddlens.data.near_duplicates import fingerprints, near_duplicate_groups, thumbnails
from oddlens.data.pixel_store import take_rows
from oddlens.data.preprocessing import mean_brightness
from oddlens.data.splitting import MAX_DEFAULT_PERCENT, NO_CLUSTERS, CalibrationSet
from oddlens.errors import CalibrationError, DataError, StateError
from oddlens.inference.backend import Backend
from oddlens.inference.scoring import batch_size, in_batches, score_batches

CALIBRATION_STATISTICS = tuple(name for name in STATISTICS_DTYPES if name.startswith("calibration."))


def check_mixing(data: DataSummary, images: ImageSet, add: bool) -> None:
    """Refuse images that cannot be combined with the detector's calibration: on training images, or by groups.

    Raises:
        StateError: they cannot be combined.
    """
    scheme = scheme_of(data)
    if add and not scheme.is_held_out:
        how = "in folds" if scheme.name == "folds" else "by leave-one-out"
        raise StateError(f"a calibration {how} takes no further images; recalibrate on new normal images alone")
    if data.groups and not images.groups:
        raise StateError(
            f"this detector has a threshold for each group ({', '.join(data.groups)}), and these images have no "
            "groups; give them (--group-by)"
        )
    if add and images.groups and not data.groups:
        raise StateError("images with groups can only be added to a calibration by groups")


def resolve_count_by(data: DataSummary, requested: CountBy | None, add: bool) -> CountBy:
    """What counts as one in a new calibration: as requested, by default groups, or with `add` what counts already.

    Raises:
        SettingsError: there is no such way to count.
        StateError: with `add`, something else counts in the present calibration.
    """
    if requested is not None:
        check_choice("count_by", requested, get_args(CountBy))
    if add and requested not in (None, data.count_by):
        raise StateError(
            f"the present calibration is counted by {data.count_by}, so that images counted by {requested} cannot be "
            "added to it; recalibrate on new normal images alone"
        )
    return data.count_by if add else requested or "group"


def calibration_set(
    images: ImageSet, spec: InputSpec, statistics: Tensors, add: bool, count_by: CountBy
) -> CalibrationSet:
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
    clusters = near_duplicate_groups(thumbnails(pixels)) if count_by == "group" else NO_CLUSTERS
    return CalibrationSet(pixels, images.groups, images.grouped_by, clusters)


def calibration_statistics(
    backend: Backend, new_set: CalibrationSet, statistics: Tensors, names: tuple[str, ...], add: bool
) -> Tensors:
    """The statistics of a calibration set, whose groups are among `names`; with `add`, joined with the present ones."""
    before = {name: statistics[name] if add else np.empty(0) for name in CALIBRATION_STATISTICS}
    scores, peaks = [before["calibration.scores"]], [before["calibration.map_peaks"]]
    brightness = [before["calibration.brightness"], mean_brightness(new_set.pixels, backend.spec.value_max)]
    prints = [before["calibration.fingerprints"].astype(np.uint64), fingerprints(new_set.pixels)]
    for predictions in score_batches(backend, in_batches(new_set.pixels, batch_size(backend.spec))):
        scores.append(predictions.anomaly_score)
        if predictions.anomaly_map is not None:
            peaks.append(predictions.anomaly_map.max(axis=(1, 2)).astype(np.float64))
    all_scores, all_brightness = np.concatenate(scores), np.concatenate(brightness)
    has_brightness = len(all_brightness) == len(all_scores)  # not where images join those of an older file
    groups = [before["calibration.groups"], np.array([names.index(name) for name in new_set.groups])]
    order, clusters = np.argsort(all_scores, kind="stable"), combined_clusters(before, new_set)
    return {
        **statistics,
        "calibration.scores": all_scores[order],
        "calibration.map_peaks": np.sort(np.concatenate(peaks)),
        "calibration.fingerprints": np.sort(np.concatenate(prints)),
        "calibration.groups": np.concatenate(groups).astype(np.uint64)[order if names else slice(0)],
        "calibration.clusters": clusters[order if len(clusters) else slice(0)].astype(np.uint64),
        "calibration.brightness": all_brightness[order if has_brightness else slice(0)],
    }


def combined_clusters(before: Tensors, new_set: CalibrationSet) -> Index:
    """The group of near-duplicates of each earlier and each new calibration image (n,); empty if each is alone.

    Near-duplicates of earlier images among the new ones count anew, as the pixels of the earlier ones are not stored.
    """
    earlier, new = (
        clusters.astype(np.intp) if len(clusters) else np.arange(count)
        for clusters, count in (
            (before["calibration.clusters"], len(before["calibration.scores"])),
            (new_set.clusters, len(new_set.pixels)),
        )
    )
    combined: Index = np.concatenate([earlier, new + int(earlier.max(initial=-1)) + 1])
    return combined if len(np.unique(combined)) < len(combined) else NO_CLUSTERS


def brightness(images: ImageSet, spec: InputSpec, count: int) -> Scores:
    """The brightness (N,) of `count` images.

    Raises:
        DataError: there are more or fewer, or one cannot be read.
    """
    if len(images) != count:
        raise DataError(f"there are {len(images)} images for {count} scores; give one image for each score")
    batches = images.batches(spec, batch_size(spec))
    return np.concatenate([np.empty(0), *(mean_brightness(pixels, spec.value_max) for pixels in batches)])


def build_decision(settings: DecisionSettings, statistics: Tensors, data: DataSummary) -> GroupedDecision:
    """The decision that follows from the statistics: one threshold for all images, or one for each group."""
    groups = statistics["calibration.groups"]
    parts = {name: groups == number for number, name in enumerate(data.groups)} or {UNGROUPED: slice(None)}
    decisions = {}
    for name, rows in parts.items():
        scores, clusters, brightness = (
            values[rows] if len(values) else values
            for values in (statistics[f"calibration.{kind}"] for kind in ("scores", "clusters", "brightness"))
        )
        decisions[name] = Decision(
            settings,
            scores,
            statistics["training.scores"],
            scheme_of(data),
            clusters,
            one_of_each_group(brightness, clusters),
        )
    return GroupedDecision(decisions)


def one_of_each_group(brightness: Scores, clusters: Index) -> Scores:
    """The brightness of one image of each group of near-duplicates, drawn at random, sorted; of all without groups."""
    if not len(brightness) or not len(clusters):
        return np.sort(brightness)
    order = np.random.default_rng(0).permutation(len(brightness))
    _, first = np.unique(clusters[order], return_index=True)
    return np.sort(brightness[order[first]])


def default_rate_cost(data: DataSummary, decisions: GroupedDecision) -> str | None:
    """What guaranteeing 1% would take, in a sentence; None where it is guaranteed, or something else was requested."""
    settings, parts = decisions.settings, decisions.parts
    is_default = settings.method == "conformal" and settings.false_alarm_rate is None and settings.confidence is None
    missing = {name: part.calibration.n_missing(DEFAULT_RATE) for name, part in parts.items()}
    if not is_default or not any(missing.values()) or data.folds > 1:
        return None
    is_clustered = any(part.calibration.is_clustered for part in parts.values())
    needed, unit = min_calibration_size(DEFAULT_RATE), "groups" if is_clustered else "images"
    more = ", ".join(f"{count}{f' of {name}' if name else ''}" for name, count in missing.items() if count)
    of_what = " of near-duplicates" if is_clustered else ""
    scope = " for each threshold" if decisions.grouped else ""
    sentence = f"{format_percent(DEFAULT_RATE)} takes {needed} calibration {unit}{of_what}{scope}, {more} more"
    if data.calibration == "leave_one_out" or decisions.grouped:
        return f"{sentence}."
    option = f"--false-alarm-rate {DEFAULT_RATE:g}"
    total = data.n_training + data.n_standardising + data.n_calibration
    if is_clustered:  # three tenths of all groups calibrate
        total = sum(part.calibration.count for part in parts.values()) * 100 // MAX_DEFAULT_PERCENT
    if total // 2 < needed:
        return f"{sentence}: {option} would hold out half of the {unit}, if there were {2 * needed}."
    return f"{sentence}: {option} would hold out {needed} of {'about' if is_clustered else 'the'} {total} {unit}."


def scheme_of(data: DataSummary) -> CalibrationScheme:
    """The scheme of a detector's calibration."""
    if data.folds > 1:
        return in_folds(data.folds)
    return LEAVE_ONE_OUT if data.calibration == "leave_one_out" else HELD_OUT


def map_threshold(peaks: Scores, settings: DecisionSettings) -> float | None:
    """The value that the maximum of a normal image's map exceeds with the false-alarm rate at most.

    `peaks` (n,) are the sorted maxima of the maps of the calibration images. Where the rate cannot be guaranteed, the
    largest of them; None without maps.
    """
    if not len(peaks):
        return None
    try:
        rank = threshold_rank(len(peaks), settings.false_alarm_rate or DEFAULT_RATE, settings.confidence)
    except CalibrationError:
        rank = len(peaks)
    return float(peaks[rank - 1]) if peaks[rank - 1] > 0 else None
