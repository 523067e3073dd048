"""The job that checks photographs: what `oddlens check` finds, as data with the ids of the images, and as a page."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from oddlens.conformal.ranks import DEFAULT_RATE
from oddlens.evaluation import contamination, data_checks
from oddlens.evaluation.diagnosis import Diagnosis, Finding, counted
from oddlens.pages.learning.folders import below, image_id, open_photographs, without_path
from oddlens.pages.learning.job import FINDINGS, FINDINGS_PAGE, Job, Request
from oddlens.pages.learning.progress import Progress
from oddlens.pages.learning.workspace import write_json
from oddlens.reporting.data_report import write_data_report

PHASES: Mapping[str, float] = {"reading": 0.1, "checking": 0.85, "reporting": 0.05}  # with shares of the whole


def check_photographs(job: Job, request: Request, progress: Progress) -> None:
    """Check the photographs of a job; writes `FINDINGS` and `FINDINGS_PAGE` to its folder.

    Raises:
        DataNotFoundError, DataError: they cannot be checked.
        DiskFullError, OddlensError: a file cannot be written.
    """
    progress.begin("reading", "reading the photographs")
    folder, settings = Path(request.path), request.settings
    data = open_photographs(folder, settings.normal, frozenset(request.excluded))
    seconds = contamination.default_budget(len(data.train))
    progress.begin("checking", f"checking {len(data.train) + len(data.test)} photographs")
    diagnosis = data_checks.check(
        data, settings.false_alarm_rate or DEFAULT_RATE, budget=seconds, progress=progress.training
    )
    progress.begin("reporting", "writing the findings")
    shown = partial(without_path, folder=folder, name=request.folder_name)
    write_data_report(job.folder / FINDINGS_PAGE, diagnosis, describe(request), shown)
    write_json(job.folder / FINDINGS, findings(diagnosis, folder, request.folder_name))


def findings(diagnosis: Diagnosis, folder: Path, folder_name: str) -> dict[str, Any]:
    """What was noticed, for a page: `ok`, `facts` and `findings`, each with its images."""
    images = {*diagnosis.data.train.names, *diagnosis.data.test.names}

    def shown(name: str) -> dict[str, Any]:
        return {"id": image_id(folder, name) if name in images else None, "name": below(folder, name)}

    def row(finding: Finding) -> dict[str, Any]:
        files = [
            shown(name)
            | {
                "reason": finding.reasons[i] if finding.reasons else "",
                "similar": shown(finding.similar[i]) if finding.similar else None,
            }
            for i, name in enumerate(finding.files)
        ]
        sentence = without_path(finding.text, folder, folder_name)
        text = sentence[0].upper() + sentence[1:] + "."
        return {"level": finding.level, "name": finding.name, "text": text, "images": files}

    is_ok = not any(finding.level == "error" for finding in diagnosis.findings)
    names = ("normal", "n_train", "n_test", "n_masks", "sizes")
    facts = {name: diagnosis.facts.get(name) for name in names}
    return {"ok": is_ok, "facts": facts, "findings": [row(finding) for finding in diagnosis.findings]}


def describe(request: Request) -> str:
    """What made a report, for its provenance."""
    settings = request.settings.model_dump(exclude_defaults=True)
    options = [f"{name} {value}" for name, value in {"detector": request.settings.detector, **settings}.items()]
    return (
        f"{request.kind} of {request.folder_name!r} in the project {request.project_name!r} "
        f"(revision {request.revision}): {', '.join(options)}; {counted(len(request.excluded), 'image')} excluded"
    )
