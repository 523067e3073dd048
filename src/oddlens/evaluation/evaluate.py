"""Evaluation of a detector on a labelled test set: image and pixel metrics, and the rates of its decisions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from oddlens import metrics
from oddlens.conformal.exceedance import DEFAULT_MAX_ANOMALOUS, max_anomalous_images
from oddlens.conformal.grouped import GroupedDecision, Method
from oddlens.conformal.lot import LEVEL, MIN_CHANCE, Lot, LotTest, alarms_p_value, guaranteed_rate
from oddlens.conformal.ranks import format_percent
from oddlens.data.image_io import Pixels
from oddlens.data.image_set import ImageSet
from oddlens.data.near_duplicates import fingerprints
from oddlens.data.preprocessing import mean_brightness, resize_map
from oddlens.detector.detector import Detector
from oddlens.errors import DataError
from oddlens.evaluation import corruptions
from oddlens.evaluation.mask_use import MaskUse, survey_masks
from oddlens.inference.backend import Predictions
from oddlens.inference.scoring import batch_size, score_batches

N_REFERENCE = 99  # calibration images with which detectors are compared: the fewest that guarantee 1%
METHODS: tuple[Method, ...] = ("train_percentile", "conformal")


@dataclass(frozen=True)
class Evaluation:
    """A scored test set of N images, and the metrics computed from it; what `evaluate` returns.

    Attributes:
        images: the N images, without those that the detector was trained on.
        scores: (N,) float64, raw; higher is more anomalous.
        rate_mask: (N,) bool, false for images that a threshold was computed from: rates leave them out.
        reconstruction_errors: (N,) mean squared error of pixels in 0..1; None without reconstructions.
        pixel_metrics: `pixel_auroc` and `aupro`, where masks exist.
        decisions: the detector's decision, for all images or for each group.
        n_excluded: number of test images that the detector was trained on; not among the N.
        masks: which masks of the whole test set were used.
        max_anomalous: largest share of anomalies among the images that are labelled normal, for `lot`.
        brightness: (N,) float64, the mean of each image in 0..1, for `lot`; None where it is not known.

    Example: see `evaluate`.
    """

    images: ImageSet
    scores: npt.NDArray[np.float64]
    rate_mask: npt.NDArray[np.bool_]
    reconstruction_errors: npt.NDArray[np.float64] | None
    pixel_metrics: dict[str, float]
    decisions: GroupedDecision
    n_excluded: int
    masks: MaskUse = field(default_factory=MaskUse)
    max_anomalous: float = DEFAULT_MAX_ANOMALOUS
    brightness: npt.NDArray[np.float64] | None = None

    @property
    def labels(self) -> npt.NDArray[np.int8]:
        """(N,) 0 normal, 1 anomalous."""
        return self.images.labels

    @property
    def thresholds(self) -> npt.NDArray[np.float64]:
        """(N,) the threshold of each image."""
        return self.decisions.thresholds(len(self.scores), self.images.groups)

    def thresholds_by(self, method: Method) -> npt.NDArray[np.float64] | None:
        """(N,) the threshold of each image by `method`; None where the method gives none."""
        return self.decisions.thresholds_by(method, len(self.scores), self.images.groups)

    @property
    def kinds(self) -> list[str]:
        """The kinds of images, normal ones first."""
        labels = {kind: int(label) for kind, label in zip(self.images.kinds, self.labels, strict=True)}
        return sorted(labels, key=labels.__getitem__)

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """The metrics table, as printed by `eval --json`; what a test set of one label cannot give is None.

        Rates, AUROC and average precision are in 0..1; intervals are two-sided at 95%.

        Raises:
            MissingExtraError: scikit-learn or SciPy is not installed (extra `train`).
        """
        labels, scores = self.labels, self.scores
        comparable = set(labels.tolist()) == {0, 1}
        rate_at_99, n_scores_at_99 = self._detection_rate_at(N_REFERENCE)
        return {
            **self._rates(self.thresholds),
            "guaranteed_rate": self.decisions.guaranteed_rate,
            **self._calibration_counts(),
            "detection_rate_at_99": rate_at_99,
            "n_scores_at_99": n_scores_at_99,
            "image_auroc": metrics.auroc(labels, scores) if comparable else None,
            "image_auroc_ci": list(metrics.auroc_interval(labels, scores)) if comparable else None,
            "image_ap": metrics.average_precision(labels, scores) if comparable else None,
            "anomaly_base_rate": float(labels.mean()),
            "false_alarm_rate": self.decisions.false_alarm_rate,
            "method": self.decisions.settings.method,
            "decisions": {method: self._rates(self.thresholds_by(method)) for method in METHODS},
            "n_normal": int((labels == 0).sum()),
            "n_anomalous": int((labels == 1).sum()),
            "n_normal_rates": int(((labels == 0) & self.rate_mask).sum()),
            "n_left_out_trained": self.n_excluded,
            "per_class": self._per_class(),
            **({"groups": self._per_group()} if self.decisions.grouped else {}),
            **self.pixel_metrics,
            **self._reconstruction(),
        }

    @property
    def lot(self) -> LotTest | None:
        """The test of the normal images as a whole, without those that a threshold was computed from; None if few."""
        index = self._counted_normal
        lot = Lot(self.decisions, self.max_anomalous)
        brightness = None if self.brightness is None else self.brightness[index]
        lot.add(self.scores[index], self.images.subset(index).groups, brightness)
        return lot.test()

    @property
    def alarms_p_value(self) -> float | None:
        """Probability of at least as many false alarms by chance, where the guarantee holds: see `conformal.lot`."""
        index = self._counted_normal
        return alarms_p_value(self.decisions, self.scores[index], self.images.subset(index).groups)

    @property
    def alarms_warnings(self) -> list[str]:
        """A sentence where more normal images are flagged than chance explains, unless `lot` has shifted already."""
        p_value, index = self.alarms_p_value, self._counted_normal
        if p_value is None or p_value > LEVEL or self.lot_warnings:
            return []
        n_alarms = int((self.scores[index] > self.thresholds[index]).sum())
        chance = format_percent(float(f"{max(p_value, MIN_CHANCE):.2g}"))
        return [
            f"{n_alarms} of {len(index)} normal test images are flagged. Of images that resemble the calibration "
            f"images, so many would be with a probability of at most {chance}. So {guaranteed_rate(self.decisions)} is "
            "not guaranteed for these: look at them; if they are normal, fit or calibrate with images like them."
        ]

    @property
    def guarantee_warnings(self) -> list[str]:
        """Why the guarantee does not apply to these images: sentences about the lot, or about false alarms alone."""
        return [*self.lot_warnings, *self.alarms_warnings]

    @property
    def _counted_normal(self) -> npt.NDArray[np.intp]:
        """Indices of the normal images, without those that a threshold was computed from."""
        return np.flatnonzero((self.labels == 0) & self.rate_mask)

    @property
    def lot_warnings(self) -> list[str]:
        """Sentences where `lot` has shifted: the guarantee does not apply to these images."""
        lot = self.lot
        return [] if lot is None else lot.warnings(guaranteed_rate(self.decisions), "normal test images")

    def _rates(self, thresholds: npt.NDArray[np.float64] | None) -> dict[str, Any]:
        """Rates of (N,) thresholds on the images that they were not computed from.

        `threshold` is None where the thresholds differ, as between groups.
        """
        if thresholds is None:
            return {"threshold": None, "false_alarm_rate_measured": None, "detection_rate": None}
        flagged, normal = self.scores > thresholds, self.labels == 0
        alarms, n = int((flagged & self.rate_mask & normal).sum()), int((self.rate_mask & normal).sum())
        return {
            "threshold": float(thresholds[0]) if (thresholds == thresholds[0]).all() else None,
            "false_alarm_rate_measured": alarms / n if n else None,
            "false_alarm_rate_measured_ci": list(metrics.rate_interval(alarms, n)) if n else None,
            "detection_rate": flagged_share(flagged[~normal & self.rate_mask]),
        }

    def _calibration_counts(self) -> dict[str, int]:
        """Number of calibration images and, where they are counted, of their groups of near-duplicates."""
        parts = [part.calibration for part in self.decisions.parts.values()]
        counts = {"n_calibration": sum(len(part) for part in parts)}
        if any(part.is_clustered for part in parts):
            counts["calibration_groups"] = sum(part.n_clusters for part in parts)
        return counts

    def _detection_rate_at(self, count: int) -> tuple[float | None, int]:
        """Expected share of anomalies above the largest of `count` normal scores, and how many of those there are.

        It does not depend on how many images calibrated, so that it compares detectors which guarantee different rates.
        The normal scores are those of the calibration images, or where these are too few those of the normal test
        images, if there are more of them. Of each group of near-duplicates the largest score counts. Where groups of
        images are decided apart, each has its own normal scores, and the number is the smallest.
        """
        expected, n_anomalous, n_normal_scores = 0.0, 0, []
        for part, rows in self.decisions.rows_by_part(len(self.scores), self.images.groups):
            scores, is_normal, counted = self.scores[rows], self.labels[rows] == 0, self.rate_mask[rows]
            normal_scores, anomalous = part.calibration.largest, scores[~is_normal & counted]
            if len(normal_scores) < min(count, int((is_normal & counted).sum())):
                normal_scores = scores[is_normal & counted]
            n_normal_scores.append(len(normal_scores))
            n_anomalous += len(anomalous)
            expected += float(metrics.exceedance_of_largest(normal_scores, anomalous, count).sum())
        n_scores = min(n_normal_scores)
        return (expected / n_anomalous if n_anomalous and n_scores else None), n_scores

    def _per_class(self) -> dict[str, dict[str, Any]]:
        kinds, flagged, rows = np.array(self.images.kinds), self.scores > self.thresholds, {}
        normal = self.labels == 0
        for kind in self.kinds:
            of_kind = kinds == kind
            compared = of_kind | normal
            comparable = normal.any() and bool(self.labels[of_kind][0])
            rows[kind] = {
                "auroc": metrics.auroc(self.labels[compared], self.scores[compared]) if comparable else None,
                "detection_rate": flagged_share(flagged[of_kind & self.rate_mask]),
                "n": int(of_kind.sum()),
            }
        return rows

    def _per_group(self) -> dict[str, dict[str, Any]]:
        """Requested and measured rates of each group that has test images."""
        names, rows = np.array(self.images.groups), {}
        for group in dict.fromkeys(self.images.groups):
            index = np.flatnonzero(names == group)
            part = replace(
                self, images=self.images.subset(index), scores=self.scores[index], rate_mask=self.rate_mask[index]
            )
            requested = {"false_alarm_rate": self.decisions.parts[group].false_alarm_rate, "n": len(index)}
            rows[group] = requested | part._rates(part.thresholds)
        return rows

    def _reconstruction(self) -> dict[str, Any]:
        errors = self.reconstruction_errors
        if errors is None:
            return {}
        table: dict[str, dict[str, float] | None] = {"normal": None, "anomalous": None}
        for label, kind in enumerate(table):
            if (self.labels == label).any():
                mse = float(errors[self.labels == label].mean())
                table[kind] = {"mse": mse, "psnr_db": float(-10 * np.log10(max(mse, 1e-12)))}
        return {"reconstruction": table}

    @property
    def distorted(self) -> bool:
        """Whether the anomalies are the distortions of `corruptions`, applied to normal images."""
        return set(corruptions.DISTORTIONS) <= set(self.images.kinds)


def missing_metrics(counts: Mapping[str, int]) -> list[str]:
    """Say which metrics a test set of one label lacks, and why; `counts` has the numbers of images, by their names."""
    n_excluded = counts["n_left_out_trained"]
    others = f" but the {n_excluded} that the detector was trained on" if n_excluded else ""
    images = {"normal": f"normal test images{others}", "anomalous": "anomalous test images"}
    return [
        f"There are no {images[label]}, so there is no {rate}, AUROC or average precision."
        for label, rate in (("normal", "false-alarm rate"), ("anomalous", "detection rate"))
        if not counts[f"n_{label}"]
    ]


def flagged_share(flagged: npt.NDArray[np.bool_]) -> float | None:
    """Return the share of images that are flagged, or None without images."""
    return float(flagged.mean()) if flagged.size else None


def evaluate(
    detector: Detector,
    test: ImageSet,
    progress: Callable[[int], None] | None = None,
    max_anomalous: float = DEFAULT_MAX_ANOMALOUS,
) -> Evaluation:
    """Score a labelled test set, leaving out (and counting) the images that the detector was trained on.

    Of images of one label, the metrics are those that they give. `progress` is called with the number of images scored
    so far. For the test of the lot, up to `max_anomalous` of the images that are labelled normal may be anomalous.

    Raises:
        SettingsError: `max_anomalous` is not from 0 to below 1.
        DataError: the set has no images, or the detector was trained on all of them.
        ImageError: an image or a mask cannot be read.
        StateError: the detector is not fitted or not calibrated.
        MissingExtraError: there are masks, and scikit-learn or SciPy is not installed (extra `train`).

    Example:
        >>> from oddlens import DictionarySettings, Detector, evaluate, open_dataset
        >>> digits = open_dataset("digits", normal="3")
        >>> detector = Detector(DictionarySettings(atoms=20)).fit(digits.train)
        >>> metrics = evaluate(detector, digits.test).metrics
        >>> metrics["image_auroc"] > 0.95, metrics["n_normal"], metrics["n_anomalous"]
        (True, 51, 446)
    """
    require_images(test)
    max_anomalous_images(len(test), max_anomalous)  # only to raise its error, before anything is scored
    spec = detector.spec
    masks = survey_masks(test)
    scores, brightness, digests, errors, maps = [], [], [], [], []
    done = 0
    for pixels in test.batches(spec, batch_size(spec)):
        (outputs,) = score_batches(detector.backend, [pixels])
        scores.append(outputs.anomaly_score)
        brightness.append(mean_brightness(pixels, spec.value_max))
        digests.append(fingerprints(pixels))
        errors.append(squared_errors(pixels, outputs, detector))
        maps += maps_at_mask_size(outputs, masks.sizes[done : done + len(pixels)]) if masks.sizes else []
        done += len(pixels)
        if progress:
            progress(done)
    prints, squared = np.concatenate(digests), np.concatenate(errors)
    included = np.flatnonzero(~np.isin(prints, detector.fingerprints("training")))
    if not len(included):
        raise DataError(f"the detector was trained on all {len(test)} test images; test it on others")
    return Evaluation(
        images=test.subset(included),
        scores=np.concatenate(scores)[included],
        rate_mask=~np.isin(prints[included], detector.fingerprints("calibration")),
        reconstruction_errors=None if np.isnan(squared).any() else squared[included],
        pixel_metrics=compute_pixel_metrics(test, maps, included),
        decisions=detector.decisions_,
        n_excluded=len(test) - len(included),
        masks=masks,
        max_anomalous=max_anomalous,
        brightness=np.concatenate(brightness)[included],
    )


def require_images(test: ImageSet) -> None:
    """Check that a test set has images.

    Raises:
        DataError: it has none.
    """
    if not len(test):
        raise DataError(
            "the test set has no images; put them into test/good and test/<defect> (see docs/reference/data.md)"
        )


def squared_errors(pixels: Pixels, outputs: Predictions, detector: Detector) -> npt.NDArray[np.float64]:
    """(N,) mean squared reconstruction error of pixels in 0..1 within the region of interest; nan if there is none."""
    if outputs.reconstruction is None:
        return np.full(len(pixels), np.nan)
    difference = pixels.astype(np.float32) / detector.spec.value_max - outputs.reconstruction
    errors: npt.NDArray[np.float64] = np.square(difference[:, detector.region], dtype=np.float64).mean(axis=(1, 2))
    return errors


def maps_at_mask_size(
    outputs: Predictions, sizes: list[tuple[int, int] | None]
) -> list[npt.NDArray[np.float32] | None]:
    """Resize each image's anomaly map to the size of its mask; None where `sizes` has none."""
    if outputs.anomaly_map is None:
        return [None] * len(sizes)
    pairs = zip(outputs.anomaly_map, sizes, strict=True)
    return [None if size is None else resize_map(values, *size) for values, size in pairs]


def compute_pixel_metrics(
    test: ImageSet, maps: list[npt.NDArray[np.float32] | None], index: npt.NDArray[np.intp]
) -> dict[str, float]:
    """Compute pixel AUROC and AUPRO over the normal images and the anomalies with a mask among `index`.

    The result is empty where no image has a mask with a defect.
    """
    values, truth = [], []
    for i in index if maps else ():
        anomaly_map = maps[i]
        if anomaly_map is not None:
            mask = test.mask(i) if test.labels[i] else None
            values.append(anomaly_map)
            truth.append(np.zeros_like(anomaly_map, dtype=bool) if mask is None else mask)
    if not any(mask.any() for mask in truth):
        return {}
    return metrics.pixel_metrics(values, truth)
