"""Asking the hub without waiting longer than a user would."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

Answer = TypeVar("Answer")


def answer_within(ask: Callable[[], Answer], seconds: float) -> Answer | Exception | None:
    """Return what `ask` returns or raises; None if it has not done either within `seconds`."""
    answers: list[Answer | Exception] = []

    def run() -> None:
        try:
            answers.append(ask())
        except Exception as error:  # any network failure; the caller's message depends on its type
            answers.append(error)

    # A thread, because a name server that is silent blocks beyond any timeout of the client; it is left
    # behind rather than the user kept waiting.
    thread = threading.Thread(target=run, name="hub", daemon=True)
    thread.start()
    thread.join(seconds)
    return answers[0] if answers else None
