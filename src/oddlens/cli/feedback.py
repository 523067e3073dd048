"""`oddlens feedback`: a new calibration from what people judged."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from oddlens.cli.options import (
    DeviceOption,
    GroupByOption,
    JsonOption,
    PartArgument,
    SeedOption,
    ThreadsOption,
)
from oddlens.cli.session import command, detector_summary, with_groups
from oddlens.errors import SettingsError

if TYPE_CHECKING:
    pass


def feedback(
    detector: PartArgument,
    judged: Annotated[
        Path, typer.Argument(metavar="JUDGED.csv", help="file,judgement lines; a judgement: false alarm, missed, ...")
    ],
    group_by: GroupByOption = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The new version; NAME-v2 and so on without it.")
    ] = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    threads: ThreadsOption = None,
    seed: SeedOption = None,
) -> None:
    """Propose a new calibration from what people judged, as a new file; the detector stays as it is."""
    with command(as_json, threads) as terminal:
        from oddlens.detector import feedback as judging
        from oddlens.detector.detector import Detector

        place = output or judging.next_version(detector)
        if place.absolute() == detector.absolute():
            raise SettingsError(f"{place}: feedback never changes a detector; write the proposal to another file")
        part = Detector.load(detector, device=device)
        proposal = judging.propose(part, with_groups(judging.read_judged(judged), group_by, part), str(judged))
        proposal.detector.save(place)
        terminal.table(f"{detector.name} and the proposal {place.name}", ("", "before", "after"), proposal.rows)
        result = {
            "files": {"detector": str(place)},
            "changes": [{"what": what, "before": old, "after": new} for what, old, new in proposal.rows],
            "added": proposal.added,
            "notes": list(proposal.notes),
            **detector_summary(proposal.detector),
        }
        look = f"{detector} is unchanged; to take the proposal, use {place} in its stead"
        terminal.result(result, [*proposal.notes, *proposal.detector.decisions_.promises(), look])
