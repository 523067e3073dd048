"""Evaluation: how well a detector tells a labelled test set's anomalies from its normal images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from oddlens import metrics
from oddlens.conformal.grouped import GroupedDecision, Method
from oddlens.data.image_io import Pixels
from oddlens.data.image_set import ImageSet
from oddlens.data.near_duplicates import fingerprints
from oddlens.data.preprocessing import resize_map
from oddlens.detector.detector import Detector
from oddlens.errors import DataError
from oddlens.evaluation import corruptions
from oddlens.inference.backend import Predictions
from oddlens.inference.scoring import batch_size, score_batches

METHODS: tuple[Method, ...] = ("train_percentile", "conformal")


@dataclass(frozen=True)
class Evaluation:
    """A scored test set of N images, and what follows from it."""

    images: ImageSet
    scores: npt.NDArray[np.float64]  # (N,)
    in_rates: npt.NDArray[np.bool_]  # (N,) false for images that a threshold was made from
    errors: npt.NDArray[np.float64] | None  # (N,) mean squared reconstruction error; None without reconstructions
    pixel: dict[str, float]  # pixel_auroc and aupro, where masks exist
    decisions: GroupedDecision
    left_out: int  # test images that the detector was trained on; not among the N

    @property
    def labels(self) -> npt.NDArray[np.int8]:
        """(N,) 0 normal, 1 anomalous."""
        return self.images.labels

    @property
    def thresholds(self) -> npt.NDArray[np.float64]:
        """(N,) the threshold of each image."""
        return self.decisions.thresholds(len(self.scores), self.images.groups)

    def thresholds_by(self, method: Method) -> npt.NDArray[np.float64] | None:
        """(N,) the threshold that a method would give for each image; None where it gives none."""
        return self.decisions.thresholds_by(method, len(self.scores), self.images.groups)

    @property
    def kinds(self) -> list[str]:
        """The kinds of images, normal ones first."""
        of_label = {kind: int(label) for kind, label in zip(self.images.kinds, self.labels, strict=True)}
        return sorted(of_label, key=of_label.__getitem__)

    @property
    def metrics(self) -> dict[str, Any]:
        """The metrics table, as `eval --json` gives it."""
        labels, scores = self.labels, self.scores
        chosen = self._rates(self.thresholds)
        return {
            "image_auroc": metrics.auroc(labels, scores),
            "image_auroc_ci": list(metrics.auroc_interval(labels, scores)),
            "image_ap": metrics.average_precision(labels, scores),
            "anomaly_base_rate": float(labels.mean()),
            "false_alarm_rate": self.decisions.false_alarm_rate,
            **chosen,
            "method": self.decisions.settings.method,
            "decisions": {method: self._rates(self.thresholds_by(method)) for method in METHODS},
            "n_normal": int((labels == 0).sum()),
            "n_anomalous": int((labels == 1).sum()),
            "n_normal_rates": int(((labels == 0) & self.in_rates).sum()),
            "n_left_out_trained": self.left_out,
            "per_class": self._per_class(),
            **({"groups": self._per_group()} if self.decisions.grouped else {}),
            **self.pixel,
            **self._reconstruction(),
        }

    def _rates(self, thresholds: npt.NDArray[np.float64] | None) -> dict[str, Any]:
        """What thresholds (N,) do to images that they were not made from; there is no single one where they differ."""
        if thresholds is None:
            return {"threshold": None, "false_alarm_rate_measured": None, "detection_rate": None}
        flagged, kept, normal = self.scores > thresholds, self.in_rates, self.labels == 0
        alarms, n = int((flagged & kept & normal).sum()), int((kept & normal).sum())
        return {
            "threshold": float(thresholds[0]) if (thresholds == thresholds[0]).all() else None,
            "false_alarm_rate_measured": alarms / n if n else None,
            "false_alarm_rate_measured_ci": list(metrics.rate_interval(alarms, n)) if n else None,
            "detection_rate": flagged_share(flagged[~normal & kept]),
        }

    def _per_class(self) -> dict[str, dict[str, Any]]:
        kinds, flagged, rows = np.array(self.images.kinds), self.scores > self.thresholds, {}
        for kind in self.kinds:
            own = kinds == kind
            anomalous = bool(self.labels[own][0])
            against = own | (self.labels == 0)
            kept = own & self.in_rates
            rows[kind] = {
                "auroc": metrics.auroc(self.labels[against], self.scores[against]) if anomalous else None,
                "detection_rate": flagged_share(flagged[kept]),
                "n": int(own.sum()),
            }
        return rows

    def _per_group(self) -> dict[str, dict[str, Any]]:
        """What was asked for in each group that has test images, and what came of it."""
        names, rows = np.array(self.images.groups), {}
        for group in dict.fromkeys(self.images.groups):
            own = names == group
            part = replace(self, images=self.images.subset(own), scores=self.scores[own], in_rates=self.in_rates[own])
            asked = {"false_alarm_rate": self.decisions.parts[group].false_alarm_rate, "n": int(own.sum())}
            rows[group] = asked | part._rates(part.thresholds)
        return rows

    def _reconstruction(self) -> dict[str, Any]:
        if self.errors is None:
            return {}
        errors = {"normal": self.errors[self.labels == 0].mean(), "anomalous": self.errors[self.labels == 1].mean()}
        table = {
            kind: {"mse": float(mse), "psnr_db": float(-10 * np.log10(max(mse, 1e-12)))} for kind, mse in errors.items()
        }
        return {"reconstruction": table}

    @property
    def distorted(self) -> bool:
        """Whether the anomalies are our own distortions of normal images."""
        return set(corruptions.DISTORTIONS) <= set(self.images.kinds)


def flagged_share(flagged: npt.NDArray[np.bool_]) -> float | None:
    """The share of images that are flagged; None where there are no images."""
    return float(flagged.mean()) if flagged.size else None


def evaluate(detector: Detector, test: ImageSet, progress: Callable[[int], None] | None = None) -> Evaluation:
    """Score a labelled test set. Images that the detector was trained on are left out, and counted.

    Raises:
        DataError: the set lacks normal or anomalous images.
        StateError: the detector is not fitted or not calibrated.
    """
    for label, what in ((0, "normal"), (1, "anomalous")):
        if not (test.labels == label).any():
            raise DataError(f"the test set has no {what} images; evaluation needs both kinds (see docs/data.md)")
    spec = detector.spec
    outlines = mask_sizes(test)
    scores, prints, errors, maps = [], [], [], []
    done = 0
    for pixels in test.batches(spec, batch_size(spec)):
        (outputs,) = score_batches(detector.backend, [pixels])
        scores.append(outputs.anomaly_score)
        prints.append(fingerprints(pixels))
        errors.append(squared_errors(pixels, outputs, detector))
        maps += maps_at_mask_size(outputs, outlines[done : done + len(pixels)]) if outlines else []
        done += len(pixels)
        if progress:
            progress(done)
    seen = np.concatenate(prints)
    fresh = np.flatnonzero(~np.isin(seen, detector.fingerprints("training")))
    kept_errors = np.concatenate(errors)
    evaluation = Evaluation(
        images=test.subset(fresh),
        scores=np.concatenate(scores)[fresh],
        in_rates=~np.isin(seen[fresh], detector.fingerprints("calibration")),
        errors=None if np.isnan(kept_errors).any() else kept_errors[fresh],
        pixel=pixel_metrics(test, maps, fresh),
        decisions=detector.decisions_,
        left_out=len(test) - len(fresh),
    )
    if len(set(evaluation.labels.tolist())) < 2:
        raise DataError(
            f"after leaving out {evaluation.left_out} images that the detector was trained on, the test set has images "
            "of one label only; keep test images apart from training ones"
        )
    return evaluation


def squared_errors(pixels: Pixels, outputs: Predictions, detector: Detector) -> npt.NDArray[np.float64]:
    """(N,) mean squared reconstruction error of pixels in 0..1, where an image counts; nan without a reconstruction."""
    if outputs.reconstruction is None:
        return np.full(len(pixels), np.nan)
    difference = pixels.astype(np.float32) / detector.spec.value_max - outputs.reconstruction
    errors: npt.NDArray[np.float64] = np.square(difference[:, detector.region], dtype=np.float64).mean(axis=(1, 2))
    return errors


def mask_sizes(test: ImageSet) -> list[tuple[int, int] | None]:
    """The size at which each image's map is compared with its mask; empty where the set has no masks."""
    if not any(mask is not None for mask in test.masks):
        return []
    infos = test.infos()
    sizes: list[tuple[int, int] | None] = []
    for i, info in enumerate(infos):
        mask = test.mask(i)
        if mask is not None and mask.any():
            sizes.append((mask.shape[0], mask.shape[1]))
        else:  # an anomaly whose mask is missing or empty says nothing about where
            sizes.append(None if test.labels[i] else (info.height, info.width))
    return sizes


def maps_at_mask_size(
    outputs: Predictions, sizes: list[tuple[int, int] | None]
) -> list[npt.NDArray[np.float32] | None]:
    """Each image's map at its mask's own size."""
    if outputs.anomaly_map is None:
        return [None] * len(sizes)
    pairs = zip(outputs.anomaly_map, sizes, strict=True)
    return [None if size is None else resize_map(values, *size) for values, size in pairs]


def pixel_metrics(
    test: ImageSet, maps: list[npt.NDArray[np.float32] | None], fresh: npt.NDArray[np.intp]
) -> dict[str, float]:
    """Pixel AUROC and AUPRO over normal images and anomalies with a mask; empty where there are none."""
    known = [i for i in fresh if maps and maps[i] is not None]
    masks = [test.mask(i) for i in known]
    used = [
        (maps[i], np.zeros_like(maps[i], dtype=bool) if mask is None else mask)
        for i, mask in zip(known, masks, strict=True)
    ]
    if not any(mask.any() for _, mask in used):
        return {}
    values, truth = [pair[0] for pair in used], [pair[1] for pair in used]
    return {"pixel_auroc": metrics.pixel_auroc(values, truth), "aupro": metrics.aupro(values, truth)}
