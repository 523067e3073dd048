"""Journals: what survives an interrupted run, and which run may resume it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from oddlens.errors import ArtifactError, OddlensError
from oddlens.io.journal import MARK, journal_path, open_journal

RUN = {"detector": "abc", "list of images": 3}


def interrupt(path: Path, *entries: object) -> None:
    """Leave the journal of a run that was interrupted after these entries."""

    def run() -> None:
        with open_journal(path, RUN, resume=False) as journal:
            for entry in entries:
                journal.add(entry)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()


def test_the_journal_lies_next_to_the_output() -> None:
    assert journal_path(Path("out/v.csv")) == Path("out/v.csv.partial")


def test_entries_are_readable_in_order_while_the_run_goes_on(tmp_path: Path) -> None:
    with open_journal(tmp_path / "j", RUN, resume=False) as journal:
        journal.add({"scores": [0.1]})
        assert list(journal) == [{"scores": [0.1]}]
        journal.add("second")
        assert list(journal) == [{"scores": [0.1]}, "second"]
        assert journal.entries == 2


def test_a_successful_run_deletes_its_journal(tmp_path: Path) -> None:
    with open_journal(tmp_path / "deep" / "j", RUN, resume=False) as journal:
        journal.add(1)
    assert list((tmp_path / "deep").iterdir()) == []


def test_an_interrupted_run_leaves_a_journal_that_the_next_run_resumes(tmp_path: Path) -> None:
    interrupt(tmp_path / "j", 1, 2)
    with open_journal(tmp_path / "j", RUN, resume=True) as journal:
        assert (journal.entries, list(journal)) == (2, [1, 2])
        journal.add(3)
        assert list(journal) == [1, 2, 3]


def test_an_interrupted_run_without_entries_leaves_nothing(tmp_path: Path) -> None:
    interrupt(tmp_path / "j")
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_does_not_resume_starts_empty(tmp_path: Path) -> None:
    interrupt(tmp_path / "j", 1, 2)
    with open_journal(tmp_path / "j", RUN, resume=False) as journal:
        assert (journal.entries, list(journal)) == (0, [])


@pytest.mark.parametrize("torn", [b'{"scores": [0.1, 0.', b"{\n", b"\0" * 4096, b"3"])
def test_a_torn_last_line_is_cut_off(torn: bytes, tmp_path: Path) -> None:
    interrupt(tmp_path / "j", 1, 2)
    with (tmp_path / "j").open("ab") as file:
        file.write(torn)
    with open_journal(tmp_path / "j", RUN, resume=True) as journal:
        assert list(journal) == [1, 2]
        journal.add(4)
        assert list(journal) == [1, 2, 4]


def test_a_different_run_is_refused_and_the_journal_stays(tmp_path: Path) -> None:
    interrupt(tmp_path / "j", 1)
    content = (tmp_path / "j").read_bytes()
    other_run = {"detector": "other", "list of images": 4}
    message = "belongs to a run with a different detector, a different list of images; .* omit --resume to start over"
    with pytest.raises(ArtifactError, match=message), open_journal(tmp_path / "j", other_run, resume=True):
        pass
    assert (tmp_path / "j").read_bytes() == content


@pytest.mark.parametrize("content", ["mine\n", '["a list"]\n', '{"detector": "abc"}\n'])
@pytest.mark.parametrize("resume", [True, False])
def test_a_file_that_is_not_a_journal_is_refused_and_stays(content: str, resume: bool, tmp_path: Path) -> None:
    (tmp_path / "j").write_text(content)
    message = "is not a journal of oddlens and would be replaced; move it away"
    with pytest.raises(ArtifactError, match=message), open_journal(tmp_path / "j", RUN, resume=resume):
        pass
    assert (tmp_path / "j").read_text() == content


def test_a_journal_of_another_kind_of_run_is_not_resumed(tmp_path: Path) -> None:
    (tmp_path / "j").write_text(json.dumps(MARK | {"something": "else"}) + "\n")
    message = "is not a journal for this run; move it away"
    with pytest.raises(ArtifactError, match=message), open_journal(tmp_path / "j", RUN, resume=True):
        pass


def test_an_empty_journal_of_a_run_that_was_killed_at_its_start_is_used(tmp_path: Path) -> None:
    (tmp_path / "j").touch()
    with open_journal(tmp_path / "j", RUN, resume=True) as journal:
        assert journal.entries == 0
    assert not (tmp_path / "j").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no lock")
@pytest.mark.parametrize("resume", [True, False])
def test_a_journal_in_use_is_refused(resume: bool, tmp_path: Path) -> None:
    with open_journal(tmp_path / "j", RUN, resume=False) as journal:
        journal.add(1)
        message = "another run is writing this file; wait for it to finish"
        with pytest.raises(ArtifactError, match=message), open_journal(tmp_path / "j", RUN, resume=resume):
            pass
        assert list(journal) == [1]


def test_without_a_path_the_journal_is_a_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with open_journal(None, RUN, resume=False) as journal:
        journal.add({"a": 1})
        assert list(journal) == [{"a": 1}]
    assert list(tmp_path.iterdir()) == []


def test_a_journal_that_cannot_be_written_raises_an_oddlens_error(tmp_path: Path) -> None:
    (tmp_path / "j").mkdir()
    with pytest.raises(OddlensError, match="j: cannot be written"), open_journal(tmp_path / "j", RUN, resume=False):
        pass
