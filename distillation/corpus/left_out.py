"""What a source gives and nobody uses: files and documents, counted by cause, with the first places of each.

Two kinds are told apart. What *could not* be used (a broken line, a suffix that is not read) has a share
above which the source is refused, `corpus.contract.max_left_out_share`. What settings sort out (too short, a
repeat, beyond a limit) has settings of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pydantic import BaseModel, ConfigDict

from distillation.errors import CorpusError

MAX_PLACES = 3
"""Places that are named of each cause."""
MAX_CAUSES = 20
"""Causes that are told apart; a folder of foreign files can have thousands of suffixes."""
HOPELESS = 1000
"""A source that has given this many bad documents and no good one is described wrongly."""


class LeftOut(BaseModel):
    """Files or documents that one cause kept out."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    what: Literal["files", "documents"]
    """What was left out."""
    cause: str
    """Why, in few words."""
    count: int
    """How many."""
    num_bytes: int = 0
    """Of files: their size on the disk."""
    places: tuple[str, ...] = ()
    """Where the first ones stand: a file, or a file and a line."""
    detail: str = ""
    """What more there is to say of the first one."""
    by_setting: bool = False
    """A setting sorts them out; they count for no refusal."""

    def describe(self) -> str:
        """Return one phrase: how many, why, and where the first ones stand."""
        what = self.what.removesuffix("s") if self.count == 1 else self.what
        more = ", ..." if self.places and self.count > len(self.places) else ""
        where = f" ({', '.join(self.places)}{more})" if self.places else ""
        return f"{self.count:,} {what}: {self.cause}{self._detail}{where}"

    def first(self) -> str:
        """Return the first one as a reason: its place, the cause, and what to do."""
        place = f"{self.places[0]}: " if self.places else ""
        return f"{place}{self.cause}{self._detail}"

    @property
    def _detail(self) -> str:
        return f"; {self.detail}" if self.detail else ""


class BadDocumentError(Exception):
    """A row that is no document: it is left out, and the rows after it are read."""

    def __init__(self, cause: str, detail: str = "") -> None:
        super().__init__(cause)
        self.cause, self.detail = cause, detail


class BadFileError(BadDocumentError):
    """A file that cannot be read, or not to its end: it is left out, and the files after it are read."""


@dataclass
class Tally:
    """Counts what is left out while a source is read."""

    num_given: int = 0
    """Documents that the source gave."""
    num_bytes_of_files: int = 0
    """Size of all files of a folder, used or not."""
    unopened: LeftOut | None = None
    """Files that were not opened, as the documents of others were enough."""
    entries: dict[tuple[str, str], LeftOut] = field(default_factory=dict)
    """By what and cause, in the order in which they were met."""

    def leave_out_document(self, where: str, bad: BadDocumentError) -> None:
        """Count a document.

        Raises:
            CorpusError: there were very many, and no good one: the source is described wrongly.
        """
        self._count("documents", bad, where, 0)
        if not self.num_given and self._total("documents") >= HOPELESS:
            raise CorpusError(self.reasons())

    def leave_out_file(self, where: str, bad: BadDocumentError, num_bytes: int = 0) -> None:
        """Count a file with its size on the disk."""
        self._count("files", bad, where, num_bytes)

    def reasons(self) -> str:
        """Return why the first ones were left out, for a source that gave nothing."""
        found = list(self.entries.values())
        more = sum(one.count for one in found) - min(len(found), MAX_PLACES)
        return "; ".join(one.first() for one in found[:MAX_PLACES]) + (f"; and {more:,} more" if more else "")

    def shares(self) -> dict[str, float]:
        """Return the share of the documents, and of the bytes of local files, that could not be used."""
        num_bad = self._total("documents")
        num_bytes = sum(one.num_bytes for one in self.entries.values())
        shares = {"documents": num_bad / max(num_bad + self.num_given, 1)}
        if self.num_bytes_of_files:
            shares["files"] = num_bytes / max(self.num_bytes_of_files, num_bytes)
        return shares

    def _total(self, what: str) -> int:
        return sum(one.count for (kind, _), one in self.entries.items() if kind == what)

    def _count(
        self, what: Literal["files", "documents"], bad: BadDocumentError, where: str, num_bytes: int
    ) -> None:
        cause, detail = bad.cause, bad.detail
        if (what, cause) not in self.entries and len(self.entries) >= MAX_CAUSES:
            cause, detail = "other causes", ""
        known = self.entries.get((what, cause), LeftOut(what=what, cause=cause, count=0, detail=detail))
        places = known.places if len(known.places) >= MAX_PLACES else (*known.places, where)
        update = {"count": known.count + 1, "num_bytes": known.num_bytes + num_bytes, "places": places}
        self.entries[what, cause] = known.model_copy(update=update)


def check_characters(text: str) -> str:
    """Return the text, if every file and tokenizer can hold it.

    Raises:
        BadDocumentError: it holds a NUL, or something that has no UTF-8 form.
    """
    if "\0" in text:
        raise BadDocumentError("holds a NUL character")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise BadDocumentError(
                "invalid UTF-8", "a byte that is none, or half of a surrogate pair"
            ) from None
    return text
