"""The result of a check: a finding."""

from collections.abc import Callable, Mapping
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


class Note(str):
    """The text of a check that found nothing wrong, but something worth a look."""


Check = Callable[[], str]  # returns the text of its finding, or a Note; an exception is a fault


def fault(name: str, error: BaseException) -> Finding:
    """The finding of a check that raised an exception."""
    return Finding(name, False, in_one_line(error))


def run_checks(checks: Mapping[str, Check]) -> list[Finding]:
    """Runs the checks one after the other."""
    findings = []
    for name, check in checks.items():
        try:
            text = check()
            findings.append(Finding(name, True, text, is_note=isinstance(text, Note)))
        except Exception as error:  # user code may raise anything
            findings.append(fault(name, error))
    return findings
