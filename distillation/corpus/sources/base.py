"""Where documents come from: one iterator for every kind of source.

A source yields documents in an order that is the same on each reading. What it cannot give raises
`CorpusError`, whose message says what is wrong and what to do; the loader puts the source's name before it.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field

from distillation.config import CorpusSettings, FileSource, HubSource, Source
from distillation.corpus.documents import Document
from distillation.corpus.left_out import BadDocumentError, Tally, check_characters
from distillation.corpus.sources.files import iterate_files
from distillation.corpus.sources.hub import iterate_hub
from distillation.hub import HubReach


@dataclass
class SourceNotes:
    """What reading sources found out besides the documents."""

    hub: HubReach
    tally: Tally = field(default_factory=Tally)
    """What the current source gave, and what of it was left out."""


def describe_source(source: Source) -> str:
    """Return the kind and the name of `source`, for messages and reports."""
    if isinstance(source, HubSource):
        name = f"{source.path}/{source.name}" if source.name else source.path
        described = f"hub {name} split {source.split} revision {source.revision}"
    elif isinstance(source, FileSource):
        described = f"file {source.path!r}"
    else:
        return "documentation"
    return described if source.messages_column is None else f"{described} as conversations"


def iterate_source(
    source: Source, settings: CorpusSettings, notes: SourceNotes | None = None
) -> Generator[Document, None, None]:
    """Yield the documents of `source` as they are; nothing is cleaned or dropped here.

    Args:
        source: what to read.
        settings: limits that decide how much of a hub dataset is fetched, and how long the hub is awaited.
        notes: shared by the sources of one corpus, so that the hub is asked once.

    Raises:
        CorpusError: the source is missing, out of reach, empty of readable files, or wrongly described.
    """
    if notes is None:
        notes = SourceNotes(HubReach(settings.hub_timeout))
    if isinstance(source, HubSource):
        yield from iterate_hub(source, settings, notes.hub, notes.tally)
    elif isinstance(source, FileSource):
        yield from iterate_files(source, notes.tally)
    else:
        from distillation.corpus.sources.documentation import iterate_documentation

        for document in iterate_documentation():
            try:
                check_characters(document.text)
            except BadDocumentError as bad:
                notes.tally.leave_out_document(document.origin, bad)
            else:
                notes.tally.num_given += 1
                yield document
