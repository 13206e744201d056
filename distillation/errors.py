"""The errors that a user can cause, each one line: the setting, its value, and what to do.

Anything that is not a `DistillationError` is a fault of this software and keeps its traceback.
"""


class DistillationError(Exception):
    """Base of every error that a user can mend. Its message is shown alone, without a traceback."""


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


def one_line(error: BaseException) -> str:
    """Return the message of `error` as a single line, for a terminal or a report."""
    text = " ".join(str(error).split())
    return text or type(error).__name__
