from __future__ import annotations

import pytest
from running_service import noise

from oddlens.service.inspecting import Tags, Upload
from oddlens.service.refusals import RefusalError
from oddlens.service.uploads import checked, text_values


def test_fields_become_tags_and_options() -> None:
    values = text_values([("lot", "A"), ("map", "TRUE"), ("detector", "part"), ("station", "")])
    request = checked([Upload("a.png", noise())], values)
    assert (request.tags, request.detector, request.with_map) == (Tags(lot="A"), "part", True)


@pytest.mark.parametrize(
    ("items", "reason"),
    [([("lot", "A"), ("lot", "B")], "twice"), ([("threshold", "1")], "is not a field"), ([("x" * 999, "")], "field")],
)
def test_fields_that_are_unknown_or_there_twice_are_refused(items: list[tuple[str, str]], reason: str) -> None:
    with pytest.raises(RefusalError, match=reason) as error:
        text_values(items)
    assert len(error.value.reason) < 400


@pytest.mark.parametrize(
    ("uploads", "values", "status"),
    [
        ([], {}, 422),
        ([Upload("a.png", b"")], {}, 422),
        ([Upload("a.png", b"text")], {}, 415),
        ([Upload("a.png", noise())], {"map": "maybe"}, 422),
        ([Upload("a.png", noise())], {"part": "x" * 201}, 422),
        ([Upload("x" * 1001, noise())], {}, 422),
    ],
)
def test_what_cannot_be_inspected_is_refused(uploads: list[Upload], values: dict[str, str], status: int) -> None:
    with pytest.raises(RefusalError) as error:
        checked(uploads, values)
    assert error.value.status == status
