from __future__ import annotations

import json

import pytest

from oddlens.errors import (
    ArtifactError,
    DataNotFoundError,
    DiskFullError,
    ImageError,
    OddlensError,
    SettingsError,
    StateError,
    StoreError,
)
from oddlens.service.refusals import RefusalError, as_refusal


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (DiskFullError("full"), 507),
        (DataNotFoundError("none"), 404),
        (ImageError("a.png", "damaged"), 422),
        (SettingsError("group"), 422),
        (StateError("group"), 422),
        (StoreError("away"), 503),
        (ArtifactError("scores"), 500),
        (OddlensError("other"), 500),
    ],
)
def test_an_error_of_the_library_has_a_status_and_its_message(error: OddlensError, status: int) -> None:
    response = as_refusal(error).response()
    assert response.status_code == status
    assert json.loads(bytes(response.body)) == {"error": str(error)}
    assert ("retry-after" in response.headers) == (status in (503, 507))


def test_a_missing_token_is_asked_for() -> None:
    assert RefusalError(401, "token").response().headers["www-authenticate"] == "Bearer"
