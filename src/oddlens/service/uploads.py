"""Uploads: what a request brings, as a form or as the body itself, read within limits of size, number and time."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request

from oddlens.data.image_header import detect_reader
from oddlens.errors import ImageError
from oddlens.service.inspecting import Tags, Upload
from oddlens.service.refusals import RefusalError

MAX_FILES, MAX_FIELDS, MAX_FIELD_BYTES = 64, 16, 4096
MAX_NAME, MAX_TAG = 1000, 200  # characters
TAGS = ("part", "lot", "station", "group")
FIELDS = (*TAGS, "detector", "map", "name")
BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True)
class InspectRequest:
    """A request for inspections."""

    uploads: list[Upload]
    tags: Tags
    detector: str | None
    with_map: bool


async def read_request(request: Request, deadline: float) -> InspectRequest:
    """Read a request: a form with files, or the content of one image as its body with the fields in the query.

    Raises:
        RefusalError: 400, 408, 413, 415 or 422, and why.
    """
    values = text_values(request.query_params.multi_items())
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        with body_errors():
            limits = {"max_files": MAX_FILES, "max_fields": MAX_FIELDS, "max_part_size": MAX_FIELD_BYTES}
            async with asyncio.timeout_at(deadline), request.form(**limits) as form:  # whose files are closed
                uploads = await read_files(form)
        fields = text_values((name, value) for name, value in form.multi_items() if isinstance(value, str))
        if both := sorted(values.keys() & fields.keys()):
            raise RefusalError(422, f"{both[0]}: is both in the address and in the form; send it once")
        values |= fields
    elif kind.startswith("image/") or kind == "application/octet-stream":
        with body_errors():
            async with asyncio.timeout_at(deadline):
                content = await request.body()
        uploads = [Upload(values.get("name", "image"), content)]
    else:
        raise RefusalError(415, "send multipart/form-data with files, or one image as image/png, image/jpeg, ...")
    return checked(uploads, values)


@contextmanager
def body_errors() -> Iterator[None]:
    """Raise what a body that is slow, or is no form, raises in the block as a RefusalError."""
    try:
        yield
    except TimeoutError as error:
        raise RefusalError(408, "the body did not arrive within the deadline") from error
    except (ValueError, UnicodeError) as error:
        raise RefusalError(400, "the body is not a form of the type multipart/form-data") from error


async def read_files(form: FormData) -> list[Upload]:
    """The files of a form, which are all named `file`."""
    uploads = []
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            if name != "file":
                raise RefusalError(422, f"{name[:MAX_TAG]}: files belong into the field `file`")
            uploads.append(Upload(value.filename or "image", await value.read()))
    return uploads


def text_values(items: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The fields, each once; empty ones are left out."""
    values: dict[str, str] = {}
    for name, value in items:
        if name not in FIELDS:
            raise RefusalError(422, f"{name[:MAX_TAG]}: is not a field; there are: file, {', '.join(FIELDS)}")
        if name in values:
            raise RefusalError(422, f"{name}: is there twice; send it once")
        values[name] = value
    return {name: value for name, value in values.items() if value}


def checked(uploads: list[Upload], values: dict[str, str]) -> InspectRequest:
    """The request, once names, tags and types are what they may be."""
    if not uploads:
        raise RefusalError(422, "there is no image; send one or more files in the field `file`")
    for name in TAGS:
        if len(values.get(name, "")) > MAX_TAG:
            raise RefusalError(422, f"{name}: has more than {MAX_TAG} characters")
    if values.get("map", "false").lower() not in BOOLEANS:
        raise RefusalError(422, "map: must be true or false")
    for name, content in uploads:
        if len(name) > MAX_NAME:
            raise RefusalError(422, f"the name of an image has more than {MAX_NAME} characters")
        if not content:
            raise RefusalError(422, f"{name}: is empty")
        try:
            detect_reader(io.BytesIO(content), name)
        except ImageError as error:
            raise RefusalError(415, str(error)) from error
    tags = Tags(**{name: values.get(name) for name in TAGS})
    return InspectRequest(uploads, tags, values.get("detector"), BOOLEANS[values.get("map", "false").lower()])
