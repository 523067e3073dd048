"""Evaluation: every rate is over images that no threshold was made from."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from oddlens import metrics
from oddlens.config.base import DecisionSettings, TrainingSettings
from oddlens.config.detectors import AutoencoderSettings
from oddlens.data.image_set import DataSet, ImageSet, concatenate
from oddlens.data.near_duplicates import fingerprints
from oddlens.data.open import open_dataset
from oddlens.data.preprocessing import resize_map
from oddlens.detector.detector import Detector
from oddlens.errors import DataError
from oddlens.evaluation import corruptions, evaluate, test_sets
from oddlens.reporting import evaluation_report


@pytest.fixture(scope="module")
def test_images(fitted: Detector, digits: DataSet) -> ImageSet:
    return test_sets.labelled_images(digits, fitted.spec, seed=0, distort=True)


@pytest.fixture(scope="module")
def found(fitted: Detector, test_images: ImageSet) -> evaluate.Evaluation:
    return evaluate.evaluate(fitted, test_images)


def test_every_distortion_and_pattern_is_there_beside_the_normal_images(digits: DataSet, test_images: ImageSet) -> None:
    kinds = [test_sets.NORMAL, *corruptions.DISTORTIONS, *corruptions.PATTERNS]
    assert list(dict.fromkeys(test_images.kinds)) == kinds
    assert all(test_images.kinds.count(kind) == len(digits.test) for kind in kinds)
    np.testing.assert_array_equal(test_images.labels == 0, np.array(test_images.kinds) == test_sets.NORMAL)


def test_the_table_agrees_with_the_scores(found: evaluate.Evaluation) -> None:
    table = found.metrics
    flagged = found.scores > table["threshold"]
    assert table["image_auroc"] == metrics.auroc(found.labels, found.scores)
    assert table["image_auroc_ci"][0] < table["image_auroc"] < table["image_auroc_ci"][1]
    assert table["detection_rate"] == pytest.approx(flagged[found.labels == 1].mean())
    assert table["false_alarm_rate_measured"] == pytest.approx(flagged[found.labels == 0].mean())
    assert table["decisions"]["conformal"]["threshold"] == table["threshold"]
    assert table["n_normal"] + table["n_anomalous"] == len(found.scores)
    assert table["per_class"][test_sets.NORMAL]["auroc"] is None
    assert table["per_class"]["inversion"]["auroc"] > 0.95
    assert table["reconstruction"]["normal"]["mse"] < table["reconstruction"]["anomalous"]["mse"]


def test_images_that_calibrated_are_left_out_of_rates_but_not_of_the_ranking(
    digits: DataSet, test_images: ImageSet
) -> None:
    detector = Detector(
        AutoencoderSettings(architecture="pooling", widths=(8,)),
        training=TrainingSettings(epochs=1),
        decision=DecisionSettings(method="train_percentile"),
    ).fit(digits.train, hold_out=False)
    half = np.arange(0, len(digits.test), 2)
    detector.calibrate(digits.test.subset(half))
    table = evaluate.evaluate(detector, test_images).metrics
    assert table["n_normal"] == len(digits.test)
    assert table["n_normal_rates"] == len(digits.test) - len(half)
    assert table["decisions"]["train_percentile"]["threshold"] == table["threshold"]
    assert table["decisions"]["conformal"]["threshold"] is not None


def test_images_that_were_trained_on_are_left_out_of_everything(
    fitted: Detector, digits: DataSet, test_images: ImageSet
) -> None:
    learned = np.isin(fingerprints(digits.train.load(fitted.spec)), fitted.fingerprints("training"))
    trained = digits.train.subset(np.flatnonzero(learned)[:40])
    again = evaluate.evaluate(fitted, concatenate([test_images, trained]))
    assert again.left_out == 40
    assert again.metrics["image_auroc"] == evaluate.evaluate(fitted, test_images).metrics["image_auroc"]
    with pytest.raises(DataError, match="one label only"):
        evaluate.evaluate(fitted, concatenate([trained, test_images.subset(test_images.labels == 1)]))


def test_the_reconstruction_error_counts_only_the_region_of_interest(digits: DataSet) -> None:
    detector = Detector(
        AutoencoderSettings(widths=(4,), latent_dim=4), training=TrainingSettings(epochs=1), roi="0,0,0.5,1"
    )
    detector.fit(digits.train.load(digits.train.choose_spec(None)))
    normal = digits.test.load(detector.spec)[:20]
    painted = normal.copy()
    painted[:, :, 4:] = 255
    both = concatenate([ImageSet.from_array(normal), test_sets.anomalous_images(painted, "outside")])
    table = evaluate.evaluate(detector, both).metrics
    assert table["image_auroc"] == pytest.approx(0.5)
    assert table["reconstruction"]["normal"] == table["reconstruction"]["anomalous"]


def test_without_fair_normal_images_the_rate_is_unknown_and_said_so(digits: DataSet) -> None:
    detector = Detector(AutoencoderSettings(widths=(4,), latent_dim=4), training=TrainingSettings(epochs=1))
    detector.fit(digits.train)
    odd = test_sets.anomalous_images(
        corruptions.distort("inversion", digits.test.load(detector.spec)[:20], 255, 0), "odd"
    )
    table = evaluate.evaluate(detector, concatenate([digits.train, odd])).metrics
    assert table["n_normal_rates"] == 0
    assert table["false_alarm_rate_measured"] is None
    assert table["n_normal"] == detector.manifest.data.n_calibration
    assert "cannot be measured here" in evaluation_report.describe_metrics(table, "autoencoder")
    assert dict(evaluation_report.cards(table))["normal images flagged"].startswith("not measured")


def test_a_users_defect_is_not_explained_as_one_of_our_distortions(fitted: Detector, digits: DataSet) -> None:
    pixels = digits.test.load(fitted.spec)[:20]
    holes = test_sets.anomalous_images(corruptions.distort("hole", pixels, 255, 0), "hole")
    found = evaluate.evaluate(fitted, concatenate([digits.test, holes]))
    assert not found.distorted
    assert evaluate.evaluate(fitted, test_sets.labelled_images(digits, fitted.spec, 0, True)).distorted


def test_one_label_alone_cannot_be_evaluated(fitted: Detector, digits: DataSet) -> None:
    with pytest.raises(DataError, match="no anomalous images"):
        evaluate.evaluate(fitted, digits.test)


def test_pixel_metrics_compare_maps_with_masks_at_the_masks_own_size(digits: DataSet) -> None:
    tiles = open_dataset("tiles")
    detector = Detector(
        AutoencoderSettings(widths=(8, 16), latent_dim=16), training=TrainingSettings(epochs=1), size=32
    ).fit(tiles.train.subset(np.arange(150)))
    few = tiles.test.subset(np.arange(0, len(tiles.test), 8))
    found = evaluate.evaluate(detector, few)
    assert set(found.pixel) == {"pixel_auroc", "aupro"}
    maps = [
        outputs
        for batch in detector.iter_predictions(few)
        if batch.anomaly_map is not None
        for outputs in batch.anomaly_map
    ]
    masks = [few.mask(i) for i in range(len(few))]
    size = few.image(0).shape[:2]
    truth = [np.zeros(size, dtype=bool) if mask is None else mask for mask in masks]
    enlarged = [resize_map(values, *mask.shape) for values, mask in zip(maps, truth, strict=True)]
    assert found.pixel["pixel_auroc"] == pytest.approx(metrics.pixel_auroc(enlarged, truth))
    assert found.pixel["aupro"] == pytest.approx(metrics.aupro(enlarged, truth))


def test_anomalies_with_an_empty_mask_say_nothing_about_pixels(fitted: Detector, digits: DataSet) -> None:
    odd = test_sets.anomalous_images(corruptions.distort("inversion", digits.test.load(fitted.spec)[:3], 255, 0), "odd")
    drawn = np.zeros((8, 8), dtype=bool)
    drawn[2:4, 2:5] = True
    masks = (drawn, np.zeros((8, 8), dtype=bool), None)
    normal = digits.test.subset(np.arange(5))
    both = evaluate.evaluate(fitted, concatenate([normal, dataclasses.replace(odd, masks=masks)]))
    one = dataclasses.replace(odd.subset(np.arange(1)), masks=masks[:1])
    assert both.pixel == evaluate.evaluate(fitted, concatenate([normal, one])).pixel
