"""Findings and facts about a data set, and their JSON."""

from __future__ import annotations

import json

import pytest
from wave_images import build_dataset, wave_images

from oddlens.evaluation.diagnosis import Diagnosis, counted


@pytest.fixture
def diagnosis() -> Diagnosis:
    return Diagnosis(build_dataset(wave_images(2, 120, 0), wave_images(1, 120, 1), wave_images(1, 120, 2)))


def test_json_has_the_facts_and_every_finding(diagnosis: Diagnosis) -> None:
    diagnosis.facts["n_train"] = 2
    diagnosis.add("warning", "leak", "1 near-duplicate", ["test[0]"], ["train[1]"], reasons=["darker"])
    assert json.loads(json.dumps(diagnosis.as_json)) == {
        "ok": True,
        "n_train": 2,
        "findings": [
            {
                "level": "warning",
                "name": "leak",
                "text": "1 near-duplicate",
                "n_files": 1,
                "files": ["test[0]"],
                "reasons": ["darker"],
            }
        ],
    }
    assert diagnosis.findings[0].similar == ("train[1]",)


@pytest.mark.parametrize(("level", "ok"), [("error", False), ("warning", True), ("note", True)])
def test_only_errors_make_a_data_set_unusable(diagnosis: Diagnosis, level: str, ok: bool) -> None:
    diagnosis.add(level, "x", "y")  # type: ignore[arg-type]
    assert diagnosis.as_json["ok"] is ok


@pytest.mark.parametrize(
    ("bits", "mixed"), [({"8": 4}, False), ({"16": 4}, False), ({"8": 1, "16": 3}, True), ({}, False)]
)
def test_bit_depths_are_mixed_if_there_are_both(diagnosis: Diagnosis, bits: dict[str, int], mixed: bool) -> None:
    diagnosis.facts["bits"] = bits
    assert diagnosis.mixed_bit_depths is mixed


def test_nouns_are_in_the_plural_unless_there_is_one() -> None:
    assert [counted(n, "mask") for n in (0, 1, 2)] == ["0 masks", "1 mask", "2 masks"]
