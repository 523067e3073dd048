"""Refusals: every way in which a request is not answered as it asked, with its status and its reason."""

from __future__ import annotations

from starlette.responses import JSONResponse

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

STATUS_OF = (  # the first that matches; of those that scoring and storing raise
    (DiskFullError, 507),
    (DataNotFoundError, 404),
    (ImageError, 422),
    (SettingsError, 422),
    (StateError, 422),
    (StoreError, 503),
    (ArtifactError, 500),
    (OddlensError, 500),
)


class RefusalError(Exception):
    """Raised to answer a request with an error; `retry_after` is in seconds."""

    def __init__(self, status: int, reason: str, *, retry_after: int | None = None, close: bool = False) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason
        self.headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        if status == 401:
            self.headers["WWW-Authenticate"] = "Bearer"
        if close:
            self.headers["Connection"] = "close"

    def response(self) -> JSONResponse:
        """The answer; `error` is where the Open Inference Protocol has it, too."""
        return JSONResponse({"error": self.reason}, self.status, self.headers)


def as_refusal(error: OddlensError) -> RefusalError:
    """The refusal for an error of the library."""
    status = next(status for kind, status in STATUS_OF if isinstance(error, kind))
    return RefusalError(status, str(error), retry_after=5 if status in (503, 507) else None)
