"""The exception tree: every error derives from OddlensError, is documented, and survives pickling."""

from __future__ import annotations

import inspect
import pickle

import pytest

from oddlens import errors
from oddlens.errors import ImageError, MissingExtraError, OddlensError, UnreadableImageError

CLASSES = [value for _, value in inspect.getmembers(errors, inspect.isclass)]
WITH_TWO_ARGUMENTS = (ImageError, UnreadableImageError, MissingExtraError)


@pytest.mark.parametrize("error_class", CLASSES)
def test_every_error_derives_from_oddlens_error_and_is_in_the_tree(error_class: type[Exception]) -> None:
    assert issubclass(error_class, OddlensError)
    assert error_class.__doc__
    (line,) = [line for line in (errors.__doc__ or "").splitlines() if error_class.__name__ in line.split()]
    ancestors = len(error_class.__mro__) - OddlensError.__mro__.__len__()
    assert max(line.find("├"), line.find("└")) == (-1 if ancestors == 0 else 4 * (ancestors - 1))


@pytest.mark.parametrize("error_class", CLASSES)
def test_errors_come_back_from_other_processes(error_class: type[Exception]) -> None:
    arguments = ("a.png", "cannot be decoded") if error_class in WITH_TWO_ARGUMENTS else ("cannot be done",)
    error = error_class(*arguments)
    copied = pickle.loads(pickle.dumps(error))
    assert (type(copied), str(copied), vars(copied)) == (error_class, str(error), vars(error))


def test_a_missing_extra_names_the_command_that_installs_it() -> None:
    error = MissingExtraError("drawing figures", "train")
    assert str(error) == "drawing figures needs packages that are not installed: pip install 'oddlens[train]'"
    assert (error.feature, error.extra) == ("drawing figures", "train")
