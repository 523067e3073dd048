"""The pages of a project: its photographs, the region of interest, the check, and the settings of a fit.

A change names the revision that its page showed. Where somebody else has changed the project since, the answer is the
page as it is now, says so, and has what was entered, so that it can be sent again.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fastapi import Request
from starlette.datastructures import FormData
from starlette.responses import JSONResponse, Response

from oddlens.config.detectors import FAMILIES
from oddlens.config.parse import parse
from oddlens.data.open import translate_read_errors
from oddlens.data.sources.folders import GOOD
from oddlens.data.sources.listing import FolderListing
from oddlens.errors import DataError, DataNotFoundError, OddlensError, SettingsError, StateError
from oddlens.pages.learning.engineering import Engineering, see, text_of, texts_of, whole
from oddlens.pages.learning.folders import ROOT_NAME, Photo, PhotoFolder, without_path
from oddlens.pages.learning.job import FINDINGS
from oddlens.pages.learning.jobs import Listed
from oddlens.pages.learning.projects import FitSettings, Project
from oddlens.pages.learning.workspace import read_json
from oddlens.pages.rendering import page

if TYPE_CHECKING:
    from oddlens.store.inspection import Action

PER_PAGE = 48  # photographs
MAX_ACTIONS = 200  # in which the last change of a project is looked for
EXCLUDED = "excluded"  # a view beside those by part and kind
LEVELS = ("error", "warning", "note")  # of findings, in the order in which they are shown
RUNNING = ("running", "pausing", "stopping")  # states of the one job that has a process
OPEN = (*RUNNING, "waiting", "paused", "interrupted")  # of jobs that have not ended
REGION_SAMPLES = 12  # photographs over which a region can be drawn


# -- the first page -----------------------------------------------------------------------------------


@dataclass
class FolderCard:
    """A folder at the top of the root with those inside it."""

    folder: PhotoFolder
    inside: list[PhotoFolder] = field(default_factory=list)


def start_values(work: Engineering) -> dict[str, Any]:
    """What the first page shows: folders, and projects with their newest job."""
    folders = work.photographs.folders()
    newest = dict[str, Listed]()
    for job in work.jobs.all():
        if job.request is not None:
            newest.setdefault(job.request.project, job)
    return {
        "cards": folder_cards(folders),
        "projects": work.projects.all(),
        "newest": newest,
        "names": {folder.id: folder.name for folder in folders},
        "counts": {folder.id: folder.n_images for folder in folders},
        "root": work.photographs.root.name,
    }


def folder_cards(folders: Iterable[PhotoFolder]) -> list[FolderCard]:
    """The folders as cards: uploads first, then the root where images lie in it directly, and its folders."""
    uploads, below = [], dict[str, FolderCard]()
    root = None
    for folder in folders:
        top, _, rest = folder.name.partition("/")
        if folder.uploaded:
            uploads.append(FolderCard(folder))
        elif folder.name == ROOT_NAME:
            root = FolderCard(folder)
        elif rest and top in below:
            below[top].inside.append(folder)
        else:
            below[top] = FolderCard(folder)
    n_below = sum(card.folder.n_images for card in below.values())
    roots = [root] if root is not None and root.folder.n_images > n_below else []
    return [*uploads[::-1], *roots, *below.values()]


def first_image(work: Engineering, folder_id: str) -> Path:
    """The path of the first image of a folder.

    Raises:
        DataNotFoundError: there is no such folder, or it has no image.
    """
    folder = work.photographs.open(folder_id)
    with translate_read_errors(str(folder)):
        names = FolderListing(str(folder), follow_links=False).images()
    if not names:
        raise DataNotFoundError("this folder has no image")
    return folder / next((name for name in names if f"/{GOOD}/" in f"/{name}"), names[0])


# -- photographs --------------------------------------------------------------------------------------


def photographs_page(work: Engineering, request: Request, project: Project, status: int = 200) -> Response:
    """The photographs of a project, a page of one kind at a time."""
    values = shared_values(work, request, project, "photographs", status)
    try:
        photos = work.photographs.images(project.folder, project.settings.normal)
    except DataNotFoundError:
        raise
    except DataError as error:
        folder, name = work.photographs.open(project.folder), folder_name(work, project)
        values |= {"problem": without_path(str(error), folder, name), "classes": class_names(work, project)}
        return page(request, "learn/layout.html", status, **values)
    excluded = frozenset(project.excluded)
    views = Counter(View(photo.part, photo.kind, photo.label) for photo in photos)
    view = choose_view(request.query_params.get("view"), list(views))
    shown = [photo for photo in photos if (photo.id in excluded if view is None else view.has(photo))]
    n_pages = max(1, -(-len(shown) // PER_PAGE))
    number = min(whole_or(request.query_params.get("page"), 1), n_pages)
    values |= {
        "photos": shown[(number - 1) * PER_PAGE : number * PER_PAGE],
        "excluded": excluded,
        "n_excluded": sum(photo.id in excluded for photo in photos),
        "n_train": sum(photo.part == "train" and photo.id not in excluded for photo in photos),
        "n_test": Counter(photo.label for photo in photos if photo.part == "test" and photo.id not in excluded),
        "views": views,
        "view": view,
        "number": number,
        "n_pages": n_pages,
        "classes": class_names(work, project) if len(views) == 1 else [],
        "is_checked": is_present(newest_check(work, project), project),
    }
    return page(request, "learn/photographs.html", status, **values)


class View(NamedTuple):
    """Photographs of a kind, which are shown together."""

    part: str
    kind: str
    label: int

    @property
    def name(self) -> str:
        """The name in an address."""
        return f"{self.part}/{self.kind}"

    @property
    def purpose(self) -> str:
        """What they are for: to learn from, or good or defective ones to test with."""
        return "learn" if self.part == "train" else "test_defects" if self.label else "test_good"

    def has(self, photo: Photo) -> bool:
        """Whether a photograph is one of them."""
        return (photo.part, photo.kind) == (self.part, self.kind)

    def caption(self, name: str) -> str:
        """The name of a photograph without the folders that all of them lie in."""
        return name.removeprefix(f"{self.part}/").removeprefix(f"{self.kind}/")


def choose_view(name: str | None, views: list[View]) -> View | None:
    """The view of this name, else the first; None is that of the excluded photographs."""
    return None if name == EXCLUDED else next((view for view in views if view.name == name), views[0])


def exclude(work: Engineering, request: Request, project_id: str, form: FormData) -> Response:
    """Exclude images of a project, or include them again; the answer is for a script."""
    project, images = work.projects.get(project_id), texts_of(form, "image")
    is_excluded = text_of(form, "excluded") == "yes"
    names = {photo.id: photo.name for photo in work.photographs.images(project.folder, project.settings.normal)}
    if not images or any(image not in names for image in images):
        raise DataNotFoundError("there is no such photograph in this project; load the page again")
    before = frozenset(project.excluded)
    changed = [image for image in images if (image in before) != is_excluded]
    after = before | set(images) if is_excluded else before - set(images)
    try:
        project = work.projects.change(project_id, revision_of(form), excluded=after)
    except StateError as error:
        return JSONResponse({"error": str(error), "stale": True}, 409)
    action = "exclude" if is_excluded else "include"
    work.record(request, action, project.name, project=project.id, images=[names[image] for image in changed])
    return JSONResponse(
        {
            "revision": project.revision,
            "excluded": is_excluded,
            "changed": changed,
            "names": [names[i] for i in changed],
        }
    )


def rename(work: Engineering, request: Request, project_id: str, form: FormData) -> Response:
    """Give a project another name."""
    try:
        project = work.projects.change(project_id, revision_of(form), name=text_of(form, "name"))
    except StateError:
        return photographs_page(work, request, work.projects.get(project_id), 409)
    work.record(request, "rename", project.name, project=project.id)
    return see(f"/learn/projects/{project_id}")


def choose_normal(work: Engineering, request: Request, project_id: str, form: FormData) -> Response:
    """Say which class of the folder is normal."""
    project = work.projects.get(project_id)
    settings = project.settings.model_copy(update={"normal": text_of(form, "normal") or None})
    try:
        project = work.projects.change(project_id, revision_of(form), settings=settings)
    except StateError:
        return photographs_page(work, request, work.projects.get(project_id), 409)
    work.record(request, "settings", project.name, project=project.id, normal=settings.normal)
    return see(f"/learn/projects/{project_id}")


def class_names(work: Engineering, project: Project) -> list[str]:
    """The folders directly inside the photographs of a project, of which one may be the normal class."""
    folders = work.photographs.folders()
    own = next(folder.name for folder in folders if folder.id == project.folder)
    prefix = "" if own == ROOT_NAME else f"{own}/"
    names = [folder.name.removeprefix(prefix) for folder in folders if folder.name.startswith(prefix)]
    return [name for name in names if "/" not in name and name not in (ROOT_NAME, own)]


# -- region of interest -------------------------------------------------------------------------------


def region_page(
    work: Engineering, request: Request, project: Project, status: int = 200, drawn: object = None
) -> Response:
    """Draw the region of interest over a photograph; `drawn` is what somebody drew on a page that is stale."""
    photos = work.photographs.images(project.folder, project.settings.normal)
    step = max(1, len(photos) // REGION_SAMPLES)
    values = shared_values(work, request, project, "photographs", status) | {
        "samples": photos[::step][:REGION_SAMPLES],
        "region": [list(map(list, polygon)) for polygon in project.region] if drawn is None else drawn,
        "present": [list(map(list, polygon)) for polygon in project.region],
    }
    return page(request, "learn/region.html", status, **values)


def draw(work: Engineering, request: Request, project_id: str, form: FormData) -> Response:
    """Change the region of interest."""
    region = polygons(text_of(form, "region"))
    try:
        project = work.projects.change(project_id, revision_of(form), region=region)
    except StateError:
        return region_page(work, request, work.projects.get(project_id), 409, drawn=region)
    work.record(request, "region", project.name, project=project.id, n=len(region))
    return see(f"/learn/projects/{project_id}")


def polygons(text: str) -> list[list[list[float]]]:
    """Polygons of corners, as a script sends them.

    Raises:
        SettingsError: they are none.
    """
    try:
        value = json.loads(text or "[]")
        return [[[float(x), float(y)] for x, y in polygon] for polygon in value]
    except (ValueError, TypeError, RecursionError) as error:
        raise SettingsError("the region of interest is no list of polygons; load the page again") from error


# -- check --------------------------------------------------------------------------------------------


def check_page(work: Engineering, request: Request, project: Project) -> Response:
    """What the newest check of a project noticed, or how to begin one."""
    newest = newest_check(work, project)
    findings = None
    if newest is not None and newest.status.state == "done":
        findings = read_json(work.jobs.get(newest.id).own(FINDINGS))
        findings["findings"].sort(key=lambda finding: LEVELS.index(finding["level"]))
    values = shared_values(work, request, project, "check") | {
        "job": newest,
        "findings": findings,
        "excluded": frozenset(project.excluded),
        "is_old": not is_present(newest, project),
        "ahead": job_ahead(work),
    }
    return page(request, "learn/check.html", **values)


def newest_check(work: Engineering, project: Project) -> Listed | None:
    """The newest check of a project, if there is one."""
    return next((job for job in work.jobs.all(project.id) if job.request and job.request.kind == "check"), None)


def is_present(check: Listed | None, project: Project) -> bool:
    """Whether a check runs or is done, with the photographs that a project has now."""
    if check is None or check.request is None or check.status.state in ("stopped", "failed", "expired"):
        return False
    request = check.request
    return (request.excluded, request.settings.normal) == (project.excluded, project.settings.normal)


def job_ahead(work: Engineering) -> Listed | None:
    """The job that runs now, for which others wait."""
    return next((job for job in work.jobs.all() if job.request and job.status.state in RUNNING), None)


# -- fit ----------------------------------------------------------------------------------------------


def fit_page(
    work: Engineering,
    request: Request,
    project: Project,
    status: int = 200,
    entered: FitSettings | None = None,
    problem: str = "",
) -> Response:
    """The settings of a fit, and the fits of a project; `entered` is what somebody entered on a page that is stale."""
    fits = [job for job in work.jobs.all(project.id) if job.request and job.request.kind == "fit"]
    values = shared_values(work, request, project, "fit", status) | {
        "settings": entered or project.settings,
        "present": project.settings,
        "fits": fits,
        "open": next((job for job in fits if job.status.state in OPEN), None),
        "problem": problem,
        "detectors": ["auto", *FAMILIES],
    }
    return page(request, "learn/fit.html", status, **values)


def change_settings(work: Engineering, request: Request, project_id: str, form: FormData) -> Response:
    """Change the settings of a project, and begin a fit where that is what the button says."""
    project = work.projects.get(project_id)
    try:
        settings = read_settings(form, project.settings)
    except SettingsError as error:
        return fit_page(work, request, project, 422, problem=str(error))
    try:
        if settings != project.settings or revision_of(form) != project.revision:
            project = work.projects.change(project_id, revision_of(form), settings=settings)
            work.record(request, "settings", project.name, project=project.id, settings=settings.model_dump())
    except StateError:
        return fit_page(work, request, work.projects.get(project_id), 409, entered=settings)
    except SettingsError as error:
        return fit_page(work, request, project, 422, entered=settings, problem=str(error))
    if text_of(form, "start"):
        job = work.jobs.add("fit", project, request.state.user.name)
        work.record(request, "fit", project.name, project=project.id, job=job.id)
        return see(f"/learn/jobs/{job.id}")
    return see(f"/learn/projects/{project_id}/fit")


def read_settings(form: FormData, present: FitSettings) -> FitSettings:
    """Settings from a form; fields that are empty are the defaults.

    Raises:
        SettingsError: one is no number, or out of range.
    """
    values: dict[str, Any] = {"normal": present.normal}
    for name in ("detector", "light", "tile"):
        if text := text_of(form, name):
            values[name] = int(text) if text.isdecimal() else text
    for name, scale in (("false_alarm_rate", 0.01), ("budget", 60.0)):
        if text := text_of(form, name):
            values[name] = round(decimal(text, name) * scale, 10)
    for name in ("epochs", "size"):
        if text := text_of(form, name):
            values[name] = whole(text, name)
    return parse(FitSettings, values, "settings")


def decimal(text: str, name: str) -> float:
    """A number of a form, with a comma or a point.

    Raises:
        SettingsError: it is none.
    """
    try:
        return float(text.replace(",", "."))
    except ValueError as error:
        raise SettingsError(f"{name}: must be a number, not {text[:20]!r}") from error


# -- all of them --------------------------------------------------------------------------------------


def shared_values(
    work: Engineering, request: Request, project: Project, step: str, status: int = 200
) -> dict[str, Any]:
    """What all pages of a project show: its folder, the steps, and who changed it if the page before was stale."""
    fits = [job for job in work.jobs.all(project.id) if job.request and job.request.kind == "fit"]
    done = next((job for job in fits if job.status.state == "done"), None)
    return {
        "project": project,
        "folder_name": folder_name(work, project),
        "step": step,
        "fit_done": done,
        "last_change": last_change(work, project),
        "stale": status == 409 or "stale" in request.query_params,
    }


def folder_name(work: Engineering, project: Project) -> str:
    """The name of the folder of a project; empty where it is no longer there."""
    try:
        return work.photographs.name(project.folder)
    except OddlensError:
        return ""


def last_change(work: Engineering, project: Project) -> Action | None:
    """The newest action that changed a project."""
    actions = work.store.actions(MAX_ACTIONS)
    return next((action for action in actions if action.details.get("project") == project.id), None)


def revision_of(form: FormData) -> int:
    """The revision of the project that a page showed."""
    return whole(text_of(form, "revision"), "revision")


def whole_or(text: str | None, default: int) -> int:
    """A whole number above 0 of an address, else the default."""
    return int(text) if text and text.isascii() and text.isdecimal() and 0 < len(text) < 10 and int(text) else default
