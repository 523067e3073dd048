from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from running_service import noise, png
from stored_inspections import DETECTOR_FILE

from oddlens.detector.detector import Detector
from oddlens.errors import ImageError, SettingsError
from oddlens.io.own_files import has_own_chunk
from oddlens.service.inspecting import Tags, Upload, inspect


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector.load(DETECTOR_FILE, threads=1)


def test_an_inspection_is_what_the_detector_says_of_the_image_alone(detector: Detector) -> None:
    uploads = [Upload(f"{seed}.png", noise(seed)) for seed in range(3)]
    items = inspect("part", detector, uploads, Tags(lot="A"), with_map=False)
    for upload, (inspection, content, map_png) in zip(uploads, items, strict=True):
        verdicts = detector.predict([upload.content])
        assert inspection.anomaly_score == verdicts.anomaly_score[0]
        assert (inspection.p_value, inspection.verdict) == (verdicts.p_value[0], verdicts.verdict[0])
        assert (inspection.name, inspection.lot, inspection.batch_size) == (upload.name, "A", 1)
        assert (content, map_png) == (upload.content, None)


def test_a_map_has_the_size_of_its_image_and_is_recognized_as_ours(detector: Detector) -> None:
    image = png(np.zeros((30, 50), dtype=np.uint8))
    ((_, _, map_png),) = inspect("part", detector, [Upload("a.png", image)], Tags(), with_map=True)
    assert map_png is not None
    assert Image.open(io.BytesIO(map_png)).size == (50, 30)
    assert has_own_chunk(map_png[:256])


def test_one_bad_image_refuses_all_and_is_named(detector: Detector) -> None:
    with pytest.raises(ImageError, match=r"^bad\.png: is damaged"):
        inspect("part", detector, [Upload("a.png", noise()), Upload("bad.png", noise()[:40])], Tags(), with_map=False)


def test_a_group_is_refused_where_none_decides(detector: Detector) -> None:
    with pytest.raises(SettingsError, match="group"):
        inspect("part", detector, [Upload("a.png", noise())], Tags(group="A"), with_map=False)
