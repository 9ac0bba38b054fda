"""Ctrl-C, SIGTERM and SIGHUP: the training sees them and stops at its next report."""

import os
import signal
import sys
from contextlib import AbstractContextManager
from typing import Any

from purejaxppo.population.processes import ask_to_stop, asked_to_stop


class StopSignal(AbstractContextManager):
    """Notes the first Ctrl-C, SIGTERM or SIGHUP, for the training to see; the second one interrupts it at once.

    SIGHUP is sent when a connection is lost.
    """

    def __init__(self) -> None:
        self.number = signal.SIGINT
        self._noted = False
        self._before: dict[signal.Signals, Any] = {}
        self._terminals: list[int] = []

    def __enter__(self) -> "StopSignal":
        signals = [signal.SIGINT, signal.SIGTERM]
        hangup: signal.Signals | None = getattr(signal, "SIGHUP", None)  # Windows has none
        if hangup is not None and signal.getsignal(hangup) != signal.SIG_IGN:  # nohup has it ignored
            signals.append(hangup)
        self._before = {each: signal.signal(each, self._note) for each in signals}
        self._terminals = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]
        return self

    def __exit__(self, *_: Any) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)

    def is_set_anywhere(self) -> bool:
        """True if a signal has come to this process, or to one that it has joined."""
        if self._noted:
            ask_to_stop(self.number)
            return True
        number = asked_to_stop()
        self.number = self.number if number is None else signal.Signals(number)
        return number is not None

    def from_now_on_at_once(self) -> None:
        """Makes the first signal interrupt at once too. Raises KeyboardInterrupt if one has come already."""
        if self._noted:
            raise KeyboardInterrupt
        self._noted = True

    def _note(self, number: int, _: Any) -> None:
        self.number = signal.Signals(number)
        if self._noted:
            raise KeyboardInterrupt
        self._noted = True
        if self.number not in (signal.SIGINT, signal.SIGTERM):
            self._leave_terminals()
        print("purejaxppo: stopping at the next report; once more to stop at once", file=sys.stderr, flush=True)

    def _leave_terminals(self) -> None:
        """Discards all output, because printing to a terminal that is gone would end the training."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for descriptor in self._terminals:
            os.dup2(nowhere, descriptor)
        os.close(nowhere)
