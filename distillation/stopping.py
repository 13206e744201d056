"""Ctrl-C and SIGTERM: one line, what was done is kept, and the process has ended within three seconds.

A signal raises `Stopped` in the main thread. It is no `Exception`, so that nothing that goes on after a
failure swallows it, and what is open on the way is closed: drafts are removed, runs are ended. A second
thread sees the signal at once, also while the main thread is inside of a long call of a library, and ends the
process when the time is up. Nothing is lost by that: all that is kept on disk outlives a kill at any instant.
"""

from __future__ import annotations

import logging
import os
import select
import shlex
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

GRACE = 2.0
"""Seconds that the main thread has to close what is open."""
_SAME_SIGNAL = 0.3  # seconds within which a signal that comes again is the same one, sent to the whole group
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):
    """The user or the system asks this process to end."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.code = 128 + number


_tasks: list[Callable[[], str]] = []
_positions: list[Callable[[], str]] = []


@contextmanager
def working_on(
    task: str | Callable[[], str] | None = None, position: Callable[[], str] | None = None
) -> Iterator[None]:
    """Say, for the line of a stop, what the same command will go on with.

    Args:
        task: such as "student 1"; of nested ones the innermost counts.
        position: asked at the stop where in it the work goes on, such as "step 40"; likewise.
    """
    tasks = [] if task is None else [task if callable(task) else lambda: task]
    positions = [] if position is None else [position]
    num_tasks, num_positions = len(_tasks), len(_positions)
    _tasks.extend(tasks)
    _positions.extend(positions)
    try:
        yield
    finally:
        del _tasks[num_tasks:], _positions[num_positions:]


def started_as(*scripts: str) -> bool:
    """Return whether this process is one of the named console scripts, such as `zenml`."""
    return Path(sys.argv[0]).name.removesuffix(".exe") in scripts


def begin() -> None:
    """From here on a signal ends this process, whatever it is doing; for a process that is one command."""
    if _watch is None and threading.current_thread() is threading.main_thread():
        _Watch(ends_process=True)


@contextmanager
def stoppable() -> Iterator[None]:
    """Let signals end the block; in a process that `begin` takes care of, or a thread, it changes nothing.

    The process ends with it, unless it is a notebook or a prompt.

    Raises:
        KeyboardInterrupt: in a notebook or at a prompt, with the line as its text.
    """
    if _watch is not None or threading.current_thread() is not threading.main_thread():
        yield
        return
    watch = _Watch(ends_process=not (hasattr(sys, "ps1") or "ipykernel" in sys.modules))
    try:
        yield
    except BaseException:
        if watch.number is None:
            raise
        if watch.ends_process:
            watch.end()
        raise KeyboardInterrupt(watch.line) from None
    finally:
        watch.close()


class _Watch:
    """Handlers of both signals, and the thread that sees to it that a stop comes to its end."""

    def __init__(self, *, ends_process: bool) -> None:
        global _watch
        self.ends_process = ends_process
        self.number: int | None = None
        self.line = ""
        self._is_told = threading.Lock()
        self._asking = threading.Lock()
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        # The number is written by the handler in C: it comes through while Python code cannot run.
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        # Also where it was ignored, as for a job in the background of a script: stop means stop.
        self._handlers = {one: signal.signal(one, self._handle) for one in _SIGNALS}
        if ends_process:
            threading.Thread(target=self._guard, name="stopping", daemon=True).start()
        _watch = self

    def close(self) -> None:
        """Give the signals back."""
        global _watch
        _watch = None
        for one, handler in self._handlers.items():
            signal.signal(one, handler)
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._write)  # ends the thread, which closes the other end
        if not self.ends_process:
            os.close(self._read)

    def end(self, *, is_late: bool = False) -> None:
        """Tell the user and end the process.

        Args:
            is_late: the main thread is busy, and may hold the locks of the standard streams.
        """
        if not self._is_told.acquire(blocking=False):
            time.sleep(60)  # the other thread is about to end the process
        if not is_late:
            with suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
        if self.line:
            begin = "\n" if _is_line_open() else ""
            with suppress(OSError):
                os.write(2, f"{begin}{self.line}\n".encode(_encoding(), "replace"))
        if "multiprocessing" in sys.modules:
            from multiprocessing import active_children

            for child in active_children():
                child.terminate()
        os._exit(128 + (self.number or 0))

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._ask(number)
        raise Stopped(number)

    def _ask(self, number: int) -> None:
        """Note the stop, with where the work stands now, and keep what follows from it off the terminal."""
        # The main thread must not leave what the other one is just describing, nor wait for itself.
        is_mine = self._asking.acquire(timeout=0.5)
        try:
            if self.number is not None:
                return
            self.number, self.line = number, _line()
            if self.ends_process:
                logging.disable(logging.CRITICAL)
                warnings.simplefilter("ignore")
                sys.unraisablehook = threading.excepthook = _say_nothing
                # Now, and not at the beginning: libraries put hooks of their own there as they are imported.
                sys.excepthook = self._end_of_main
        finally:
            if is_mine:
                self._asking.release()

    def _guard(self) -> None:
        deadline, asked = None, 0.0
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            ready, _, _ = select.select([self._read], [], [], left)
            numbers = os.read(self._read, 64) if ready else b""
            if ready and not numbers:
                os.close(self._read)
                return
            again = [number for number in numbers if number in _SIGNALS]
            now = time.monotonic()
            if deadline is None and again:
                asked, deadline = now, now + GRACE
                time.sleep(_SAME_SIGNAL)  # the main thread, if it can, knows better what it is doing
                self._ask(again[0])
            elif deadline is not None and (now >= deadline or (again and now > asked + _SAME_SIGNAL)):
                self.end(is_late=True)

    def _end_of_main(self, kind: object, error: object, trace: object) -> None:
        self.end()


def _say_nothing(about: object) -> None:
    """Stand in for what would print a traceback."""


_watch: _Watch | None = None


def _forget() -> None:
    """Give the signals back in a process that was forked off: it has its own end."""
    global _watch
    if _watch is not None:
        _watch = None
        with suppress(ValueError):
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


os.register_at_fork(after_in_child=_forget)


def _line() -> str:
    """Return what to tell the user; empty in all but the first of several processes of a training."""
    if os.environ.get("RANK", "0") != "0":
        return ""
    task, position = _ask_last(_tasks), _ask_last(_positions)
    goes_on = " ".join([f"with {task}"] * bool(task) + [f"at {position}"] * bool(position))
    again = f"goes on {goes_on}" if goes_on else "starts again"
    command = "" if "RANK" in os.environ else f": {_command()}"
    return f"stopped; the same command {again}{command}"


def _ask_last(stack: list[Callable[[], str]]) -> str:
    with suppress(Exception):
        return stack[-1]() if stack else ""
    return ""


def _command() -> str:
    """Return what was typed, as it can be typed again."""
    # Python itself stands before a script that is started by its name.
    return shlex.join(sys.argv if started_as("distil", "zenml") else sys.orig_argv)


def _encoding() -> str:
    return getattr(sys.stderr, "encoding", None) or "utf-8"


def _is_line_open() -> bool:
    """Return whether the terminal's line is not at its beginning: after ^C, or behind a progress bar."""
    bars = getattr(sys.modules.get("tqdm"), "tqdm", None)
    return os.isatty(2) or any(not one.disable for one in getattr(bars, "_instances", ()))
