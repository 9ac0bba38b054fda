"""The result of a check: a finding."""

from collections.abc import Callable
from typing import NamedTuple

from purejaxppo.utils.errors import in_one_line


class Finding(NamedTuple):
    """The result of one check."""

    name: str
    is_well: bool
    text: str  # with the remedy, where it is not well
    is_note: bool = False  # well, and worth a look

    @property
    def verdict(self) -> str:
        """ok, note, or NOT OK."""
        if not self.is_well:
            return "NOT OK"
        return "note" if self.is_note else "ok"


def well(name: str, text: str) -> Finding:
    """Nothing to do."""
    return Finding(name, True, text)


def note(name: str, text: str) -> Finding:
    """Nothing wrong, but something worth knowing."""
    return Finding(name, True, text, is_note=True)


def fault(name: str, text: str) -> Finding:
    """Something wrong."""
    return Finding(name, False, text)


def attempted(name: str, check: Callable[[], Finding]) -> Finding:
    """Runs a check. An exception becomes a finding too."""
    try:
        return check()
    except Exception as error:  # user code may raise anything
        return fault(name, in_one_line(error))
