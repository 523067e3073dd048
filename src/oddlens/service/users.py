"""Who may ask for what: people and programs with their tokens and roles, and the cookies of their browsers."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from oddlens.errors import SettingsError

MIN_TOKEN = 16  # characters
SESSION_SECONDS = 12 * 3600  # a shift, and some more
SESSION = re.compile(r"([A-Za-z0-9_-]{1,64})\.(\d{1,12})\.([0-9a-f]{64})")
TOKEN = re.compile(rf"[!-~]{{{MIN_TOKEN},}}")
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")

Role = Literal["operator", "engineer"]


@dataclass(frozen=True)
class User:
    """A person or a program; the token is None only where nobody needs one."""

    name: str
    role: Role
    token: str | None = field(default=None, repr=False)


def read_users(path: Path) -> tuple[User, ...]:
    """The users in a token file: a line `NAME ROLE TOKEN` for each, or one token alone, which is an engineer's.

    Raises:
        SettingsError: the file cannot be read, others may read it, or a line is none of these.
    """
    try:
        others, text = path.stat().st_mode & 0o077, path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise SettingsError(f"{path}: the token cannot be read ({reason})") from error
    if others:
        raise SettingsError(f"{path}: other users of this machine may read the token; chmod 600 {path}")
    lines = [line.split() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if len(lines) == 1 and len(lines[0]) == 1:
        lines = [["token", "engineer", *lines[0]]]
    if not lines:
        raise SettingsError(f"{path}: is empty; write a token, or a line 'NAME ROLE TOKEN' for each person")
    users = tuple(parse_user(path, number, words) for number, words in enumerate(lines, 1))
    for values in ([user.name for user in users], [user.token for user in users]):
        if len(set(values)) < len(values):
            raise SettingsError(f"{path}: two lines have the same name or token; each person needs their own")
    return users


def parse_user(path: Path, number: int, words: Sequence[str]) -> User:
    """One line of a token file.

    Raises:
        SettingsError: says what is wrong; the token is not repeated.
    """
    if len(words) != 3 or words[1] not in get_args(Role) or not NAME.fullmatch(words[0]):
        raise SettingsError(
            f"{path}: line {number} is not 'NAME ROLE TOKEN'; the name has letters, digits, '_' and '-', the role is "
            f"{' or '.join(get_args(Role))}"
        )
    if not TOKEN.fullmatch(words[2]):
        raise SettingsError(f"{path}: a token is one word of at least {MIN_TOKEN} ASCII characters")
    return User(words[0], "operator" if words[1] == "operator" else "engineer", words[2])


def user_of_token(token: str, users: Sequence[User]) -> User | None:
    """The user with this token, compared in constant time."""
    return next(
        (user for user in users if user.token and secrets.compare_digest(token.encode(), user.token.encode())), None
    )


def make_session(user: User, now: float | None = None) -> str:
    """The content of a cookie: name, end, and a digest whose key is the token, so that nothing has to be stored."""
    end = int((time.time() if now is None else now) + SESSION_SECONDS)
    return f"{user.name}.{end}.{session_digest(user, end)}"


def user_of_session(cookie: str, users: Sequence[User], now: float | None = None) -> User | None:
    """The user whose session a cookie is; None where it is over, or was not made with the present token."""
    match = SESSION.fullmatch(cookie)
    if match is None or int(match[2]) < (time.time() if now is None else now):
        return None
    user = next((user for user in users if user.name == match[1]), None)
    if user is None or not secrets.compare_digest(session_digest(user, int(match[2])), match[3]):
        return None
    return user


def session_digest(user: User, end: int) -> str:
    """What nobody can compute without the token."""
    text = f"oddlens session {user.name} {user.role} {end}"
    return hmac.new((user.token or "").encode(), text.encode(), hashlib.sha256).hexdigest()
