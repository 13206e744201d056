"""Settings of the corpus: where text comes from, how much of it, and what it must satisfy."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field, PositiveInt, field_validator, model_validator

from distillation.config.section import LocalPath, Section, Share

ColumnSource = TypeVar("ColumnSource", "HubSource", "FileSource")


class HubSource(Section):
    """A dataset of the Hugging Face hub, read as Parquet or text files at one pinned revision."""

    kind: Literal["hub"] = "hub"
    path: str
    """Repository of the dataset, for example `Salesforce/wikitext`."""
    name: str | None = None
    """Configuration of the dataset, for example `wikitext-2-raw-v1`."""
    split: str = "train"
    """Split to read; the held-out part is always made from it by content hash."""
    revision: str = "main"
    """Branch, tag or commit. Pin a commit for a result that can be repeated."""
    data_files: tuple[str, ...] = ()
    """Only these files of the repository are fetched; empty means what the configuration names."""
    text_column: str | None = None
    """Column that holds the text; None is `text`."""
    messages_column: str | None = None
    """Column that holds conversations, lists of `role` and `content`, in place of text; see docs/chat.md."""

    @model_validator(mode="after")
    def _one_column(self) -> HubSource:
        return _only_one_column(self)


class FileSource(Section):
    """Local documents: a txt, jsonl or parquet file, the first two also packed, or a folder of them."""

    kind: Literal["file"] = "file"
    path: LocalPath
    """File or folder; hidden files are no part of it."""
    text_column: str | None = None
    """Field that holds the text in jsonl and parquet files; None is `text`."""
    messages_column: str | None = None
    """Field that holds conversations, lists of `role` and `content`, in place of text; see docs/chat.md."""

    @model_validator(mode="after")
    def _one_column(self) -> FileSource:
        return _only_one_column(self)


def _only_one_column(source: ColumnSource) -> ColumnSource:
    """Refuse a source that names a column of text and one of conversations: only one of them is read."""
    if source.messages_column is not None and source.text_column is not None:
        raise ValueError("text_column and messages_column are both set; name one of them")
    return source


class DocumentationSource(Section):
    """Docstrings and language reference of this very Python installation: always there, no network."""

    kind: Literal["documentation"] = "documentation"


HUB_PRESETS: dict[str, dict[str, Any]] = {
    "wikitext": {
        "kind": "hub",
        "path": "Salesforce/wikitext",
        "name": "wikitext-2-raw-v1",
        "revision": "b08601e04326c79dfdd32d625aee71d232d685c3",
    },
    "openwebtext": {
        "kind": "hub",
        "path": "Skylion007/openwebtext",
        "revision": "79d93d786212f7344586290adb811d4ae6a1762c",
        "data_files": ("plain_text/train-00000-of-00080.parquet",),
    },
}
"""Hub datasets that can be named by one word in `corpus.sources`."""


def _expand_source(value: Any) -> Any:
    """Turn the short form of a source, one word, into its settings."""
    if not isinstance(value, str):
        return value
    if value == "documentation":
        return {"kind": "documentation"}
    if value in HUB_PRESETS:
        return HUB_PRESETS[value]
    known = ", ".join(["documentation", *HUB_PRESETS])
    raise ValueError(f"unknown source; use one of {known}, or a mapping with kind: hub or kind: file")


Source = Annotated[
    Annotated[HubSource | FileSource | DocumentationSource, Field(discriminator="kind")],
    BeforeValidator(_expand_source),
]


class ContractSettings(Section):
    """The data contract: what a source must satisfy to be accepted."""

    min_documents: PositiveInt = 20
    """Fewest training documents; a source with fewer is refused."""
    min_held_out_documents: PositiveInt = 2
    """Fewest held-out documents."""
    min_median_characters: PositiveInt = 40
    """Least median length of a document, in characters: catches a wrong text column."""
    max_empty_share: Share = 0.0
    """Largest share of documents without any text left after cleaning."""
    max_duplicate_share: Share = 0.1
    """Largest share of source documents that repeat another one; repeats are dropped in any case."""
    max_left_out_share: Share = 0.1
    """Largest share of a source that cannot be used: of its documents (no JSON, a NUL, ...), of the bytes of
    a folder's files (a suffix that is not read, damage), of its held-out documents (text that a tokenizer
    cannot spell)."""
    max_leaked_share: Share = 0.2
    """A held-out document leaks when more than this share of its long n-grams stands in training ones."""
    max_leaking_documents_share: Share = 0.05
    """Largest share of held-out documents that leak."""
    max_unknown_share: Share = 0.01
    """Largest share of a tokenizer's tokens that stand for text which it cannot spell."""


class CorpusSettings(Section):
    """Where text comes from, how much of it, and what it must satisfy."""

    sources: tuple[Source, ...] = (DocumentationSource(),)
    """Tried in order; the first that loads and passes the contract is used, and the reasons are kept."""
    max_train_bytes: PositiveInt | None = 4_000_000
    """Stop adding training documents at this many UTF-8 bytes. None reads all."""
    max_held_out_bytes: PositiveInt | None = 200_000
    """Likewise for the held-out documents, which decide every comparison."""
    held_out_share: Annotated[float, Field(gt=0.0, lt=0.5)] = 0.05
    """Share of the hash space, so about the share of documents, that is held out."""
    min_document_characters: PositiveInt = 200
    """Shorter documents are dropped while loading."""
    hub_timeout: Annotated[float, Field(gt=0.0, le=60.0)] = 4.0
    """Seconds to wait for the hub's first answer before the next source is tried."""
    contract: ContractSettings = ContractSettings()
    """What a source must satisfy."""

    @field_validator("sources")
    @classmethod
    def _at_least_one(cls, sources: tuple[Source, ...]) -> tuple[Source, ...]:
        if not sources:
            raise ValueError("name at least one source, for example [documentation]")
        return sources
