"""The errors that a user can cause, each one line: the setting, its value, and what to do.

Anything that is not a `DistillationError` is a fault of this software and keeps its traceback.
"""

from __future__ import annotations

from distillation.redaction import scrub

MAX_MESSAGE = 2000
"""Longest message in characters; what was wrong can be longer, such as a key of a settings file."""


class DistillationError(Exception):
    """Base of every error that a user can mend. Its message is shown alone, without a traceback.

    It holds no secret from the beginning, since whoever catches it may store it, as ZenML does, and no more
    than `MAX_MESSAGE` characters: what it quotes of a file from outside may be of any length.
    """

    def __init__(self, message: object = "", *details: object) -> None:
        if isinstance(message, str):
            message = shorten(scrub(message), MAX_MESSAGE)
        super().__init__(message, *details)


class InputError(DistillationError):
    """A file from outside is missing, no regular file, too large, or not what it should be."""


class StorageError(DistillationError):
    """Something cannot be written: the disk is full or read-only, or the user may not write there."""


class LockError(DistillationError):
    """Another process is at work on the same folder."""


class SettingsError(DistillationError):
    """A setting is unknown, has the wrong type, or is out of its range."""


class CorpusError(DistillationError):
    """No source gave documents that pass the data contract."""


class ModelError(DistillationError):
    """A model or a tokenizer is missing, incomplete, or does not fit its configuration."""


class AlignmentError(DistillationError):
    """Two tokenizers, or a document under them, cannot be aligned byte by byte."""


class JobError(DistillationError):
    """A job directory cannot be written, is damaged, or belongs to another job."""


class SearchError(DistillationError):
    """A search for settings found none."""


class ComparisonError(DistillationError):
    """Every student of a comparison failed."""


class TrackingError(DistillationError):
    """The tracking server or the model registry does not answer or refuses."""


class PromotionError(DistillationError):
    """No run can be promoted; the message names the gate's line that failed."""


class PublishError(DistillationError):
    """The champion could not be written to its folder or pushed to the hub; the promotion stands."""


def one_line(error: BaseException) -> str:
    """Return the message of `error` as a single line of bounded length and without secrets."""
    text = " ".join(scrub(str(error)).split())
    return shorten(text, MAX_MESSAGE) or type(error).__name__


def shorten(text: str, length: int = 160) -> str:
    """Return `text` cut to `length` characters, with an ellipsis in the middle where something is missing."""
    if len(text) <= length:
        return text
    half = (length - 3) // 2
    return f"{text[: length - 3 - half]}...{text[-half:]}"


def reason_of(error: BaseException, length: int = 160) -> str:
    """Return why a library or the system refused, short enough to stand in brackets in a message of ours."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return shorten(one_line(error), length)
