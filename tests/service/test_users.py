from __future__ import annotations

from pathlib import Path

import pytest

from oddlens.errors import SettingsError
from oddlens.service.users import SESSION_SECONDS, User, make_session, read_users, user_of_session, user_of_token

TOKEN = "a-token-of-24-characters"
ANN, BOB = User("ann", "engineer", TOKEN), User("bob", "operator", TOKEN.upper())


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_a_file_has_a_line_for_each_person(tmp_path: Path) -> None:
    text = f"# the day shift\nann engineer {TOKEN}\n\nbob  operator\t{TOKEN.upper()}\n"
    assert read_users(write(tmp_path / "users", text)) == (ANN, BOB)


def test_a_token_alone_is_an_engineers(tmp_path: Path) -> None:
    assert read_users(write(tmp_path / "token", f"\n{TOKEN}\n")) == (User("token", "engineer", TOKEN),)


@pytest.mark.parametrize(
    ("text", "mode", "reason"),
    [
        (TOKEN, 0o644, "chmod 600"),
        ("short", 0o600, "16"),
        ("", 0o600, "empty"),
        (f"ann boss {TOKEN}", 0o600, "operator or engineer"),
        (f"ann@x engineer {TOKEN}", 0o600, "letters"),
        (f"ann engineer {TOKEN}\n{TOKEN}", 0o600, "line 2"),
        (f"ann engineer {TOKEN}\nbob operator {TOKEN}", 0o600, "same name or token"),
        (f"ann engineer {TOKEN}\nann operator {TOKEN.upper()}", 0o600, "same name or token"),
    ],
)
def test_a_file_that_is_unclear_or_open_to_others_is_refused(tmp_path: Path, text: str, mode: int, reason: str) -> None:
    with pytest.raises(SettingsError, match=reason) as raised:
        read_users(write(tmp_path / "users", text, mode))
    assert TOKEN not in str(raised.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="No such file"):
        read_users(tmp_path / "missing")


def test_a_token_names_its_user() -> None:
    assert user_of_token(TOKEN, (BOB, ANN)) == ANN
    assert user_of_token(TOKEN[:-1], (BOB, ANN)) is None
    assert user_of_token("", (User("nobody", "operator"),)) is None


def test_a_session_lasts_a_shift_and_belongs_to_one_token_and_role() -> None:
    cookie = make_session(ANN, now=1000.0)
    assert user_of_session(cookie, (BOB, ANN), now=1000.0 + SESSION_SECONDS) == ANN
    assert user_of_session(cookie, (BOB, ANN), now=1001.0 + SESSION_SECONDS) is None
    assert user_of_session(cookie, (User("ann", "engineer", TOKEN + "x"),), now=1000.0) is None
    assert user_of_session(cookie, (User("ann", "operator", TOKEN),), now=1000.0) is None
    assert user_of_session(cookie.replace("ann", "bob"), (BOB, ANN), now=1000.0) is None
    assert user_of_session(cookie.replace(".44200.", ".99999."), (BOB, ANN), now=1000.0) is None
