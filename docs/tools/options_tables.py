"""Write the tables of options in the reference of the command line, from the program itself.

`python docs/tools/options_tables.py` updates the page; a test compares the two.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import typer

from oddlens.cli import app

PAGE = Path(__file__).parents[1] / "reference/command-line.md"
EVERYWHERE = {"--json", "--threads", "--seed", "--help"}  # described once, for all commands
MARKED = re.compile(r"(<!-- options of ([a-z -]+) -->\n).*?(<!-- end of options -->)", flags=re.DOTALL)
METAVARS = {int: "N", float: "X", Path: "PATH"}


def commands() -> dict[str, Any]:
    """All commands by name; one of a group has the group's name before its own."""
    group: Any = typer.main.get_command(app)
    below = {name: getattr(command, "commands", {"": command}) for name, command in group.commands.items()}
    return {f"{name} {inner}".strip(): command for name, inners in below.items() for inner, command in inners.items()}


def with_tables(page: str) -> str:
    """The page with the present table between each pair of marks."""
    all_commands = commands()
    return MARKED.sub(lambda mark: f"{mark[1]}{options_table(all_commands[mark[2]])}{mark[3]}", page)


def options_table(command: Any) -> str:
    """Arguments and options of a command as a Markdown table."""
    hints = get_type_hints(inspect.unwrap(command.callback))
    described = [parameter for parameter in command.params if is_described(parameter)]
    rows = [(signature(parameter, hints[parameter.name]), meaning(parameter)) for parameter in described]
    lines = ["| option | meaning |", "| --- | --- |", *(f"| {name} | {text} |" for name, text in rows)]
    return "\n".join(lines) + "\n"


def is_described(parameter: Any) -> bool:
    """Whether a parameter has a row of its own."""
    return not set(parameter.opts) & EVERYWHERE


def signature(parameter: Any, hint: Any) -> str:
    """The names of a parameter of that type, with what it takes."""
    if parameter.param_type_name == "argument":
        return f"`{parameter.metavar or parameter.name.upper()}`"
    names = [f"`{name}`" for name in parameter.opts]
    if not parameter.is_flag:
        names[-1] = f"{names[-1][:-1]} {value_name(parameter.metavar, hint)}`"
    return ", ".join(names)


def value_name(metavar: str | None, hint: Any) -> str:
    """What an option takes: its choices, or the name of its value."""
    parts = [part for part in get_args(hint) if part is not type(None)] if get_origin(hint) is UnionType else [hint]
    choices = "|".join(get_args(parts[0])) if get_origin(parts[0]) is Literal else None
    return (choices or metavar or METAVARS.get(parts[0], "TEXT")).replace("|", "\\|")


def meaning(parameter: Any) -> str:
    """The help text, with the default unless it says it already."""
    text = parameter.help.removesuffix(".").replace("|", "\\|")
    default = parameter.default
    is_plain = isinstance(default, str | int | float | Path) and not isinstance(default, bool)
    return f"{text} (`{default}`)" if is_plain and "default" not in text else text


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
