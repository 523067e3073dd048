"""Drift of the parts of a shift, by the tests that `oddlens score` has: nothing is tested in a way of its own.

`DriftWatch` may be read after every part. It cannot be used where the calibration images were used for training
(leave-one-out, folds); there the test of a lot stands in. That one is read only when the number of parts has doubled
since the last time, as a test that is read after every part is certain to raise an alarm some day.
"""

from __future__ import annotations

from typing import Any, Literal

from oddlens.conformal.decision import Decision
from oddlens.conformal.drift import DriftWatch
from oddlens.conformal.grouped import UNGROUPED, GroupedDecision
from oddlens.conformal.lot import MIN_IMAGES, Lot, LotTest
from oddlens.errors import CalibrationError, SettingsError, StateError
from oddlens.store.inspection import StoredInspection

MAX_STREAM = 20_000  # parts of a stream; then another one begins, so that memory is bounded

DriftState = Literal["few", "steady", "drifted", "unwatched"]


class PartStream:
    """The parts of one detector, or of one of its groups, in the order in which they were inspected."""

    def __init__(self, part: Decision) -> None:
        self.part = part
        self.begin()

    def begin(self) -> None:
        """Begin a new stream."""
        self.n, self.next_look = 0, MIN_IMAGES
        self.watch: DriftWatch | None = None
        self.lot: Lot | None = None
        self.test: LotTest | None = None
        try:
            self.watch = DriftWatch(self.part.calibration.independent)
        except SettingsError:
            self.lot = Lot(GroupedDecision({UNGROUPED: self.part}))
        except StateError:
            pass  # not calibrated: nothing to compare with
        self.state: DriftState = "unwatched" if self.watch is None and self.lot is None else "few"

    def add(self, inspection: StoredInspection) -> None:
        """Add the next part."""
        if self.n >= MAX_STREAM:
            self.begin()
        self.n += 1
        if self.watch is not None:
            self.watch.update([str(inspection.id)], [inspection.anomaly_score])
            if self.watch.evidence[-1] >= self.watch.limit:
                self.state = "drifted"
            elif self.state == "few" and self.n >= MIN_IMAGES:
                self.state = "steady"
        elif self.lot is not None:
            self.lot.add([inspection.anomaly_score])
            if self.n == self.next_look:
                self.next_look *= 2
                self.test = self.lot.test()
                self.state = "drifted" if self.test is not None and self.test.shifted else "steady"


class ShiftDrift:
    """The streams of all detectors that serve; parts of other detectors are not watched."""

    def __init__(self) -> None:
        self.streams: dict[tuple[str, str], tuple[str, PartStream]] = {}  # (name, group) -> digest, stream

    def add(self, inspection: StoredInspection, decisions: GroupedDecision | None) -> None:
        """Add the next part; `decisions` are those of its detector, None where that does not serve."""
        group = inspection.group or UNGROUPED
        if decisions is None or group not in decisions.parts:
            return
        key, digest = (inspection.detector, group), inspection.detector_digest
        if key not in self.streams or self.streams[key][0] != digest:  # another detector under this name: a new stream
            self.streams[key] = digest, PartStream(decisions.parts[group])
        try:
            self.streams[key][1].add(inspection)
        except CalibrationError:  # its decision guarantees nothing, so nothing can be lost
            self.streams[key][1].state = "unwatched"

    def as_json(self) -> list[dict[str, Any]]:
        """The state of each stream for JSON."""
        return [
            {"detector": name, "group": group or None, "state": stream.state, "n": stream.n}
            for (name, group), (_, stream) in self.streams.items()
        ]
