"""The tokenizer audit for people: a sentence, figures and all measures, as a page or as a part of one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from distillation.report import figures as draw
from distillation.report.facts import facts
from distillation.report.templating import figure_entry, render_page
from distillation.report.words import MISSING, SPACE, percent, scaled
from distillation.tokenizers.text_classes import SLICE_NAMES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from distillation.audit.audit import TokenizerAudit
    from distillation.audit.coverage import AlignerCoverage, CorpusAudit, SliceAudit

GROUP_KINDS = ("1:1", "1:n", "n:1", "n:m")
"""Teacher's to student's tokens between neighbouring shared boundaries."""
RETAINED = {
    "retained_prefix": "student can begin it",
    "retained_shared": "student has the string",
    "retained_truncate": "id kept by truncation",
    "truncate_same_meaning": "id kept, same string",
}
SERIES = {
    "prefix": draw.COLOURS["distilled"],
    "shared": "#e69f00",
    "projection": draw.COLOURS["teacher"],
    "truncate": "#cc79a7",
}
"""Aligners of the figures by slice; of truncation, what has the right row."""
SLICE_COLUMNS = (
    "",
    "Share of positions",
    "Prefix",
    "Shared",
    "Projection",
    "Truncate, right row",
    "Same string",
)
MIN_DRAWN = 0.001
"""Scripts of fewer positions than this share are left to the table."""
MIN_HAZARD = 0.02
"""White space that is cut differently from this share of positions on deserves a word."""


def audit_page(audit: TokenizerAudit, *, title: str = "Tokenizer audit") -> str:
    """Return the audit as one self-contained HTML page."""
    return render_page("audit.html", title=title, audit=audit_summary(audit))


def audit_summary(audit: TokenizerAudit) -> dict[str, Any]:
    """Return what the templates show of an audit: `sentence`, `details`, `warnings`, `figures`, `facts`."""
    return {
        "sentence": audit_sentence(audit),
        "details": _details(audit),
        "warnings": _warnings(audit),
        "figures": _figures(audit),
        "slice_columns": SLICE_COLUMNS,
        "slices": _slices(audit.corpus) if audit.corpus is not None else [],
        "causes": _causes(audit.corpus) if audit.corpus is not None else [],
        "facts": facts(audit.model_dump(mode="json", exclude={"corpus": {"kinds", "scripts"}})),
    }


def audit_sentence(audit: TokenizerAudit) -> str:
    """Return what the pair allows, in one sentence."""
    if audit.identical_tokenizers:
        return "Teacher and student use the same tokenizer."
    equal = f"{audit.num_equal_ids:,} of {audit.num_compared_ids:,} ids mean the same string on both sides"
    if audit.corpus is None:
        return f"{equal}; both vocabularies have {audit.num_shared_tokens:,} strings."
    share = percent(audit.corpus.one_to_one_student_token_share)
    return f"{equal}, yet {share} of the student's tokens match a teacher's token byte for byte on this text."


def _slices(corpus: CorpusAudit) -> list[dict[str, Any]]:
    """Return the rows of the table by slice: the whole, the kinds of text, the scripts."""
    whole = [
        percent(1.0, 1),
        *_coverage_cells(corpus.coverage),
        percent(corpus.retained_shared, 1),
    ]
    rows = [{"label": "all text", "is_best": True, "cells": whole}]
    for slices in (corpus.kinds, corpus.scripts):
        rows += [
            {"label": _slice_name(name), "is_best": False, "cells": _cells(one)}
            for name, one in slices.items()
        ]
    return rows


def _cells(one: SliceAudit) -> list[str]:
    kept = percent(one.retained_shared, 1) if one.num_teacher_tokens else MISSING
    return [_share_of_positions(one, 1), *_coverage_cells(one.coverage), kept]


def _coverage_cells(coverage: Mapping[str, AlignerCoverage]) -> list[str]:
    shares = [coverage[name].share_with_target for name in ("prefix", "shared", "projection")]
    return [percent(share, 1) for share in (*shares, coverage["truncate"].share_sound)]


def _share_of_positions(one: SliceAudit, digits: int) -> str:
    least = 10.0 ** -(digits + 2)
    share = percent(max(one.share_of_positions, least), digits)
    return share if one.share_of_positions >= least else f"<{SPACE}{share}"


def _slice_name(name: str) -> str:
    return SLICE_NAMES.get(name, name).replace(" ", SPACE)


def _causes(corpus: CorpusAudit) -> list[tuple[str, str]]:
    """Return why positions have no target, by aligner."""
    rows = []
    for name in SERIES:
        causes = corpus.coverage[name].causes_without_target
        found = [(f"{name}: {cause}", percent(share, 2)) for cause, share in causes.items() if share > 0]
        rows += found or [(name, "none")]
    return rows


def _details(audit: TokenizerAudit) -> list[str]:
    details = [audit.advice.replace("`", "")]
    corpus = audit.corpus
    if corpus is not None:
        details.append(
            f"Read: {corpus.num_texts:,} texts, {scaled(corpus.num_bytes, 'B')}: "
            f"{corpus.num_teacher_tokens:,} teacher tokens "
            f"({corpus.num_bytes / max(corpus.num_teacher_tokens, 1):.2f} bytes each), "
            f"{corpus.num_student_tokens:,} student tokens "
            f"({corpus.num_bytes / max(corpus.num_student_tokens, 1):.2f} bytes each)."
        )
    return details


def _warnings(audit: TokenizerAudit) -> list[str]:
    warnings = []
    corpus = audit.corpus
    if audit.num_unwritable_teacher_tokens:
        warnings.append(
            f"{audit.num_unwritable_teacher_tokens:,} teacher tokens begin with a byte that the student "
            "cannot write: their probability goes to the residual."
        )
    if corpus is not None and corpus.num_refused_texts:
        causes = ", ".join(f"{cause} ({number:,})" for cause, number in corpus.refusals.items())
        warnings.append(f"{corpus.num_refused_texts:,} texts were refused: {causes}.")
    if corpus is not None and corpus.num_shortened_texts:
        warnings.append(
            f"{corpus.num_shortened_texts:,} texts hold a part that one side cannot spell; what stands "
            "around it is lost, and counted among the causes below."
        )
    if corpus is not None and corpus.whitespace_hazard_share >= MIN_HAZARD:
        warnings.append(
            f"White space: at {percent(corpus.whitespace_hazard_share, 1)} of the student's positions the "
            "two cut runs of spaces or line ends differently."
        )
    return warnings


def _figures(audit: TokenizerAudit) -> list[dict[str, Any]]:
    entries = []
    if audit.corpus is not None:
        entries = [
            *_slice_figures(audit.corpus),
            figure_entry(
                _groups(audit.corpus), "Groups between shared boundaries", "1:1 is where both cut alike"
            ),
            figure_entry(
                _coverage(audit.corpus),
                "What each aligner can use",
                "a right row: the teacher has read the same text, to the byte",
            ),
            figure_entry(
                _retained(audit.corpus),
                "The teacher's tokens on the student's side",
                "of those in the text: a proxy of its mass, which needs the weights",
            ),
        ]
    entries.append(
        figure_entry(_vocabulary(audit), "The two vocabularies", "byte strings, special tokens left out")
    )
    return entries


def _slice_figures(corpus: CorpusAudit) -> list[dict[str, Any]]:
    note = "share of all positions in brackets; of truncation, positions with the right row"
    scripts = {name: one for name, one in corpus.scripts.items() if one.share_of_positions >= MIN_DRAWN}
    parts = (("By kind of text", corpus.kinds), ("By script", scripts))
    return [figure_entry(_dots(slices), title, note) for title, slices in parts]


def _dots(slices: Mapping[str, SliceAudit]) -> Figure:
    rows = {}
    for name, one in slices.items():
        shares = {series: one.coverage[series].share_with_target for series in SERIES}
        shares["truncate"] = one.coverage["truncate"].share_sound
        rows[f"{_slice_name(name)} ({_share_of_positions(one, 0)})"] = shares
    return draw.dot_figure(rows, SERIES, "share of the student's positions with a target")


def _groups(corpus: CorpusAudit) -> Figure:
    total = max(corpus.num_groups, 1)
    shares = {kind: corpus.groups.get(kind, 0) / total for kind in GROUP_KINDS}
    return draw.bar_figure(
        shares,
        [percent(share, 1) for share in shares.values()],
        "share of groups (teacher : student tokens)",
        is_share=True,
        colour=draw.COLOURS["distilled"],
    )


def _coverage(corpus: CorpusAudit) -> Figure:
    coverage = {name: corpus.coverage[name] for name in SERIES if name in corpus.coverage}
    return draw.paired_bar_figure(
        {name: (found.share_with_target, found.share_sound) for name, found in coverage.items()},
        ("with a target", "with the right row"),
        "share of the student's positions",
    )


def _retained(corpus: CorpusAudit) -> Figure:
    shares = {name: float(getattr(corpus, field)) for field, name in RETAINED.items()}
    return draw.bar_figure(
        shares,
        [percent(share, 1) for share in shares.values()],
        "share of the teacher's tokens in the text",
        is_share=True,
        colour=draw.COLOURS["teacher"],
    )


def _vocabulary(audit: TokenizerAudit) -> Figure:
    counts = {
        "both have": audit.num_shared_tokens,
        "only the student": audit.num_student_only_tokens,
        "shared, lost by truncation": audit.num_shared_dropped_by_truncation,
        "equal id and string": audit.num_equal_ids,
    }
    return draw.bar_figure(
        {name: float(count) for name, count in counts.items()},
        [f"{count:,}" for count in counts.values()],
        "number of strings",
        colour=draw.COLOURS["untouched"],
    )
