"""Keeps other libraries' warnings off the screen while something is tried, and hands them to the caller.

A probe tries what may fail; what transformers says about it is a finding to be recorded, not noise for a
terminal.
Invariant: handlers, propagation and progress bars are as before when the block is left, also by an exception.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


class _Collector(logging.Handler):
    """Keeps each record's text instead of printing it."""

    def __init__(self, messages: list[str]) -> None:
        super().__init__(logging.WARNING)
        self.messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        """Add the record's text to the list."""
        self.messages.append(record.getMessage())


@contextmanager
def listening() -> Iterator[list[str]]:
    """Yield a list that fills with what transformers warns of inside the block; it is shown as ever."""
    messages: list[str] = []
    collector = _Collector(messages)
    logger = logging.getLogger("transformers")
    logger.addHandler(collector)
    try:
        yield messages
    finally:
        logger.removeHandler(collector)


@contextmanager
def at_level(level: int, *names: str) -> Iterator[None]:
    """Let loggers say nothing below `level` inside the block."""
    before = [(logger, logger.level) for logger in map(logging.getLogger, names)]
    for logger, _ in before:
        logger.setLevel(level)
    try:
        yield
    finally:
        for logger, was in before:
            logger.setLevel(was)


@contextmanager
def handled_by(handler: logging.Handler, *names: str) -> Iterator[None]:
    """Hand what loggers say inside the block to `handler` alone."""
    before = [(logger, list(logger.handlers), logger.propagate) for logger in map(logging.getLogger, names)]
    for logger, _, _ in before:
        logger.handlers, logger.propagate = [handler], False
    try:
        yield
    finally:
        for logger, handlers, propagate in before:
            logger.handlers, logger.propagate = handlers, propagate


@contextmanager
def quiet_libraries() -> Iterator[list[str]]:
    """Yield a list that fills with what transformers, torch and `warnings` would have printed inside the
    block."""
    from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars
    from transformers.utils import logging as transformers_logging

    messages: list[str] = []
    had_progress_bars = transformers_logging.is_progress_bar_enabled()
    shows_downloads = not are_progress_bars_disabled()
    if had_progress_bars:
        transformers_logging.disable_progress_bar()
        if shows_downloads:  # a first download takes minutes, and its bar is no noise
            enable_progress_bars()
    silenced = handled_by(_Collector(messages), "transformers", "torch", "huggingface_hub")
    try:
        with silenced, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield messages
        messages.extend(str(warning.message) for warning in caught)
    finally:
        if had_progress_bars:
            transformers_logging.enable_progress_bar()
