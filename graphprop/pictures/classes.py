"""Which class of the network the name stands for that data give a class."""

from __future__ import annotations

from collections.abc import Sequence

from graphprop.errors import InputError


def class_of(name: str, classes: int, class_names: Sequence[str] | None) -> int | None:
    """The class that a name stands for, by the names of the classes or as a number; else None.

    Raises
    ------
    InputError
        If several classes have the name, or the network has no class of that number.
    """
    called = [index for index, other in enumerate(class_names or ()) if other == name]
    if len(called) > 1:
        raise InputError(
            f"{name!r} is the name of the classes {', '.join(map(str, called))}: say which "
            f'is meant by --classes FILE, a JSON file such as {{"{name}": {called[0]}}}'
        )
    if called:
        return called[0]
    return check_class(name, int(name), classes) if name.isdecimal() else None


def check_class(name: str, number: int, classes: int) -> int:
    """A class, if the network has it.

    Raises
    ------
    InputError
        If not.
    """
    if not 0 <= number < classes:
        raise InputError(
            f"{name!r} stands for the class {number}, and the network has the classes 0 to "
            f"{classes - 1}"
        )
    return number
