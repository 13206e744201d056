"""Runs lm-evaluation-harness so that it leaves no trace: no noise, and no changed random state.

The library logs each step, draws bars on stderr, and has tasks that shuffle their documents or choices with
the global generators.
Invariants (tests): the generators of Python, NumPy and torch go on as if nothing had run between; loggers are
as before; within, everything starts from one seed, so that runs repeat.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator

from distillation.quiet import at_level, handled_by

_LOG = logging.getLogger(__name__)
SEED = 1234
"""Seeds shuffles and the choice of few-shot examples: lm-eval's own default."""
EXPECTED = ("`pretrained`", "overrides existing task")
"""Beginnings of what the library says at every use that this package makes of it."""


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Yield to code that calls lm-eval; afterwards pass on its warnings, each text once."""
    warned = _Warned()
    try:
        with (
            _same_randomness(),
            at_level(logging.WARNING, "lm_eval"),
            handled_by(warned, "lm_eval"),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            yield
    finally:
        for text in dict.fromkeys(warned.texts):
            _LOG.warning("lm-eval: %s", text)


@contextlib.contextmanager
def _same_randomness() -> Iterator[None]:
    import random

    import numpy as np
    import torch

    states = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    try:
        with torch.random.fork_rng(devices=devices):
            random.seed(SEED)
            np.random.seed(SEED)
            torch.manual_seed(SEED)
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


class _Warned(logging.Handler):
    """Keeps the text of each warning, unless every use here causes it."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Add the record's text to the list."""
        text = " ".join(record.getMessage().split())
        if not any(phrase in text for phrase in EXPECTED):
            self.texts.append(text)
