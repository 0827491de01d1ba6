"""Interrupts and terminations: nothing is left half-written, and no traceback is shown.

The entry point imports this before anything else, so that it needs the standard library alone.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

EXIT_CODES: Mapping[int, int] = {
    number: 128 + number for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE)
}
"""The exit codes of a process that a signal ends, as shells report them."""

MESSAGES: Mapping[int, str] = {
    signal.SIGINT: "interrupted; nothing was left half-written",
    signal.SIGTERM: "terminated; nothing was left half-written",
}


def exit_by_signal() -> BaseException:
    """The exception that ends a process with the exit code of SIGTERM."""
    return SystemExit(EXIT_CODES[signal.SIGTERM])


@contextmanager
def raising_at_sigterm(error: Callable[[], BaseException] = exit_by_signal) -> Iterator[None]:
    """Let SIGTERM raise an exception, so that what is being written is removed on the way out.

    Only the main thread can handle signals, and a handler that is there already stays.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        raise error()

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def ending_at_once() -> Iterator[None]:
    """Let SIGINT and SIGTERM end the process at once, with a message: while modules are imported.

    Nothing is begun then that would have to be removed, and an exception in the middle of an import
    would come out as any error of the module's.
    """

    def end(number: int, frame: FrameType | None) -> None:
        os.write(2, f"error: {MESSAGES[number]}\n".encode())
        os._exit(EXIT_CODES[number])

    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in MESSAGES:
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
