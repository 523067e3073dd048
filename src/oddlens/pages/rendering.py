"""Pages from templates: what they all share, and what a template is given."""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import HTMLResponse

from oddlens import __version__
from oddlens.pages.texts import choose_language, languages, load_texts

if TYPE_CHECKING:
    from jinja2 import Environment

LANGUAGE_COOKIE = "oddlens_language"


@functools.cache
def environment() -> Environment:
    """The environment of all templates, in which every value is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    built = Environment(
        loader=PackageLoader("oddlens.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    built.globals.update(version=__version__, languages=languages())
    built.filters["json"] = as_json
    return built


def as_json(value: object) -> Any:
    """A value as JSON in which no tag can begin, for `<script type="application/json">`."""
    from markupsafe import Markup

    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))  # noqa: S704


def page(request: Request, template: str, status: int = 200, **values: object) -> HTMLResponse:
    """A page, or a part of one, for the person who makes a request.

    Templates have `t` (texts), `user` (None before a login), `has_learning`, `has_login`, `path`, `address` (with the
    query), and the values.
    """
    t = load_texts(choose_language(request.cookies.get(LANGUAGE_COOKIE), request.headers.get("accept-language", "")))
    settings = request.app.state.settings
    user = getattr(request.state, "user", None)
    shared = {
        "t": t,
        "user": user,
        "has_login": bool(settings.users),
        "has_learning": settings.root is not None and user is not None and user.role == "engineer",
        "path": request.url.path,
        "address": request.url.path + (f"?{request.url.query}" if request.url.query else ""),
    }
    return HTMLResponse(environment().get_template(template).render(shared | values), status)
