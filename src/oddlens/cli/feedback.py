"""`oddlens feedback`: a new calibration from what people judged."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from oddlens.cli.options import (
    DetectorArgument,
    DeviceOption,
    FromStoreOption,
    GroupByOption,
    JsonOption,
    SeedOption,
    ThreadsOption,
    path_argument,
    path_option,
)
from oddlens.cli.session import command, detector_summary, open_judged, report_left_out, with_groups
from oddlens.errors import SettingsError
from oddlens.io.paths import check_output

JudgedArgument = Annotated[
    Path | None,
    path_argument("JUDGED.csv", help="CSV file with the columns file and judgement ('false alarm', 'missed')."),
]
VersionOption = Annotated[
    Path | None, path_option("-o", "--output", help="Write the proposal here; by default NAME-v2, and so on.")
]


def feedback(
    path: DetectorArgument,
    judged: JudgedArgument = None,
    from_store: FromStoreOption = None,
    group_by: GroupByOption = None,
    output: VersionOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    threads: ThreadsOption = None,
    seed: SeedOption = None,
) -> None:
    """Propose a new calibration from what people judged, as a new file; the detector stays unchanged."""
    with command(as_json, threads) as console:
        from oddlens.detector.detector import Detector
        from oddlens.detector.feedback import next_version, propose, read_judged

        if (from_store is None) == (judged is None):
            raise typer.BadParameter("give a CSV file of judgements, or --from-store for those in a store")
        if from_store is not None and group_by is not None:
            raise typer.BadParameter("the images of a store have their groups already; leave --group-by out")
        new_path = output or next_version(path)
        check_output(new_path, inputs=[] if judged is None else [judged])
        if new_path.exists() and path.exists() and new_path.samefile(path):
            raise SettingsError(f"{new_path}: feedback never changes a detector; write the proposal to another file")
        detector = Detector.load(path, device=device, threads=console.threads)
        if judged is not None:
            images = with_groups(read_judged(judged), group_by, detector)
        else:
            images = open_judged(from_store or "", detector, None, console)
        left_out = report_left_out(images.left_out, console)
        proposal = propose(detector, images, images.source if judged is None else str(judged))
        proposal.detector.save(new_path)
        console.table(f"{path.name} and the proposal {new_path.name}", ("", "before", "after"), proposal.rows)
        result = {
            "files": {"detector": str(new_path)},
            "changes": [{"what": what, "before": before, "after": after} for what, before, after in proposal.rows],
            "added": proposal.added,
            "notes": list(proposal.notes),
            "left_out": left_out,
            **detector_summary(proposal.detector),
        }
        hint = f"{path} is unchanged; to accept the proposal, use {new_path} instead"
        console.result(result, [*proposal.notes, *proposal.detector.decisions_.promises(), hint])
