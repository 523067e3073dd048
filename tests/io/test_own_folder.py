"""In folders of oddlens's own files, nothing that somebody else wrote is replaced or removed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from oddlens.errors import ArtifactError, SettingsError
from oddlens.io.own_files import MARKER
from oddlens.io.own_folder import (
    TRAINING_FILES,
    check_claim,
    claim,
    find_working_folders,
    is_locked,
    lock,
    lock_descriptor,
    make_working_folder,
    read_marker,
    record,
    remove_working_folder,
)
from oddlens.reporting import figures

FIGURE = figures.render(figures.training_curve([{"epoch": 1.0, "loss": 0.5}, {"epoch": 2.0, "loss": 0.4}]))


def test_a_new_folder_can_be_claimed_and_checking_changes_nothing(tmp_path: Path) -> None:
    check_claim(tmp_path / "new", ["report.html", "figures"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["report.html", "figures/mine.png", "checkpoints/epoch-000001.safetensors"])
def test_what_oddlens_did_not_write_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("the user's")
    with pytest.raises(SettingsError, match=r"was not written by oddlens.*choose another folder"):
        check_claim(tmp_path, ["report.html", "figures", "checkpoints"])


def test_files_beside_the_outputs_are_no_matter(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("the user's")
    check_claim(tmp_path, ["report.html", "figures"])
    claim(tmp_path, TRAINING_FILES)
    assert (tmp_path / "notes.txt").read_text() == "the user's"


def test_a_recorded_file_may_be_replaced_until_somebody_changes_it(tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    report.write_text("ours")
    record(tmp_path, ["report.html"])
    check_claim(tmp_path, ["report.html"])
    report.write_text("ours, with the user's remarks")
    with pytest.raises(SettingsError, match=r"report\.html: was not written by oddlens, or was changed since"):
        check_claim(tmp_path, ["report.html"])
    report.unlink()
    record(tmp_path, ["report.html"])
    report.write_text("the user's")
    with pytest.raises(SettingsError, match="was not written"):
        check_claim(tmp_path, ["report.html"])


def test_a_folder_of_figures_is_ours_while_all_of_them_are(tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures/roc.png").write_bytes(FIGURE)
    record(tmp_path, ["figures"])
    check_claim(tmp_path, ["figures"])
    (tmp_path / "figures/roc.png").write_bytes(b"the user's drawing")
    with pytest.raises(SettingsError, match=r"figures/roc\.png: was not written by oddlens"):
        check_claim(tmp_path, ["figures"])


def test_training_files_are_ours_while_they_change(tmp_path: Path) -> None:
    claim(tmp_path, TRAINING_FILES)
    (tmp_path / "history.jsonl").write_text("{}\n")
    claim(tmp_path, TRAINING_FILES)
    (tmp_path / "history.jsonl").write_text("{}\n{}\n")
    claim(tmp_path, TRAINING_FILES)
    record(tmp_path, ["history.jsonl"])
    (tmp_path / "history.jsonl").write_text("the user's")
    with pytest.raises(SettingsError, match="history"):
        claim(tmp_path, TRAINING_FILES)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"files": 3}', "\xff"])
def test_a_damaged_marker_is_an_error(tmp_path: Path, content: str) -> None:
    (tmp_path / MARKER).write_text(content, encoding="latin-1")
    with pytest.raises(ArtifactError, match=r"\.oddlens\.json: (is damaged|was not written)"):
        check_claim(tmp_path, ["report.html"])


def test_working_folders_are_named_after_their_output_and_never_reused(tmp_path: Path) -> None:
    output = tmp_path / "models/part.safetensors"
    folders = [make_working_folder(output) for _ in range(3)]
    assert len(set(folders)) == 3
    for folder in folders:
        assert folder.parent == output.parent
        assert folder.name.startswith("part.")
        assert folder.name.endswith(".training")
    assert set(find_working_folders(output)) == set(folders)
    for other in ("part2.safetensors", "part.x.safetensors"):
        assert find_working_folders(output.with_name(other)) == []
    assert find_working_folders(tmp_path / "nowhere/part.safetensors") == []


def test_a_folder_without_the_marker_is_never_found_nor_removed(tmp_path: Path) -> None:
    folder = tmp_path / "part.12345678.training"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints/a.png").write_text("the user's")
    assert find_working_folders(tmp_path / "part.safetensors") == []
    remove_working_folder(folder)
    assert (folder / "checkpoints/a.png").exists()


def test_removing_a_working_folder_leaves_what_somebody_else_put_there(tmp_path: Path) -> None:
    empty, used = (make_working_folder(tmp_path / "part.safetensors") for _ in range(2))
    for folder in (empty, used):
        claim(folder, TRAINING_FILES)
        (folder / "checkpoints").mkdir()
        (folder / "history.jsonl").write_text("{}\n")
    for name in ("epoch-000001.safetensors", ".oddlens-0123456789abcdef.partial", "0-rotation/history.jsonl"):
        for folder in (empty, used):
            (folder / "checkpoints" / name).parent.mkdir(exist_ok=True)
            (folder / "checkpoints" / name).write_text("ours")
    for name in ("notes.txt", "checkpoints/notes.txt", "checkpoints/epoch-000001-mine.safetensors"):
        (used / name).write_text("the user's")
    for folder in (empty, used):
        remove_working_folder(folder)
    assert not empty.exists()
    left = sorted(str(path.relative_to(used)) for path in used.rglob("*") if path.is_file())
    assert left == ["checkpoints/epoch-000001-mine.safetensors", "checkpoints/notes.txt", "notes.txt"]


def test_the_folder_of_a_run_in_progress_is_not_taken_over(tmp_path: Path) -> None:
    folder = make_working_folder(tmp_path / "part.safetensors")
    program = (
        "import sys; from pathlib import Path; from oddlens.io.own_folder import find_working_folders\n"
        "print(len(find_working_folders(Path(sys.argv[1]))))"
    )

    def seen_elsewhere() -> str:
        command = [sys.executable, "-c", program, str(tmp_path / "part.safetensors")]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    with lock(folder) as is_free:
        assert is_free
        with lock(folder) as is_free_again:
            assert not is_free_again
        assert seen_elsewhere() == "0\n"
    assert seen_elsewhere() == "1\n"
    assert read_marker(folder) == {"output": "part.safetensors"}


def test_looking_whether_a_folder_is_locked_locks_nobody_out(tmp_path: Path) -> None:
    assert not is_locked(tmp_path)
    with lock(tmp_path):
        assert is_locked(tmp_path)
    assert not is_locked(tmp_path)
    descriptors = [os.open(tmp_path, os.O_RDONLY) for _ in range(2)]
    assert [lock_descriptor(descriptor, shared=True) for descriptor in descriptors] == [True, True]
    assert not is_locked(tmp_path)
    for descriptor in descriptors:
        os.close(descriptor)


def test_a_lock_goes_on_with_the_process_that_inherits_its_descriptor(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    assert lock_descriptor(descriptor)
    process = subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[descriptor])
    os.close(descriptor)
    assert is_locked(tmp_path)
    process.communicate()
    assert not is_locked(tmp_path)
