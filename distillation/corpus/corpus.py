"""A corpus and its report, and how both are kept in a directory.

A corpus directory holds `train.parquet`, `held_out.parquet`, `report.json` and `contract.html`. It is written
beside its place and renamed into it, so that a directory with that name is always whole; reading compares
the documents with the fingerprints of the report.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from distillation.corpus.checks import ContractCheck
from distillation.corpus.documents import Document, is_validation
from distillation.corpus.left_out import LeftOut
from distillation.corpus.sources.labels import source_labels
from distillation.errors import CorpusError, InputError, one_line
from distillation.files import new_directory
from distillation.reading import open_regular, printable, read_bytes, read_text, reading_by_libraries

if TYPE_CHECKING:
    import datasets

TRAIN_FILE, HELD_OUT_FILE = "train.parquet", "held_out.parquet"
REPORT_FILE, PAGE_FILE = "report.json", "contract.html"


class CorpusReport(BaseModel):
    """Where the documents come from, what was dropped, and what the contract found."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    source: str
    """Kind and name of the source that was accepted, for example `hub Salesforce/wikitext ...`."""
    source_kind: str
    """`hub`, `file` or `documentation`."""
    fallback_reasons: tuple[str, ...] = ()
    """Why each source before it was not used."""
    left_out: tuple[LeftOut, ...] = ()
    """Files and documents of the source that are in neither part, by cause."""
    is_read_to_end: bool = True
    """Whether the whole source was read; not so where the limits in bytes were reached before."""
    num_documents_read: int
    """Documents that the source gave until the limits were reached."""
    num_short_dropped: int
    """Documents below `corpus.min_document_characters`."""
    num_duplicates_dropped: int
    """Documents that repeat an earlier one exactly."""
    num_contaminated_dropped: int
    """Training documents that share too many long n-grams with held-out ones."""
    num_train_documents: int
    """Training documents kept."""
    num_held_out_documents: int
    """Held-out documents kept."""
    train_bytes: int
    """UTF-8 bytes of the training documents."""
    held_out_bytes: int
    """UTF-8 bytes of the held-out documents, the denominator of bits per byte."""
    duplicate_share: float
    """Share of the source's documents that were repeats."""
    leaked_share: float
    """Mean share of a held-out document's long n-grams that stand in training documents."""
    unknown_shares: dict[str, float] = {}
    """For each tokenizer, the share of tokens that stand for text it cannot spell."""
    character_quantiles: dict[str, float] = {}
    """Lengths of the documents, in characters, at some quantiles."""
    train_fingerprint: str
    """Hash of the training documents in their order, 16 hexadecimal digits."""
    held_out_fingerprint: str
    """Hash of the held-out documents: results with the same one are comparable."""
    checks: tuple[ContractCheck, ...] = ()
    """The contract, expectation by expectation."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What to know before believing the figures: another corpus, texts that could not be used."""
        passed_over = (f"{self.source} is used, as {reason}" for reason in self.fallback_reasons)
        unusable = (f"left out {one.describe()}" for one in self.left_out if not one.by_setting)
        return (*passed_over, *unusable)

    @property
    def sentence(self) -> str:
        """What is used of which source, and what its settings sort out, in one line."""
        by_setting = [one.describe() for one in self.left_out if one.by_setting]
        used = f"{self.num_train_documents:,} documents to train on, {self.num_held_out_documents:,} held out"
        unread = "" if self.is_read_to_end else ", the rest unread as the limits in bytes are reached"
        return f"{self.source}: {used}{unread}" + (
            f"; not used: {'; '.join(by_setting)}" if by_setting else ""
        )


