"""The tokenizer audit: what a pair of tokenizers allows, known before anything is trained.

    python -m distillation.alignment.audit TEACHER STUDENT [TEXT_FILE ...] [--json]

It says how many ids mean the same on both sides (what truncation relies on), how many strings both have
(what `shared` uses), what the student cannot write (what `prefix` puts into its residual), and on given texts
how often the boundaries agree. No weights are needed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from distillation.alignment.coverage import CorpusAudit, audit_texts
from distillation.alignment.pairs import PairEncoder
from distillation.alignment.tables import longest_prefixes, ordinary_tokens, sort_tokens
from distillation.alignment.token_bytes import TokenBytes, same_tokenizer
from distillation.errors import AlignmentError, DistillationError, one_line

if TYPE_CHECKING:
    from rich.table import Table

DOCUMENT_CHARACTERS = 8_000
"""Text files are audited in pieces of about this length, cut at line ends."""
MAX_EXAMPLES = 20


class VocabularyFacts(BaseModel):
    """One tokenizer by itself."""

    model_config = ConfigDict(frozen=True)

    family: str
    num_rows: int
    """Rows of the model's output layer; the number of ids where that is not known."""
    num_tokens: int
    """Ids that have a token, special ones included."""
    num_special_tokens: int
    num_rows_without_token: int
    missing_bytes: tuple[int, ...]
    """Single bytes, of 256, that no token stands for."""


class TokenizerAudit(BaseModel):
    """What a pair of tokenizers allows."""

    model_config = ConfigDict(frozen=True)

    teacher: VocabularyFacts
    student: VocabularyFacts
    identical_tokenizers: bool
    """Both turn every text into the same ids."""
    num_equal_ids: int
    """Ids that mean the same string on both sides."""
    num_compared_ids: int
    """min(U, V): the ids that truncation pairs."""
    equal_ids_share: float
    num_shared_tokens: int
    """Ordinary byte strings that both vocabularies have."""
    num_shared_dropped_by_truncation: int
    """Of those, how many truncation drops because the teacher's id is too large."""
    num_student_only_tokens: int
    """Ordinary byte strings of the student that the teacher lacks."""
    num_unwritable_teacher_tokens: int
    """Ordinary teacher tokens whose first byte the student cannot write: their mass is the residual."""
    unwritable_examples: tuple[str, ...]
    """Some of them, as bytes in hexadecimal."""
    corpus: CorpusAudit | None
    """What happens on the texts; None without texts, or if all were refused."""
    recommended_strategy: str
    advice: str
    """One sentence: which aligner, and why."""


def audit_tokenizers(
    teacher_tokenizer: Any,
    student_tokenizer: Any,
    texts: Iterable[str] = (),
    *,
    num_teacher_rows: int | None = None,
    num_student_rows: int | None = None,
) -> TokenizerAudit:
    """Compare two tokenizers, and what they do with `texts`.

    Args:
        teacher_tokenizer: fast tokenizer of the teacher.
        student_tokenizer: fast tokenizer of the student.
        texts: documents like those that will be trained on.
        num_teacher_rows: U, rows of the teacher's output layer, if it has more than the tokenizer has ids.
        num_student_rows: V, likewise.

    Raises:
        AlignmentError: a tokenizer's tokens cannot be turned into bytes.
    """
    encoder = PairEncoder(teacher_tokenizer, student_tokenizer)
    teacher, student = encoder.teacher_bytes, encoder.student_bytes
    identical = same_tokenizer(teacher_tokenizer, student_tokenizer)
    rows = (num_teacher_rows or len(teacher.table), num_student_rows or len(student.table))
    shared = teacher.canonical_ids.keys() & student.canonical_ids.keys()
    writable = _writable(teacher, student)
    same = _same_meaning(teacher, student)
    ordinary = teacher.lengths > 0
    unwritable = np.flatnonzero(ordinary & ~writable)
    in_student = np.array([token in shared if token else False for token in teacher.table], dtype=bool)
    corpus = audit_texts(
        encoder,
        texts,
        same_meaning_U=same,
        in_student_U=in_student,
        writable_U=writable,
        num_student_rows=rows[1],
    )
    num_compared = min(rows)
    strategy, advice = _advise(identical, corpus, int(same.sum()), num_compared)
    return TokenizerAudit(
        teacher=_facts(teacher, rows[0]),
        student=_facts(student, rows[1]),
        identical_tokenizers=identical,
        num_equal_ids=int(same.sum()),
        num_compared_ids=num_compared,
        equal_ids_share=int(same.sum()) / num_compared,
        num_shared_tokens=len(shared),
        num_shared_dropped_by_truncation=sum(teacher.canonical_ids[token] >= rows[1] for token in shared),
        num_student_only_tokens=len(student.canonical_ids.keys() - shared),
        num_unwritable_teacher_tokens=len(unwritable),
        unwritable_examples=tuple((teacher.table[i] or b"").hex() for i in unwritable[:MAX_EXAMPLES]),
        corpus=corpus,
        recommended_strategy=strategy,
        advice=advice,
    )


