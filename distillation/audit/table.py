"""The tokenizer audit as tables for a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from distillation.audit.audit import TokenizerAudit
from distillation.audit.coverage import AlignerCoverage, CorpusAudit
from distillation.tokenizers.text_classes import SLICE_NAMES

if TYPE_CHECKING:
    from rich.table import Table


def audit_tables(audit: TokenizerAudit) -> list[Table]:
    """Return the pair's table, and with texts those of positions by slice and of causes of loss."""
    tables = [_pair_table(audit)]
    if audit.corpus is not None:
        tables.append(_slice_table(audit.corpus))
        tables.append(_cause_table(audit.corpus))
    return tables


def _pair_table(audit: TokenizerAudit) -> Table:
    table = _table("Tokenizer audit", "", "teacher", "student")
    teacher, student = audit.teacher, audit.student
    table.add_row("family", teacher.family, student.family)
    table.add_row("rows of the output layer", f"{teacher.num_rows:,}", f"{student.num_rows:,}")
    table.add_row(
        "  without a token", f"{teacher.num_rows_without_token:,}", f"{student.num_rows_without_token:,}"
    )
    missing = [f"{len(facts.missing_bytes):,}" for facts in (teacher, student)]
    table.add_row("byte tokens missing, of 256", *missing)
    table.add_section()
    table.add_row("ids that mean the same", "", f"{audit.num_equal_ids:,} of {audit.num_compared_ids:,}")
    table.add_row("strings that both have", "", f"{audit.num_shared_tokens:,}")
    table.add_row("  of these dropped by truncation", "", f"{audit.num_shared_dropped_by_truncation:,}")
    table.add_row("teacher tokens it cannot write", "", f"{audit.num_unwritable_teacher_tokens:,}")
    if audit.corpus is not None:
        table.add_section()
        for row in _corpus_rows(audit.corpus):
            table.add_row(*row)
        table.caption = "* of the tokens that stand in the texts; the mass itself needs the weights"
    return table


def _corpus_rows(corpus: CorpusAudit) -> Iterator[tuple[str, str, str]]:
    numbers = corpus.num_texts, corpus.num_refused_texts, corpus.num_shortened_texts
    yield "texts given / refused / shortened", "", " / ".join(f"{number:,}" for number in numbers)
    yield "tokens of accepted texts", f"{corpus.num_teacher_tokens:,}", f"{corpus.num_student_tokens:,}"
    num_tokens = corpus.num_teacher_tokens, corpus.num_student_tokens
    teacher, student = (corpus.num_bytes / max(number, 1) for number in num_tokens)
    yield "  bytes a token", f"{teacher:.2f}", f"{student:.2f}"
    yield "1:1 groups, of all groups", "", _percent(corpus.one_to_one_group_share)
    yield "white space cut differently", "", _percent(corpus.whitespace_hazard_share)
    yield "proxy of the teacher's mass that is kept*", "", ""
    yield "  prefix: student can begin the token", _percent(corpus.retained_prefix), ""
    yield "  shared: student has the token", _percent(corpus.retained_shared), ""
    yield "  truncate: its id means the same", _percent(corpus.truncate_same_meaning), ""


def _slice_table(corpus: CorpusAudit) -> Table:
    table = _table(
        "Student positions with a target", "text", "positions", "prefix", "shared", "projection", "truncate*"
    )
    table.add_row("all", f"{corpus.num_positions:,}", *_shares(corpus.coverage))
    for slices in (corpus.kinds, corpus.scripts):
        table.add_section()
        for name, one in slices.items():
            table.add_row(SLICE_NAMES.get(name, name), f"{one.num_positions:,}", *_shares(one.coverage))
    table.caption = "* positions with the right row; truncation trains on the others too"
    return table


def _shares(coverage: Mapping[str, AlignerCoverage]) -> list[str]:
    shares = [coverage[name].share_with_target for name in ("prefix", "shared", "projection")]
    return [_percent(share) for share in (*shares, coverage["truncate"].share_sound)]


def _cause_table(corpus: CorpusAudit) -> Table:
    table = _table("Positions without a target, by cause", "cause", "prefix", "shared", "projection")
    names = ("prefix", "shared", "projection")
    causes = {name: corpus.coverage[name].causes_without_target for name in names}
    for cause in dict.fromkeys(cause for found in causes.values() for cause in found):
        table.add_row(
            cause, *(_percent(causes[name][cause]) if cause in causes[name] else "" for name in names)
        )
    return table


def _table(title: str, first: str, *others: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(
        title=title, box=box.SIMPLE_HEAD, title_justify="left", caption_justify="left", pad_edge=False
    )
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _percent(share: float) -> str:
    """Return a share in per cent; one that is not quite all or nothing never reads as if it were."""
    text = f"{100 * share:.1f}"
    if (text == "100.0" and share < 1) or (text == "0.0" and share > 0):
        text = f"{100 * share:.3f}" if 5e-6 < share < 1 - 5e-6 else ("> 99.999" if share > 0.5 else "< 0.001")
    return f"{text} %"
