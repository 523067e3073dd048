"""Evaluation: metrics agree with the scores, and rates exclude images that a threshold was computed from."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from oddlens import metrics
from oddlens.config.base import DecisionSettings, TrainingSettings
from oddlens.config.detectors import AutoencoderSettings
from oddlens.conformal.decision import Decision
from oddlens.conformal.grouped import UNGROUPED, GroupedDecision
from oddlens.conformal.lot import alarms_p_value
from oddlens.data.image_set import DataSet, ImageSet, concatenate
from oddlens.data.near_duplicates import fingerprints
from oddlens.data.open import open_dataset
from oddlens.data.preprocessing import resize_map
from oddlens.detector.detector import Detector
from oddlens.errors import DataError, SettingsError
from oddlens.evaluation import corruptions, evaluate, test_sets
from oddlens.reporting import evaluation_tables


@pytest.fixture(scope="module")
def test_images(digits_detector: Detector, digits: DataSet) -> ImageSet:
    return test_sets.build_test_set(digits, digits_detector.spec, seed=0, distort=True)


@pytest.fixture(scope="module")
def evaluation(digits_detector: Detector, test_images: ImageSet) -> evaluate.Evaluation:
    return evaluate.evaluate(digits_detector, test_images)


def test_the_metrics_agree_with_the_scores(evaluation: evaluate.Evaluation) -> None:
    table = evaluation.metrics
    flagged = evaluation.scores > table["threshold"]
    assert table["image_auroc"] == metrics.auroc(evaluation.labels, evaluation.scores)
    assert table["image_auroc_ci"][0] < table["image_auroc"] < table["image_auroc_ci"][1]
    assert table["detection_rate"] == pytest.approx(flagged[evaluation.labels == 1].mean())
    assert table["false_alarm_rate_measured"] == pytest.approx(flagged[evaluation.labels == 0].mean())
    assert table["decisions"]["conformal"]["threshold"] == table["threshold"]
    assert table["n_normal"] + table["n_anomalous"] == len(evaluation.scores)
    assert table["per_class"][test_sets.NORMAL]["auroc"] is None
    assert table["per_class"]["inversion"]["auroc"] > 0.95
    assert table["reconstruction"]["normal"]["mse"] < table["reconstruction"]["anomalous"]["mse"]


def test_calibration_images_are_excluded_from_rates_but_not_from_auroc(digits: DataSet, test_images: ImageSet) -> None:
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


def test_the_lot_is_the_normal_images_that_no_threshold_was_computed_from(
    digits_detector: Detector, digits: DataSet, test_images: ImageSet
) -> None:
    evaluation = evaluate.evaluate(digits_detector, test_images, max_anomalous=0.0)
    normal = evaluation.scores[evaluation.labels == 0]
    assert evaluation.lot == digits_detector.test_lot(normal, max_anomalous=0.0, images=digits.test)
    assert evaluation.lot is not None
    assert evaluation.lot.n == len(digits.test)
    masked = dataclasses.replace(evaluation, rate_mask=np.arange(len(evaluation.scores)) < 40)
    first = digits.test.subset(range(40))
    assert masked.lot == digits_detector.test_lot(normal[:40], max_anomalous=0.0, images=first)
    few = dataclasses.replace(evaluation, rate_mask=np.arange(len(evaluation.scores)) < 29)
    assert (few.lot, few.lot_warnings) == (None, [])


def test_a_shifted_test_set_is_named_with_the_rate_that_does_not_apply(
    digits_detector: Detector, digits: DataSet
) -> None:
    negatives = ImageSet.from_array(255 - digits.test.load(digits_detector.spec)[:60])
    (sentence,) = evaluate.evaluate(digits_detector, negatives).lot_warnings
    assert sentence.startswith("These 60 normal test images differ from the calibration images as a whole (p = ")
    assert "Unless more than 10% of them are anomalous, the false-alarm rate of 1% is not guaranteed" in sentence


def test_more_false_alarms_than_chance_explains_are_named_where_the_lot_is_too_small_to_be_tested(
    digits_detector: Detector, digits: DataSet
) -> None:
    pixels = digits.test.load(digits_detector.spec)[:20].copy()
    pixels[:4] = 255 - pixels[:4]
    evaluation = evaluate.evaluate(digits_detector, ImageSet.from_array(pixels))
    assert (evaluation.lot, evaluation.lot_warnings) == (None, [])
    n_alarms = int((evaluation.scores > evaluation.thresholds).sum())
    assert n_alarms >= 4
    assert evaluation.alarms_p_value == alarms_p_value(digits_detector.decisions_, evaluation.scores)
    (sentence,) = evaluation.guarantee_warnings
    assert sentence.startswith(f"{n_alarms} of 20 normal test images are flagged. ")
    assert "with a probability of at most 0.01%. So the false-alarm rate of 1% is not guaranteed for these" in sentence
    usual = dataclasses.replace(evaluation, rate_mask=np.arange(20) >= 4)
    assert usual.alarms_p_value is not None
    assert usual.alarms_p_value > 0.01
    assert usual.guarantee_warnings == []


def test_one_warning_is_enough_where_the_lot_has_shifted(digits_detector: Detector, digits: DataSet) -> None:
    negatives = ImageSet.from_array(255 - digits.test.load(digits_detector.spec)[:60])
    evaluation = evaluate.evaluate(digits_detector, negatives)
    assert evaluation.alarms_p_value is not None
    assert evaluation.alarms_p_value < 0.01
    assert evaluation.alarms_warnings == []
    assert evaluation.guarantee_warnings == evaluation.lot_warnings != []


def test_a_wrong_share_of_anomalous_images_is_refused_before_scoring(
    digits_detector: Detector, digits: DataSet
) -> None:
    def scored(done: int) -> None:
        raise AssertionError(done)

    with pytest.raises(SettingsError, match="from 0 to below 1, got 10"):
        evaluate.evaluate(digits_detector, digits.test, scored, max_anomalous=10)


def test_training_images_are_excluded_from_all_metrics(
    digits_detector: Detector, digits: DataSet, test_images: ImageSet
) -> None:
    in_training = np.isin(
        fingerprints(digits.train.load(digits_detector.spec)), digits_detector.fingerprints("training")
    )
    train_images = digits.train.subset(np.flatnonzero(in_training)[:40])
    evaluation = evaluate.evaluate(digits_detector, concatenate([test_images, train_images]))
    assert evaluation.n_excluded == 40
    assert evaluation.metrics["image_auroc"] == evaluate.evaluate(digits_detector, test_images).metrics["image_auroc"]
    anomalous = test_images.subset(np.flatnonzero(test_images.labels == 1)[:50])
    table = evaluate.evaluate(digits_detector, concatenate([train_images, anomalous])).metrics
    assert (table["n_normal"], table["n_anomalous"], table["n_left_out_trained"]) == (0, 50, 40)
    assert evaluate.missing_metrics(table) == [
        "There are no normal test images but the 40 that the detector was trained on, so there is no false-alarm rate, "
        "AUROC or average precision."
    ]
    with pytest.raises(DataError, match="trained on all 40 test images; test it on others"):
        evaluate.evaluate(digits_detector, train_images)


def test_reconstruction_error_is_limited_to_the_region_of_interest(digits: DataSet) -> None:
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


def test_without_held_out_normal_images_the_false_alarm_rate_is_unknown(digits: DataSet) -> None:
    detector = Detector(AutoencoderSettings(widths=(4,), latent_dim=4), training=TrainingSettings(epochs=1))
    detector.fit(digits.train)
    anomalous = test_sets.anomalous_images(
        corruptions.distort("inversion", digits.test.load(detector.spec)[:20], 255, 0), "inverted"
    )
    table = evaluate.evaluate(detector, concatenate([digits.train, anomalous])).metrics
    assert table["n_normal_rates"] == 0
    assert table["false_alarm_rate_measured"] is None
    assert table["n_normal"] == detector.manifest.data.n_calibration
    assert "cannot be measured here" in evaluation_tables.describe_metrics(table, reconstruction_error=True)


def test_a_users_defect_class_is_not_taken_for_a_distortion(digits_detector: Detector, digits: DataSet) -> None:
    pixels = digits.test.load(digits_detector.spec)[:20]
    holes = test_sets.anomalous_images(corruptions.distort("hole", pixels, 255, 0), "hole")
    evaluation = evaluate.evaluate(digits_detector, concatenate([digits.test, holes]))
    assert not evaluation.distorted
    assert evaluate.evaluate(digits_detector, test_sets.build_test_set(digits, digits_detector.spec, 0, True)).distorted


@pytest.mark.parametrize("label", [0, 1])
def test_a_test_set_of_one_label_has_the_rate_of_that_label(
    label: int, digits_detector: Detector, test_images: ImageSet, evaluation: evaluate.Evaluation
) -> None:
    both = evaluation.metrics
    table = evaluate.evaluate(digits_detector, test_images.subset(test_images.labels == label)).metrics
    measured = {name: rate for name, rate in both.items() if name.startswith("false_alarm_rate_measured")}
    missing = {"detection_rate": None}
    if label:
        measured, missing = {"detection_rate": both["detection_rate"]}, dict.fromkeys(measured)
    missing |= dict.fromkeys(("image_auroc", "image_auroc_ci", "image_ap"))
    assert table | measured | missing == table
    assert table.keys() == both.keys()
    assert (
        table["decisions"]["conformal"] | measured | {name: None for name in missing if "rate" in name}
        == (table["decisions"]["conformal"])
    )
    assert {row["auroc"] for row in table["per_class"].values()} == {None}
    assert [row is None for row in table["reconstruction"].values()] == [label == 1, label == 0]
    assert json.loads(json.dumps(table, allow_nan=False)) == table
    rate, name = ("false-alarm rate", "normal") if label else ("detection rate", "anomalous")
    assert evaluate.missing_metrics(table) == [
        f"There are no {name} test images, so there is no {rate}, AUROC or average precision."
    ]
    assert evaluate.missing_metrics(both) == []


def test_defects_alone_with_masks_have_pixel_metrics(digits_detector: Detector, digits: DataSet) -> None:
    pixels = corruptions.distort("hole", digits.test.load(digits_detector.spec)[:6], 255, 0)
    mask = np.zeros((8, 8), dtype=bool)
    mask[2:5, 2:5] = True
    masked = dataclasses.replace(test_sets.anomalous_images(pixels, "hole"), masks=(mask,) * 6)
    assert set(evaluate.evaluate(digits_detector, masked).pixel_metrics) == {"pixel_auroc", "aupro"}


def test_an_empty_test_set_is_rejected(digits_detector: Detector, digits: DataSet) -> None:
    with pytest.raises(DataError, match="the test set has no images; put them into test/good"):
        evaluate.evaluate(digits_detector, digits.test.subset([]))


def test_pixel_metrics_compare_maps_and_masks_at_the_size_of_the_mask(digits: DataSet) -> None:
    tiles = open_dataset("tiles")
    detector = Detector(
        AutoencoderSettings(widths=(8, 16), latent_dim=16), training=TrainingSettings(epochs=1), size=32
    ).fit(tiles.train.subset(np.arange(150)))
    few = tiles.test.subset(np.arange(0, len(tiles.test), 8))
    evaluation = evaluate.evaluate(detector, few)
    assert set(evaluation.pixel_metrics) == {"pixel_auroc", "aupro"}
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
    assert evaluation.pixel_metrics["pixel_auroc"] == pytest.approx(metrics.pixel_auroc(enlarged, truth))
    assert evaluation.pixel_metrics["aupro"] == pytest.approx(metrics.aupro(enlarged, truth))


def test_anomalies_with_an_empty_mask_do_not_count_for_pixel_metrics(
    digits_detector: Detector, digits: DataSet
) -> None:
    anomalous = test_sets.anomalous_images(
        corruptions.distort("inversion", digits.test.load(digits_detector.spec)[:3], 255, 0), "inverted"
    )
    mask = np.zeros((8, 8), dtype=bool)
    mask[2:4, 2:5] = True
    masks = (mask, np.zeros((8, 8), dtype=bool), None)
    normal = digits.test.subset(np.arange(5))
    all_masks = evaluate.evaluate(digits_detector, concatenate([normal, dataclasses.replace(anomalous, masks=masks)]))
    first = dataclasses.replace(anomalous.subset(np.arange(1)), masks=masks[:1])
    assert all_masks.pixel_metrics == evaluate.evaluate(digits_detector, concatenate([normal, first])).pixel_metrics


def test_the_mask_of_a_normal_image_does_not_count(digits_detector: Detector, digits: DataSet) -> None:
    """Its folder says that it is normal; `masks` says that its mask contradicts that."""
    anomalous = test_sets.anomalous_images(
        corruptions.distort("inversion", digits.test.load(digits_detector.spec)[:3], 255, 0), "inverted"
    )
    mask = np.zeros((8, 8), dtype=bool)
    mask[2:4, 2:5] = True
    images = concatenate([digits.test.subset(np.arange(5)), dataclasses.replace(anomalous, masks=(mask,) * 3)])
    contradicting = dataclasses.replace(images, masks=(mask, *images.masks[1:]))
    evaluation = evaluate.evaluate(digits_detector, contradicting)
    assert evaluation.pixel_metrics == evaluate.evaluate(digits_detector, images).pixel_metrics
    assert sum(map(len, evaluation.masks.unused.values())) == 1


def with_scores(
    evaluation: evaluate.Evaluation, calibration: np.ndarray, clusters: np.ndarray | None = None
) -> evaluate.Evaluation:
    """The evaluation with other calibration scores."""
    no_or_clusters = np.empty(0, dtype=np.uint64) if clusters is None else clusters
    decision = Decision(DecisionSettings(), calibration, np.empty(0), clusters=no_or_clusters)
    return dataclasses.replace(evaluation, decisions=GroupedDecision({UNGROUPED: decision}))


def test_the_table_begins_with_what_is_caught_and_what_is_guaranteed(evaluation: evaluate.Evaluation) -> None:
    table = evaluation.metrics
    assert "detection_rate" in list(table)[:5]
    assert list(table).index("guaranteed_rate") < list(table).index("image_auroc")
    assert table["guaranteed_rate"] == evaluation.decisions.false_alarm_rate == 0.01
    assert table["n_calibration"] == len(evaluation.decisions.single.calibration)
    assert table["calibration_groups"] == evaluation.decisions.single.calibration.n_clusters
    assert "calibration_groups" not in with_scores(evaluation, np.arange(99.0)).metrics
    percentile = evaluation.decisions.single.training_scores
    decision = Decision(DecisionSettings(method="train_percentile"), np.empty(0), percentile)
    without = dataclasses.replace(evaluation, decisions=GroupedDecision({UNGROUPED: decision})).metrics
    assert without["guaranteed_rate"] is None
    assert without["n_calibration"] == 0
    assert without["detection_rate_at_99"] is not None  # from the normal test images
    assert without["n_scores_at_99"] == without["n_normal_rates"]


def test_detectors_with_unequally_many_calibration_images_have_the_same_detection_rate_at_99(
    evaluation: evaluate.Evaluation, rng: np.random.Generator
) -> None:
    normal = evaluation.scores[evaluation.labels == 0]
    rates, own_rates = [], []
    for n in (99, 300, 1000):
        tables = [with_scores(evaluation, rng.choice(normal, n)).metrics for _ in range(30)]
        assert {table["n_scores_at_99"] for table in tables} == {n}
        rates.append(np.mean([table["detection_rate_at_99"] for table in tables]))
        own_rates.append(np.mean([table["detection_rate"] for table in tables]))
    assert max(rates) - min(rates) < 0.02
    exact = with_scores(evaluation, np.sort(normal)[:99]).metrics
    assert exact["detection_rate_at_99"] == pytest.approx(exact["detection_rate"])  # exactly 99: the threshold itself


def test_near_duplicates_count_once_in_the_detection_rate_at_99(
    evaluation: evaluate.Evaluation, rng: np.random.Generator
) -> None:
    largest = rng.choice(evaluation.scores[evaluation.labels == 0], 120)
    scores, clusters = np.concatenate([largest, largest - 1, largest - 2]), np.tile(np.arange(120), 3)
    table = with_scores(evaluation, scores, clusters).metrics
    assert table["n_scores_at_99"] == 120
    assert table["detection_rate_at_99"] == with_scores(evaluation, largest).metrics["detection_rate_at_99"]