def audit_table(audit: TokenizerAudit) -> Table:
    """Return the audit as a table for the terminal."""
    from rich.table import Table

    table = Table(title="Tokenizer audit", show_header=False)
    table.add_column("figure")
    table.add_column("value", justify="right")
    for role, facts in (("teacher", audit.teacher), ("student", audit.student)):
        table.add_row(f"{role}: family", facts.family)
        table.add_row(
            f"{role}: rows / without a token", f"{facts.num_rows:,} / {facts.num_rows_without_token:,}"
        )
        table.add_row(f"{role}: missing byte tokens", f"{len(facts.missing_bytes)} of 256")
    table.add_section()
    table.add_row("equal ids", f"{audit.num_equal_ids:,} of {audit.num_compared_ids:,}")
    table.add_row("strings that both have", f"{audit.num_shared_tokens:,}")
    table.add_row("  of these dropped by truncation", f"{audit.num_shared_dropped_by_truncation:,}")
    table.add_row("teacher tokens the student cannot write", f"{audit.num_unwritable_teacher_tokens:,}")
    if audit.corpus is not None:
        table.add_section()
        for name, value in _corpus_lines(audit.corpus):
            table.add_row(name, value)
    return table


def _corpus_lines(corpus: CorpusAudit) -> Iterator[tuple[str, str]]:
    yield "texts / refused", f"{corpus.num_texts:,} / {corpus.num_refused_texts:,}"
    for cause, number in sorted(corpus.refusals.items()):
        yield f"  refused: {cause}", f"{number:,}"
    yield "teacher / student tokens", f"{corpus.num_teacher_tokens:,} / {corpus.num_student_tokens:,}"
    yield "1:1 groups", f"{corpus.one_to_one_group_share:.1%}"
    yield "student tokens in 1:1 groups", f"{corpus.one_to_one_student_token_share:.1%}"
    yield "white space cut differently", f"{corpus.whitespace_hazard_share:.2%}"
    yield "teacher tokens that the student has", f"{corpus.retained_shared:.1%}"
    yield "  kept by truncation, and meaning the same", f"{corpus.truncate_same_meaning:.1%}"
    for name in ("prefix", "shared", "truncate"):
        coverage = corpus.coverage[name]
        yield (
            f"{name}: positions with a target / right row",
            f"{coverage.share_with_target:.1%} / {coverage.share_sound:.1%}",
        )


def _facts(tokens: TokenBytes, num_rows: int) -> VocabularyFacts:
    num_special = len(tokens.special_ids)
    num_tokens = int(np.count_nonzero(tokens.lengths)) + num_special
    return VocabularyFacts(
        family=tokens.family,
        num_rows=num_rows,
        num_tokens=num_tokens,
        num_special_tokens=num_special,
        num_rows_without_token=num_rows - num_tokens,
        missing_bytes=tuple(byte for byte in range(256) if bytes([byte]) not in tokens.canonical_ids),
    )


