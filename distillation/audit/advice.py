"""Which aligner the audit advises, by rule from its numbers, and what that choice costs.

The rules, first that holds: one tokenizer on both sides, or ids that mean the same throughout: `pad`, plain
distillation id by id. Student tokens that mostly run past the teacher's: `likelihood`, because a target of
`prefix` there is one chain value and little else. Tokens that nearly always coincide: `shared`, the simplest
sound rule, loses nothing. Everything else: `prefix`.
"""

from __future__ import annotations

from collections.abc import Iterator

from distillation.audit.coverage import IN_A_TEXT, REFUSED_TEXT, CorpusAudit, SliceAudit
from distillation.tokenizers.text_classes import SLICE_NAMES

SAME_IDS = 0.99
"""From this share of right rows, and of teacher tokens whose id means the same, ids can be paired."""
MOSTLY_PAST = 0.5
"""From this share of student tokens that run past the teacher's, targets rest on chain values."""
ENOUGH_SHARED = 0.99
"""From this share of positions in 1:1 groups, `shared` leaves out too little to matter."""
MANY_REFUSED = 0.01
"""From this share of positions in refused texts, the corpus should be mended first."""
LEAST_SLICE = 0.01
"""Slices of fewer positions than this share are not named."""
WORSE = 0.05
"""A slice is named if `shared` leaves out this much more of it than of the whole."""


def advise(identical: bool, corpus: CorpusAudit | None, num_equal: int, num_compared: int) -> tuple[str, str]:
    """Return the aligner (or `likelihood`, a term of the objective) and one sentence that says why.

    Args:
        identical: both tokenizers turn every text into the same ids.
        corpus: what happens on texts, if there are any.
        num_equal: ids that mean the same on both sides.
        num_compared: ids that truncation would pair.
    """
    if identical:
        return (
            "pad",
            "The tokenizers are the same: this is plain distillation id by id (`pad`), to which `prefix` and "
            "`shared` reduce.",
        )
    by_id = f"only {num_equal:,} of {num_compared:,} ids mean the same, so never pair ids"
    if corpus is None or not corpus.num_student_tokens:
        missing = "give texts" if corpus is None else "all texts were refused: give others"
        return "prefix", f"Use `prefix`: {by_id}; {missing} to learn how often the boundaries agree."
    strategy, advice = _by_numbers(corpus, by_id)
    return strategy, advice + _about_refusals(corpus)


def _by_numbers(corpus: CorpusAudit, by_id: str) -> tuple[str, str]:
    right_row = corpus.coverage["truncate"].share_sound
    if min(right_row, corpus.truncate_same_meaning) >= SAME_IDS:
        return "pad", (
            f"Pair ids (`pad`): {_percent(right_row)} of the positions have the right row and "
            f"{_percent(corpus.truncate_same_meaning)} of the teacher's tokens an id that means the same."
        )
    prefix = corpus.coverage["prefix"].share_with_target
    shared = corpus.coverage["shared"].share_with_target
    past = corpus.share_past_teacher_token
    if past >= MOSTLY_PAST:
        return "likelihood", (
            f"Use the term `likelihood`: {_percent(past)} of the student's tokens run past the teacher's, "
            f"where a target of `prefix` is one chain value; it gives no distribution over tokens."
        )
    if shared >= ENOUGH_SHARED:
        return "shared", (
            f"Use `shared`: it leaves out {_percent(1 - shared)} of the student's positions on these texts, "
            f"and is the simplest sound rule; {by_id}."
        )
    where = ", ".join(_worse_slices(corpus, 1 - shared))
    return "prefix", (
        f"Use `prefix`: {_percent(prefix)} of the student's positions get a target, {_percent(past)} of them "
        f"from one chain value; `shared` would leave out {_percent(1 - shared)}"
        f"{f' ({where})' if where else ''}; {by_id}."
    )


def _worse_slices(corpus: CorpusAudit, lost: float) -> Iterator[str]:
    """Name the kind and the script that `shared` leaves out most of, if clearly more than of the whole."""
    for slices in (corpus.kinds, corpus.scripts):
        worst = max(
            ((_lost(one), name) for name, one in slices.items() if one.share_of_positions >= LEAST_SLICE),
            default=(0.0, ""),
        )
        if worst[0] >= lost + WORSE:
            yield f"{_percent(worst[0])} of {SLICE_NAMES.get(worst[1], worst[1])}"


def _lost(one: SliceAudit) -> float:
    return 1 - one.coverage["shared"].share_with_target


def _about_refusals(corpus: CorpusAudit) -> str:
    refused = 1 - corpus.num_student_tokens / corpus.num_positions
    if refused < MANY_REFUSED:
        return ""
    shares = corpus.coverage["prefix"].causes_without_target
    lost = [cause for cause in shares if cause.startswith((REFUSED_TEXT, IN_A_TEXT))]
    worst = max(lost, key=shares.__getitem__)
    return f" First mend the texts: {_percent(refused)} of the positions are lost in them, most by {worst}."


def _percent(share: float) -> str:
    """Return a share in whole per cent, with a digit more where rounding would say all or nothing."""
    if 0 < share < 0.001 or 0.999 < share < 1:
        return "> 99.9 %" if share > 0.5 else "< 0.1 %"
    digits = 1 if 0.99 <= share < 1 or 0 < share < 0.01 else 0
    return f"{100 * share:.{digits}f} %"
