"""`oddlens feedback`: a new calibration from what people judged."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from oddlens.cli.options import (
    DetectorArgument,
    DeviceOption,
    GroupByOption,
    JsonOption,
    SeedOption,
    ThreadsOption,
    path_argument,
    path_option,
)
from oddlens.cli.session import command, detector_summary, with_groups
from oddlens.errors import SettingsError
from oddlens.io.paths import check_output

JudgedArgument = Annotated[
    Path,
    path_argument("JUDGED.csv", help="Lines of file,judgement; a judgement is 'false alarm', 'missed', ..."),
]
VersionOption = Annotated[
    Path | None, path_option("-o", "--output", help="File of the new version; by default NAME-v2 and so on.")
]


def feedback(
    path: DetectorArgument,
    judged: JudgedArgument,
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

        new_path = output or next_version(path)
        check_output(new_path, inputs=[judged])
        if new_path.exists() and path.exists() and new_path.samefile(path):
            raise SettingsError(f"{new_path}: feedback never changes a detector; write the proposal to another file")
        detector = Detector.load(path, device=device, threads=console.threads)
        proposal = propose(detector, with_groups(read_judged(judged), group_by, detector), str(judged))
        proposal.detector.save(new_path)
        console.table(f"{path.name} and the proposal {new_path.name}", ("", "before", "after"), proposal.rows)
        result = {
            "files": {"detector": str(new_path)},
            "changes": [{"what": what, "before": before, "after": after} for what, before, after in proposal.rows],
            "added": proposal.added,
            "notes": list(proposal.notes),
            **detector_summary(proposal.detector),
        }
        hint = f"{path} is unchanged; to accept the proposal, use {new_path} instead"
        console.result(result, [*proposal.notes, *proposal.detector.decisions_.promises(), hint])
