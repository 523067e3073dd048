"""Projects: a folder of photographs, the images that are excluded, the region that counts, and the settings to fit."""

from __future__ import annotations

import io
import secrets
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from PIL import Image, ImageDraw, ImageFilter
from pydantic import Field

from oddlens.config.base import Settings
from oddlens.config.parse import parse, parse_detector, with_light
from oddlens.errors import SettingsError, StateError
from oddlens.io.own_folder import lock
from oddlens.pages.learning.workspace import Workspace, ids, read_json, write_json

FILE = "project.json"
MASK_SIDE = 1024  # pixels of the mask of a region, which is stretched to the images

Share = Annotated[float, Field(ge=0, le=1)]
Polygon = Annotated[tuple[tuple[Share, Share], ...], Field(min_length=3, max_length=1000)]  # corners (x, y)
ImageId = Annotated[str, Field(pattern="^[0-9a-f]{16}$")]


class FitSettings(Settings):
    """How a detector is fitted; the fields are the options of `oddlens fit`, with their defaults."""

    detector: str = Field("auto", max_length=50)
    false_alarm_rate: float | None = Field(None, gt=0, lt=1)
    budget: float | None = Field(None, gt=0, le=7 * 86_400)  # seconds
    tile: Annotated[int, Field(ge=4, le=4096)] | Literal["auto", "off"] = "auto"
    light: Literal["varies", "fixed"] | None = None
    normal: str | None = Field(None, max_length=200)  # the class folder that is normal
    epochs: int | None = Field(None, ge=1, le=100_000)
    size: int | None = Field(None, ge=4, le=4096)


class Project(Settings):
    """A project; each change has the next `revision`."""

    id: str
    revision: int = Field(ge=1)
    name: str = Field(min_length=1, max_length=200)
    folder: str  # id of the photographs
    excluded: tuple[ImageId, ...] = ()
    region: tuple[Polygon, ...] = ()  # of interest, in shares of width and height; empty is the whole image
    settings: FitSettings = FitSettings()
    created: str
    changed: str


class Projects:
    """The projects in a workspace. Any number of threads and processes may read and change them."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace

    def all(self) -> list[Project]:
        """All projects, the newest first.

        Raises:
            ArtifactError: one is damaged, or of another version.
        """
        projects = [self.get(project_id) for project_id in ids(self.workspace.projects, FILE)]
        return sorted(projects, key=lambda project: project.created, reverse=True)

    def get(self, project_id: str) -> Project:
        """One project.

        Raises:
            DataNotFoundError: there is none of this id.
            ArtifactError: it is damaged, or of another version.
        """
        path = self.workspace.project(project_id) / FILE
        return parse(Project, read_json(path), str(path))

    def create(self, name: str, folder: str) -> Project:
        """Begin a project on the folder of photographs of this id.

        Raises:
            SettingsError: the name is empty or too long.
            DiskFullError, OddlensError: it cannot be written.
        """
        now, project_id = timestamp(), secrets.token_hex(8)
        values = {"id": project_id, "revision": 1, "name": name, "folder": folder, "created": now, "changed": now}
        return self._write(check_project(values))

    def change(
        self,
        project_id: str,
        revision: int,
        *,
        name: str | None = None,
        excluded: Iterable[str] | None = None,
        region: Sequence[Sequence[Sequence[float]]] | None = None,
        settings: FitSettings | None = None,
    ) -> Project:
        """Change a project that was read at this `revision`. Returns it with the next one.

        Raises:
            DataNotFoundError: there is no such project.
            StateError: somebody has changed it since.
            SettingsError: something of it is wrong; nothing is changed.
            DiskFullError, OddlensError: it cannot be written.
        """
        unique = None if excluded is None else sorted(set(excluded))
        corners = None if region is None else [[list(corner) for corner in polygon] for polygon in region]
        changes = {"name": name, "excluded": unique, "region": corners, "settings": settings}
        with lock(self.workspace.project(project_id)) as is_free:
            present = self.get(project_id)
            if not is_free or present.revision != revision:
                raise StateError(
                    f"somebody else has changed the project {present.name!r}; read it again, then change it"
                )
            values = {field: getattr(present, field) for field in Project.model_fields}
            values |= {field: value for field, value in changes.items() if value is not None}
            return self._write(check_project(values | {"revision": revision + 1, "changed": timestamp()}))

    def _write(self, project: Project) -> Project:
        write_json(self.workspace.projects / project.id / FILE, project.model_dump(mode="json"))
        return project


def check_project(values: dict[str, Any]) -> Project:
    """A project of these values.

    Raises:
        SettingsError: says what is wrong.
    """
    project = parse(Project, values | {"name": str(values["name"]).strip()}, "project")
    settings = parse_detector(project.settings.detector, "detector")
    if project.settings.light is not None:
        with_light(settings, project.settings.light, "light")
    if project.region and not region_mask(project.region).filter(ImageFilter.MinFilter(3)).getbbox():  # lines vanish
        raise SettingsError("the region of interest contains nothing; draw a larger one")
    return project


def region_mask(region: tuple[Polygon, ...]) -> Image.Image:
    """A region of interest as the mask image that `fit --roi` reads: white is inside."""
    mask = Image.new("L", (MASK_SIDE, MASK_SIDE))
    for polygon in region:
        corners = [(x * MASK_SIDE - 0.5, y * MASK_SIDE - 0.5) for x, y in polygon]  # of pixels whose centres are whole
        ImageDraw.Draw(mask).polygon(corners, fill=255)
    return mask


def mask_file(region: tuple[Polygon, ...]) -> bytes:
    """The mask of a region as a PNG file."""
    content = io.BytesIO()
    region_mask(region).save(content, format="png")
    return content.getvalue()


def timestamp() -> str:
    """The present time in UTC, as text that sorts by time."""
    return datetime.now(UTC).isoformat(timespec="microseconds")
