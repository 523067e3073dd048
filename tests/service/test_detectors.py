from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from stored_inspections import DETECTOR_FILE, DIGEST

from oddlens.errors import ArtifactError
from oddlens.service.detectors import ServedDetectors


def test_a_detector_is_replaced_by_what_its_file_has_now_or_goes_on(tmp_path: Path) -> None:
    path = Path(shutil.copy(DETECTOR_FILE, tmp_path / "part.onnx"))
    served = ServedDetectors({"part": path}, None)
    first = served["part"]
    assert (served.names, "part" in served, "other" in served) == (["part"], True, False)
    path.write_bytes(b"no detector")
    with pytest.raises(ArtifactError):
        served.reload("part")
    assert served["part"] is first
    shutil.copy(DETECTOR_FILE, path)
    assert served.reload("part") is served["part"] is not first
    assert served["part"].manifest.digest == DIGEST
