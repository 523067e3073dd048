"""The result of the data checks: findings and facts about a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from oddlens.data.image_set import DataSet

Level = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """A problem with the data, or a fact worth knowing, and what to do about it."""

    level: Level
    name: str
    text: str
    files: tuple[str, ...] = ()
    similar: tuple[str, ...] = ()  # for each of `files` the image that it resembles; empty where that does not apply
    reasons: tuple[str, ...] = ()  # for each of `files` what sets it apart; empty where that does not apply


@dataclass
class Diagnosis:
    """The findings and facts about a data set."""

    data: DataSet
    findings: list[Finding] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def add(
        self,
        level: Level,
        name: str,
        text: str,
        files: Sequence[str] = (),
        similar: Sequence[str] = (),
        reasons: Sequence[str] = (),
    ) -> None:
        """Add a finding."""
        self.findings.append(Finding(level, name, text, tuple(files), tuple(similar), tuple(reasons)))

    @property
    def mixed_bit_depths(self) -> bool:
        """Whether 8-bit and 16-bit images are mixed, so that they have no common value range."""
        return bool(self.facts["bits"].keys() >= {"8", "16"})

    @property
    def as_json(self) -> dict[str, Any]:
        """The result as printed by `check --json`."""
        findings = [
            {
                "level": finding.level,
                "name": finding.name,
                "text": finding.text,
                "n_files": len(finding.files),
                "files": list(finding.files),
                "reasons": list(finding.reasons),
            }
            for finding in self.findings
        ]
        return {"ok": not any(f.level == "error" for f in self.findings), **self.facts, "findings": findings}


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return the count with its noun, in the plural unless it is 1."""
    return f"{count} {noun if count == 1 else plural or f'{noun}s'}"