@dataclass(frozen=True)
class Corpus:
    """Documents to train on, documents to measure on, and where they come from."""

    train: datasets.Dataset
    """Columns text, document_id (SHA-256 of the text in hexadecimal), origin; of conversations also messages,
    a JSON list, whose hash document_id then is."""
    held_out: datasets.Dataset
    """The same columns."""
    report: CorpusReport
    """What was read, dropped and checked."""
    contract_page: str
    """The contract's result as one self-contained HTML page."""

    @property
    def validation_texts(self) -> list[str]:
        """The held-out texts that training may look at to choose its best checkpoint."""
        return self._held_out_part("text", for_training=True)

    @property
    def test_texts(self) -> list[str]:
        """The held-out texts that no choice was made on: what is published is measured on these."""
        return self._held_out_part("text", for_training=False)

    @property
    def test_sources(self) -> list[str]:
        """Where each of `test_texts` comes from, in few words."""
        origins = self._held_out_part("origin", for_training=False)
        return source_labels(origins, self.report.source_kind)

    def _held_out_part(self, column: str, *, for_training: bool) -> list[str]:
        values = [row[column] for row in self.held_out if is_validation(row["document_id"]) is for_training]
        return values or list(self.held_out[column])  # too few documents to part them


def fingerprint_of(document_ids: Iterable[str]) -> str:
    """Return 16 hexadecimal digits that change with any document and with their order."""
    return hashlib.sha256("\n".join(document_ids).encode()).hexdigest()[:16]


def dataset_of(documents: Sequence[Document]) -> datasets.Dataset:
    """Return the documents as a data set in memory."""
    import datasets

    columns = {
        "text": [document.text for document in documents],
        "document_id": [document.document_id for document in documents],
        "origin": [document.origin for document in documents],
    }
    if any(document.messages is not None for document in documents):
        columns["messages"] = [document.messages or "[]" for document in documents]
    features = datasets.Features({name: datasets.Value("string") for name in columns})
    return datasets.Dataset.from_dict(columns, features=features)


def save_corpus(corpus: Corpus, directory: Path) -> None:
    """Write `corpus` to `directory`, replacing what is there only when everything is written."""
    with new_directory(Path(directory)) as draft:
        write_corpus_files(corpus, draft)


def write_corpus_files(corpus: Corpus, directory: Path) -> None:
    """Write the files of `corpus` into the existing `directory`."""
    import pyarrow.parquet as pq

    for dataset, name in ((corpus.train, TRAIN_FILE), (corpus.held_out, HELD_OUT_FILE)):
        # An indices mapping (after shuffle or select) would be lost by the table alone.
        with (directory / name).open("wb") as file:  # the library itself takes UTF-8 names alone
            pq.write_table(dataset.with_format("arrow")[:], file)
    (directory / REPORT_FILE).write_text(corpus.report.model_dump_json(indent=1), encoding="utf-8")
    (directory / PAGE_FILE).write_text(corpus.contract_page, encoding="utf-8")


def read_corpus(directory: Path) -> Corpus:
    """Read a corpus that `save_corpus` wrote.

    Raises:
        CorpusError: a file is missing or damaged, or the documents are not the report's.
    """
    directory = Path(directory)
    try:
        report = CorpusReport.model_validate_json(read_bytes(directory / REPORT_FILE))
        train, held_out = (_read_parquet(directory / name) for name in (TRAIN_FILE, HELD_OUT_FILE))
        page = read_text(directory / PAGE_FILE)
    except (InputError, ValidationError) as error:
        # A name that this process cannot write is no fault of the files.
        has_remedy = isinstance(error.__cause__, UnicodeEncodeError)
        remedy = "" if has_remedy else "; remove it and load the corpus again"
        raise CorpusError(
            f"corpus directory {printable(directory)} cannot be read ({one_line(error)}){remedy}"
        ) from error
    for part, dataset, expected in (
        ("train", train, report.train_fingerprint),
        ("held-out", held_out, report.held_out_fingerprint),
    ):
        if fingerprint_of(dataset["document_id"]) != expected:
            raise CorpusError(
                f"corpus directory {directory}: the {part} documents are not those of its report; "
                "remove it and load the corpus again"
            )
    return Corpus(train, held_out, report, page)


def _read_parquet(path: Path) -> datasets.Dataset:
    import datasets
    import pyarrow.parquet as pq

    # Not Dataset.from_parquet, which would copy everything into a cache outside this directory.
    with (
        open_regular(path) as file,
        reading_by_libraries(lambda reason: InputError(f"{path.name}: {reason}")),
    ):
        return datasets.Dataset(pq.read_table(file))
