"""From an ordered list of sources to a corpus that satisfies the data contract.

Each source is read until both parts have their bytes, cleaned, split by content, decontaminated and judged.
The first that passes is used; why the others did not is logged once and kept in the report.

Invariants: a document's part depends on its text alone, so other documents never move it across; no text is
in a corpus twice; the same source gives the same corpus. A document is cut only where it is by itself larger
than its part may be and the part would else be empty; it then stays in the part of the whole document.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from distillation.config import CorpusSettings, Source
from distillation.corpus.contract import check_contract
from distillation.corpus.corpus import Corpus, CorpusReport, dataset_of, fingerprint_of
from distillation.corpus.documents import Document, is_held_out
from distillation.corpus.left_out import MAX_PLACES, LeftOut
from distillation.corpus.ngrams import find_contaminated, measure_overlap
from distillation.corpus.sources.base import SourceNotes, describe_source, iterate_source
from distillation.corpus.statistics import CorpusStatistics, measure_documents, measure_unknown_shares
from distillation.errors import CorpusError, one_line, shorten
from distillation.hub import HubReach
from distillation.tokenizers.chat import ANSWERING
from distillation.tokenizers.spelling import are_spelled

logger = logging.getLogger(__name__)

_FULL_SHARE = 0.9
"""From this share of its limit on, a part that the next document would overflow counts as full."""
_MAX_OVERFLOWS = 20
"""So does a part that this many documents were too long for: smaller ones are rare in this source."""
_QUANTILES = {"5%": 0.05, "50%": 0.5, "95%": 0.95}


def load_corpus(settings: CorpusSettings, tokenizers: Mapping[str, Any]) -> Corpus:
    """Return the corpus of the first source that loads and passes the contract.

    Args:
        settings: sources in order, limits, contract.
        tokenizers: by role, for example teacher and student; the contract looks for unknown tokens of each.

    Raises:
        CorpusError: no source passes; one line with the reason of each.
    """
    reach = HubReach(settings.hub_timeout)
    reasons: list[str] = []
    for index, source in enumerate(settings.sources):
        name = f"corpus.sources[{index}] = {describe_source(source)}"
        try:
            return _load_source(source, settings, tokenizers, reach, tuple(reasons))
        except CorpusError as error:
            reasons.append(f"{name}: {one_line(error)}")
            if index + 1 < len(settings.sources):
                logger.warning("%s; trying the next source", reasons[-1])
    # Whoever names texts wants these, not others; whoever names the hub may be without a network.
    if all(source.kind == "hub" for source in settings.sources):
        reasons[-1] += "; to train on other text meanwhile, name documentation as the last source"
    raise CorpusError(" | ".join(reasons))


def _load_source(
    source: Source,
    settings: CorpusSettings,
    tokenizers: Mapping[str, Any],
    reach: HubReach,
    fallback_reasons: tuple[str, ...],
) -> Corpus:
    notes = SourceNotes(reach)
    intake = _read_documents(source, settings, notes)
    train, read_held_out = intake.train.finish(), intake.held_out.finish()
    held_out, unspelled = _leave_out_unspelled(read_held_out, tokenizers)
    unusable = (*notes.tally.entries.values(), *unspelled)
    for one in unusable:
        logger.warning("%s: left out %s", describe_source(source), one.describe())
    _check_roles(source, [*train, *read_held_out])
    if not train:
        raise CorpusError(_why_empty(intake, settings) + _left_out_note(unusable))
    overlap = measure_overlap([one.text for one in train], [one.text for one in held_out])
    is_dropped = find_contaminated(overlap, settings.contract.max_leaked_share)
    kept = [document for document, dropped in zip(train, is_dropped, strict=True) if not dropped]
    leaked = overlap.leaked_shares(~is_dropped)
    statistics = CorpusStatistics(
        measure_documents(kept, held_out, leaked),
        duplicate_share=intake.num_duplicates / max(intake.num_duplicates + len(intake.seen), 1),
        unknown_shares=measure_unknown_shares(tokenizers, [*kept, *read_held_out]),
        left_out_shares=notes.tally.shares()
        | {"held_out": 1.0 - len(held_out) / len(read_held_out) if read_held_out else 0.0},
    )
    contract, page = check_contract(statistics, settings.contract, describe_source(source))
    if not contract.success:
        raise CorpusError(contract.reason() + _dropped_note(intake, settings) + _left_out_note(unusable))
    report = CorpusReport(
        source=describe_source(source),
        source_kind=source.kind,
        fallback_reasons=fallback_reasons,
        num_documents_read=intake.num_read,
        num_short_dropped=intake.num_short,
        num_duplicates_dropped=intake.num_duplicates,
        num_contaminated_dropped=int(is_dropped.sum()),
        num_train_documents=len(kept),
        num_held_out_documents=len(held_out),
        train_bytes=sum(_num_bytes(document.text) for document in kept),
        held_out_bytes=sum(_num_bytes(document.text) for document in held_out),
        duplicate_share=statistics.duplicate_share,
        leaked_share=float(leaked.mean()) if len(leaked) else 0.0,
        unknown_shares=statistics.unknown_shares,
        character_quantiles=_quantiles([*kept, *held_out]),
        train_fingerprint=fingerprint_of(document.document_id for document in kept),
        held_out_fingerprint=fingerprint_of(document.document_id for document in held_out),
        checks=contract.checks,
        is_read_to_end=intake.is_at_end,
        left_out=(*unusable, *_sorted_out(intake, settings, int(is_dropped.sum()), notes.tally.unopened)),
    )
    return Corpus(dataset_of(kept), dataset_of(held_out), report, page)


@dataclass
class _Part:
    """Documents of one part, up to its limit in bytes."""

    limit: int | None
    documents: list[Document] = field(default_factory=list)
    num_bytes: int = 0
    num_overflows: int = 0
    num_passed_over: int = 0
    """Documents of this part that its limit left no room for."""
    is_full: bool = False
    oversized: Document | None = None

    @property
    def is_nearly_full(self) -> bool:
        return self.limit is not None and self.num_bytes >= _FULL_SHARE * self.limit

    def add(self, document: Document) -> None:
        num_bytes = _num_bytes(document.text)
        if self.is_full:
            self.num_passed_over += 1
        elif self.limit is not None and num_bytes > self.limit:
            self.num_passed_over += 1
            self.oversized = self.oversized or document
        elif self.limit is not None and self.num_bytes + num_bytes > self.limit:
            # One long document must not end a part that is still far from its limit.
            self.num_passed_over += 1
            self.num_overflows += 1
            self.is_full = self.is_nearly_full or self.num_overflows >= _MAX_OVERFLOWS
        else:
            self.documents.append(document)
            self.num_bytes += num_bytes

    def finish(self) -> list[Document]:
        """Return the documents; where there are none, the first oversized one, cut at a character.

        A conversation is not cut: what is lost might be the answer.
        """
        if self.documents or self.oversized is None or self.limit is None or self.oversized.messages:
            return self.documents
        text = self.oversized.text.encode()[: self.limit].decode("utf-8", errors="ignore")
        return [Document(text, self.oversized.origin)]


@dataclass
class _Intake:
    """What one source gave."""

    train: _Part
    held_out: _Part
    seen: set[bytes] = field(default_factory=set)
    num_read: int = 0
    num_short: int = 0
    num_duplicates: int = 0
    is_at_end: bool = True
    """Whether the source was read to its end."""


def _read_documents(source: Source, settings: CorpusSettings, notes: SourceNotes) -> _Intake:
    """Read until both parts are full or the source ends; one full part does not starve the other."""
    intake = _Intake(_Part(settings.max_train_bytes), _Part(settings.max_held_out_bytes))
    with contextlib.closing(iterate_source(source, settings, notes)) as documents:
        for raw in documents:
            intake.num_read += 1
            document = raw.with_plain_line_ends()
            if len(document.text) < settings.min_document_characters:
                intake.num_short += 1
                continue
            key = bytes.fromhex(document.document_id)
            if key in intake.seen:
                intake.num_duplicates += 1
                continue
            intake.seen.add(key)
            is_for_measuring = is_held_out(document.document_id, settings.held_out_share)
            (intake.held_out if is_for_measuring else intake.train).add(document)
            # Held-out documents are few: waiting for the last one of them may take many more of the others.
            if intake.train.is_full and (intake.held_out.is_full or intake.held_out.is_nearly_full):
                intake.is_at_end = False
                break
    return intake


def _leave_out_unspelled(
    held_out: Sequence[Document], tokenizers: Mapping[str, Any]
) -> tuple[list[Document], list[LeftOut]]:
    """Return the documents that all tokenizers spell as a whole, and what is left out by whose fault.

    Every model is measured on the same text, and none on text of which it was shown less.
    """
    left_out = []
    kept = list(held_out)
    for name, tokenizer in tokenizers.items():
        spelled = are_spelled(tokenizer, [document.text for document in kept])
        bad = [document for document, is_spelled in zip(kept, spelled, strict=True) if not is_spelled]
        if bad:
            cause = (
                f"held out, {len(bad) / len(held_out):.1%} of all that are, but the {name}'s tokenizer "
                "cannot spell the whole text, so that its bits per byte would be too few"
            )
            places = tuple(document.origin for document in bad[:MAX_PLACES])
            left_out.append(LeftOut(what="documents", cause=cause, count=len(bad), places=places))
        kept = [document for document, is_spelled in zip(kept, spelled, strict=True) if is_spelled]
    return kept, left_out


def _check_roles(source: Source, documents: Sequence[Document]) -> None:
    """Check that conversations hold what is trained on, before anything else is done with them.

    Raises:
        CorpusError: no message is an answer.
    """
    column = getattr(source, "messages_column", None)
    if column is None or not documents:
        return
    roles: Counter[str] = Counter()
    for document in documents:
        roles.update(message["role"] for message in json.loads(document.messages or "[]"))
        if roles[ANSWERING]:
            return
    found = shorten(", ".join(sorted(roles)), 80) or "none"
    raise CorpusError(
        f"messages_column = {column!r}: no message has the role {ANSWERING}; the roles are {found}; "
        f"rename the role of the answers to {ANSWERING}"
    )


def _num_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _quantiles(documents: list[Document]) -> dict[str, float]:
    lengths = [len(document.text) for document in documents]
    return {name: float(np.quantile(lengths, share)) for name, share in _QUANTILES.items()}


def _why_empty(intake: _Intake, settings: CorpusSettings) -> str:
    if not intake.num_read:
        return "the source holds no document; give one that does"
    return "no training document" + (
        _dropped_note(intake, settings) or f" among {intake.num_read} documents; give more documents"
    )


def _dropped_note(intake: _Intake, settings: CorpusSettings) -> str:
    """Say how many documents were too short, where that may be the cause."""
    if not intake.num_short:
        return ""
    return (
        f"; {intake.num_short} of {intake.num_read} documents have fewer than "
        f"corpus.min_document_characters = {settings.min_document_characters} characters"
    )


def _left_out_note(unusable: Sequence[LeftOut]) -> str:
    """Say what could not be used, and where the first of it stands."""
    return f"; left out: {'; '.join(one.describe() for one in unusable)}" if unusable else ""


def _sorted_out(
    intake: _Intake, settings: CorpusSettings, num_contaminated: int, unopened: LeftOut | None
) -> Iterator[LeftOut]:
    """Yield what settings left out of a source that is used."""
    counts = {
        f"shorter than corpus.min_document_characters = {settings.min_document_characters}": intake.num_short,
        "repeats of an earlier one": intake.num_duplicates,
        "shared with held-out ones beyond corpus.contract.max_leaked_share": num_contaminated,
        f"beyond corpus.max_train_bytes = {settings.max_train_bytes}": intake.train.num_passed_over,
        f"beyond corpus.max_held_out_bytes = {settings.max_held_out_bytes}": intake.held_out.num_passed_over,
    }
    for cause, count in counts.items():
        if count:
            yield LeftOut(what="documents", cause=cause, count=count, by_setting=True)
    if unopened is not None and unopened.count:
        cause = "not needed, as corpus.max_train_bytes and corpus.max_held_out_bytes were reached"
        yield unopened.model_copy(update={"cause": cause})
