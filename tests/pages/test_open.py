from __future__ import annotations

import pytest
from running_service import running, settings
from stored_inspections import DETECTOR_FILE

from oddlens.errors import MissingExtraError
from oddlens.pages.open import serve


@pytest.mark.parametrize("store", [None, "parts.db"])
def test_without_the_packages_of_the_extra_the_service_says_what_to_install(
    store: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oddlens.service.open.find_spec", lambda package: None)
    with pytest.raises(MissingExtraError, match=r"oddlens\[serve\]"):
        serve(settings(DETECTOR_FILE, store=store), lambda url, service: None)


def test_a_service_that_records_nothing_has_no_pages() -> None:
    with running(DETECTOR_FILE, "--no-store") as service:
        assert service.client.get("/").status_code == 404
