"""What ZenML keeps of a failing step and of a step's output holds no secret.

ZenML stores the message and the traceback of whatever fails, causes and lines of source included, and every
line that a step logs or prints. Errors of this software hold no secret from the beginning; those of libraries
repeat addresses and settings as they came. ZenML has no hook between a failure and its store, so its two
functions that collect what is stored are wrapped while a pipeline runs.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from zenml.utils import exception_utils
from zenml.utils.logging_utils import LoggingContext

from distillation.redaction import scrub

if TYPE_CHECKING:
    from zenml.models import ExceptionInfo


@contextlib.contextmanager
def stored_without_secrets() -> Iterator[None]:
    """Scrub what ZenML stores of failures and of logs inside the block."""
    collect, emit = exception_utils.collect_exception_information, LoggingContext.emit

    def collect_scrubbed(*args: Any, **kwargs: Any) -> ExceptionInfo:
        found = collect(*args, **kwargs)
        message = None if found.message is None else scrub(found.message)
        return found.model_copy(update={"traceback": scrub(found.traceback), "message": message})

    def emit_scrubbed(
        context: LoggingContext, record: logging.LogRecord, metadata: dict[str, Any] | None = None
    ) -> None:
        emit(context, scrubbed_record(record), metadata)

    with contextlib.ExitStack() as stack:
        stack.callback(setattr, exception_utils, "collect_exception_information", collect)
        stack.callback(setattr, LoggingContext, "emit", emit)
        exception_utils.collect_exception_information = collect_scrubbed
        LoggingContext.emit = emit_scrubbed  # type: ignore[method-assign, assignment]
        yield


def scrubbed_record(record: logging.LogRecord) -> logging.LogRecord:
    """Return `record` as it is, or, where it holds a secret, a record of its text without it."""
    text = logging.Formatter().format(record)
    without = scrub(text)
    if without == text:
        return record
    fields = {**record.__dict__, "msg": without, "args": (), "exc_info": None, "exc_text": None}
    return logging.makeLogRecord(fields | {"stack_info": None})
