"""The images of a report's gallery."""

from __future__ import annotations

import numpy as np
import pytest
from report_pages import digits_evaluation

from oddlens.data.image_set import DataSet
from oddlens.detector.detector import Detector
from oddlens.evaluation.evaluate import Evaluation
from oddlens.reporting import gallery_images
from oddlens.reporting.gallery_images import count_bytes, embed_images
from oddlens.reporting.score_data import ScoredImages


@pytest.fixture(scope="module")
def evaluation(digits_detector: Detector, digits: DataSet) -> Evaluation:
    return digits_evaluation(digits_detector, digits.test.load(digits_detector.spec))


def test_each_image_has_its_views_and_a_mask_where_there_is_one(
    digits_detector: Detector, evaluation: Evaluation
) -> None:
    scored = ScoredImages.of_evaluation(evaluation)
    shown = embed_images(digits_detector, evaluation.images, scored)
    assert [entry["i"] for entry in shown] == list(range(len(scored)))
    for entry in shown:
        assert entry["name"] == scored.names[entry["i"]]
        assert {"image", "heatmap", "reconstruction"} <= set(entry)
        assert ("mask" in entry) == bool(scored.labels[entry["i"]])
        assert (entry["width"], entry["height"]) == (8, 8)


def test_the_images_stay_within_their_bytes_by_being_smaller_and_then_fewer(
    digits_detector: Detector, evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored = ScoredImages.of_evaluation(evaluation)
    whole = sum(map(count_bytes, embed_images(digits_detector, evaluation.images, scored)))
    monkeypatch.setattr(gallery_images, "MAX_BYTES", whole // 3)
    fewer = embed_images(digits_detector, evaluation.images, scored)
    largest = max(map(count_bytes, fewer))
    assert 0 < len(fewer) < len(scored)
    assert sum(map(count_bytes, fewer)) <= whole // 3 + largest


def test_a_smaller_side_is_chosen_for_more_images(digits_detector: Detector, evaluation: Evaluation) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 1)).astype(np.uint8)
    output = gallery_images.ScoredImage(0, 0, noise, None, None)
    sides = [gallery_images.choose_side(digits_detector, evaluation.images, [output], n) for n in (10, 600)]
    assert sides[0] == 320
    assert sides[1] < 320
    n_bytes = count_bytes(gallery_images.embed_image(digits_detector, evaluation.images, output, sides[1]))
    assert 600 * n_bytes <= gallery_images.MAX_BYTES


def test_an_image_that_vanished_since_it_was_scored_is_left_out(
    digits_detector: Detector, digits: DataSet, tmp_path: object
) -> None:
    from pathlib import Path

    from PIL import Image

    from oddlens.data.image_set import ImageSet

    paths = [Path(str(tmp_path)) / f"{i}.png" for i in range(3)]
    for i, path in enumerate(paths):
        Image.fromarray(digits.test.image(i)[..., 0]).save(path)
    images = ImageSet.from_files(paths)
    verdicts = digits_detector.predict(images)
    paths[1].unlink()
    scored = ScoredImages.of_verdicts(verdicts, (), digits_detector.decisions_)
    names = {entry["name"] for entry in embed_images(digits_detector, images, scored)}
    assert names == {str(paths[0]), str(paths[2])}