def _same_meaning(teacher: TokenBytes, student: TokenBytes) -> np.ndarray:
    """Return bool per teacher id: the student's token of this id is the same string."""
    same = np.zeros(len(teacher.table), dtype=bool)
    for index, (one, other) in enumerate(zip(teacher.table, student.table, strict=False)):
        same[index] = one is not None and one == other
    for text, index in teacher.special_strings.items():
        same[index] = student.special_strings.get(text) == index
    return same


def _writable(teacher: TokenBytes, student: TokenBytes) -> np.ndarray:
    """Return bool per teacher id: some token of the student is a prefix of it."""
    tokens = sort_tokens(ordinary_tokens(teacher.table))
    vocabulary = sort_tokens({index: token for token, index in student.canonical_ids.items()})
    writable = np.zeros(len(teacher.table), dtype=bool)
    writable[tokens.ids] = longest_prefixes(tokens, vocabulary)[tokens.starts] >= 0
    return writable


def _advise(
    identical: bool, corpus: CorpusAudit | None, num_equal: int, num_compared: int
) -> tuple[str, str]:
    if identical:
        return (
            "prefix",
            "The tokenizers are the same: `prefix` and `shared` are plain distillation on every token.",
        )
    by_id = f"only {num_equal:,} of {num_compared:,} ids mean the same, so never pair ids"
    if corpus is None:
        return "prefix", f"Use `prefix`: {by_id}; give texts to learn how often the boundaries agree."
    covered = corpus.one_to_one_student_token_share
    reason = f"`shared` would leave out {1 - covered:.0%} of the student's positions on these texts"
    if corpus.whitespace_hazard_share > 0.02:
        reason += f", {corpus.whitespace_hazard_share:.0%} for white space alone"
    if num_equal > 0.99 * num_compared:
        return (
            "prefix",
            f"Use `prefix`: {reason}; nearly all ids mean the same, so `truncate` is a fair control.",
        )
    return "prefix", f"Use `prefix`: {reason}, and {by_id}."


def _documents(paths: Sequence[Path]) -> Iterator[str]:
    """Yield the files' texts in pieces that end with a line."""
    for path in paths:
        try:
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        except (OSError, UnicodeDecodeError) as error:
            raise AlignmentError(f"text file {path}: {error}; give a UTF-8 text file") from None
        piece, size = [], 0
        for line in lines:
            piece.append(line)
            size += len(line)
            if size >= DOCUMENT_CHARACTERS:
                yield "".join(piece)
                piece, size = [], 0
        if piece:
            yield "".join(piece)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 2 for what the user can mend."""
    parser = argparse.ArgumentParser(prog="python -m distillation.alignment.audit", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("teacher", help="directory or hub repository of the teacher's tokenizer, or `sample`")
    parser.add_argument("student", help="likewise of the student")
    parser.add_argument("texts", nargs="*", type=Path, metavar="TEXT_FILE", help="UTF-8 text files")
    parser.add_argument("--json", action="store_true", help="print JSON in place of a table")
    chosen = parser.parse_args(arguments)
    try:
        from distillation.config import ModelReference
        from distillation.models import load_tokenizer

        teacher = load_tokenizer(ModelReference(path=chosen.teacher), "teacher")
        student = load_tokenizer(ModelReference(path=chosen.student), "student")
        audit = audit_tokenizers(teacher, student, _documents(chosen.texts))
    except DistillationError as error:
        print(one_line(error), file=sys.stderr)
        return 2
    if chosen.json:
        print(audit.model_dump_json(indent=2))
        return 0
    from rich.console import Console

    console = Console()
    console.print(audit_table(audit))
    console.print(audit.advice, highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
