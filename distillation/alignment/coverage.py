"""What two tokenizers do with given texts: how often they agree, and how much each aligner can use.

All shares are by count over the texts. `retained_*` is a proxy for retained probability mass that needs no
weights: the teacher's mass is taken to lie on the tokens that really stand in the texts, each occurrence
counting the same, so it says how often the teacher's likely token can be expressed on the student's side.

Invariants: per aligner, the causes and the share with a target add up to 1; the four kinds of groups add up
to all groups.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

from distillation.alignment.pairs import EncodedPair, PairEncoder
from distillation.alignment.spans import align_by_index, align_spans, group_spans

BATCH_SIZE = 128
WHITESPACE = np.frombuffer(b" \t\n\r\x0b\x0c", dtype=np.uint8)
LEAST_RUN = 2
"""Bytes of white space in a row from which tokenizers begin to cut differently."""


class AlignerCoverage(BaseModel):
    """How many student positions an aligner gives a target, and how many of those targets are right."""

    model_config = ConfigDict(frozen=True)

    share_with_target: float
    """Share of the student's positions that learn from a row of the teacher."""
    share_sound: float
    """Share of the student's positions whose row of the teacher has read the same text, to the byte."""
    causes_without_target: dict[str, float]
    """Cause -> share of the student's positions."""


class CorpusAudit(BaseModel):
    """How two tokenizers cut the same texts."""

    model_config = ConfigDict(frozen=True)

    num_texts: int
    """Texts that were given and not empty of bytes that both read."""
    num_refused_texts: int
    """Texts for which both sides could not be brought to the same bytes."""
    refusals: dict[str, int]
    """Cause -> texts."""
    num_bytes: int
    """UTF-8 bytes of the accepted texts."""
    num_teacher_tokens: int
    num_student_tokens: int
    num_groups: int
    """Stretches between neighbouring shared boundaries."""
    groups: dict[str, int]
    """Teacher:student tokens in a group, `1:1`, `1:n`, `n:1`, `n:m` -> groups."""
    one_to_one_group_share: float
    one_to_one_student_token_share: float
    """Share of the student's tokens that are in 1:1 groups."""
    share_inside_teacher_token: float
    """Share of student positions that begin inside a teacher token."""
    share_past_teacher_token: float
    """Share of student positions whose token runs past the end of the teacher's."""
    whitespace_share: float
    """Share of student positions whose token touches a run of at least two bytes of white space."""
    whitespace_hazard_share: float
    """Share of student positions that do, and are in no 1:1 group: there the tokenizers disagree."""
    retained_shared: float
    """Share of the teacher's tokens in the texts whose byte string the student has as a token."""
    retained_prefix: float
    """Share of the teacher's tokens in the texts that the student can begin to write."""
    retained_truncate: float
    """Share of the teacher's tokens in the texts whose id is kept by truncation."""
    truncate_same_meaning: float
    """Share of the teacher's tokens in the texts whose id is kept *and* means the same string."""
    coverage: dict[str, AlignerCoverage]
    """Aligner -> positions with a target."""


def audit_texts(
    encoder: PairEncoder,
    texts: Iterable[str],
    *,
    same_meaning_U: np.ndarray,
    in_student_U: np.ndarray,
    writable_U: np.ndarray,
    num_student_rows: int,
) -> CorpusAudit | None:
    """Count over `texts`; None if not a single one is accepted.

    Args:
        encoder: encodes with both tokenizers.
        texts: the texts, read in batches.
        same_meaning_U: bool per teacher id: the same id of the student is the same string.
        in_student_U: bool per teacher id: the student has a token of this string.
        writable_U: bool per teacher id: the student can write its beginning.
        num_student_rows: V, what truncation cuts to.
    """
    counts: Counter[str] = Counter()
    batch: list[str] = []
    for text in texts:
        counts["texts"] += 1
        batch.append(text)
        if len(batch) == BATCH_SIZE:
            _count_batch(counts, encoder, batch, same_meaning_U, in_student_U, writable_U, num_student_rows)
            batch = []
    _count_batch(counts, encoder, batch, same_meaning_U, in_student_U, writable_U, num_student_rows)
    return _summarise(counts, dict(encoder.refusals)) if counts["positions"] else None


def _count_batch(
    counts: Counter[str],
    encoder: PairEncoder,
    texts: Sequence[str],
    same_meaning_U: np.ndarray,
    in_student_U: np.ndarray,
    writable_U: np.ndarray,
    num_student_rows: int,
) -> None:
    pairs = [pair for pair in encoder.encode(texts) if pair is not None]
    if not pairs:
        return
    counts["bytes"] += sum(pair.num_bytes for pair in pairs)
    teacher_ids = np.concatenate([pair.teacher.ids for pair in pairs])
    counts["teacher_tokens"] += len(teacher_ids)
    counts["retained_shared"] += int(in_student_U[teacher_ids].sum())
    counts["retained_prefix"] += int(writable_U[teacher_ids].sum())
    counts["retained_truncate"] += int((teacher_ids < num_student_rows).sum())
    counts["same_meaning"] += int(same_meaning_U[teacher_ids].sum())
    groups = group_spans(pairs)
    counts["groups"] += len(groups.window_G)
    for teacher, student in (("1", "1"), ("1", "n"), ("n", "1"), ("n", "n")):
        counts[f"{teacher}:{student}"] += groups.count(teacher, student)
    _count_positions(counts, encoder, pairs)


def _count_positions(counts: Counter[str], encoder: PairEncoder, pairs: Sequence[EncodedPair]) -> None:
    spans, by_index = align_spans(pairs), align_by_index(pairs)
    num_tokens = np.array([len(pair.student.ids) for pair in pairs])
    real_BT = np.arange(spans.teacher_position_BT.shape[1]) < num_tokens[:, None]
    reached_BT = spans.teacher_position_BT >= 0
    at_boundary_BT = reached_BT & (spans.num_emitted_BT == 0)
    one_to_one_BT = spans.is_one_to_one_BT
    same_row_BT = at_boundary_BT & (by_index.teacher_position_BT == spans.teacher_position_BT)
    for name, mask_BT in {
        "positions": real_BT,
        "one_to_one": one_to_one_BT,
        "reached": reached_BT,
        "inside": reached_BT & ~at_boundary_BT,
        "past": spans.num_tail_BT > 0,
        "ends_differ": at_boundary_BT & ~one_to_one_BT,
        "by_index": by_index.teacher_position_BT >= 0,
        "same_row": same_row_BT,
    }.items():
        counts[name] += int(mask_BT.sum())
    for window, pair in enumerate(pairs):
        touches = _touches_whitespace_run(encoder.student_bytes.join(pair.student.ids), pair.student.ends)
        counts["whitespace"] += int(touches.sum())
        counts["hazard"] += int((touches & ~one_to_one_BT[window, : len(touches)]).sum())


def _touches_whitespace_run(content: bytes, ends: np.ndarray) -> np.ndarray:
    """Return for each token whether it has a byte in a run of at least LEAST_RUN bytes of white space."""
    is_space = np.isin(np.frombuffer(content, dtype=np.uint8), WHITESPACE)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], is_space, [False]])))
    starts, stops = edges[::2], edges[1::2]
    long_enough = stops - starts >= LEAST_RUN
    in_run = np.zeros(len(content) + 1, dtype=np.int64)
    in_run[starts[long_enough]] += 1
    in_run[stops[long_enough]] -= 1
    before = np.concatenate([[0], np.cumsum(np.cumsum(in_run[:-1]))])
    return before[ends] > before[np.concatenate([[0], ends[:-1]])]


def _summarise(counts: Counter[str], refusals: dict[str, int]) -> CorpusAudit:
    positions, teacher_tokens = counts["positions"], counts["teacher_tokens"]

    def share(name: str, total: int = positions) -> float:
        return counts[name] / total if total else 0.0

    beyond = 1.0 - share("reached")
    by_index = AlignerCoverage(
        share_with_target=share("by_index"),
        share_sound=share("same_row"),
        causes_without_target={"more student tokens than teacher tokens": 1.0 - share("by_index")},
    )
    coverage = {
        "prefix": AlignerCoverage(
            share_with_target=share("reached"),
            share_sound=share("reached"),
            causes_without_target={"beyond the teacher's tokens": beyond},
        ),
        "shared": AlignerCoverage(
            share_with_target=share("one_to_one"),
            share_sound=share("one_to_one"),
            causes_without_target={
                "begins inside a teacher token": share("inside"),
                "begins with a teacher token and ends elsewhere": share("ends_differ"),
                "beyond the teacher's tokens": beyond,
            },
        ),
        "truncate": by_index,
        "pad": by_index,
    }
    return CorpusAudit(
        num_texts=counts["texts"],
        num_refused_texts=sum(refusals.values()),
        refusals=refusals,
        num_bytes=counts["bytes"],
        num_teacher_tokens=teacher_tokens,
        num_student_tokens=positions,
        num_groups=counts["groups"],
        groups={"1:1": counts["1:1"], "1:n": counts["1:n"], "n:1": counts["n:1"], "n:m": counts["n:n"]},
        one_to_one_group_share=share("1:1", counts["groups"]),
        one_to_one_student_token_share=share("one_to_one"),
        share_inside_teacher_token=share("inside"),
        share_past_teacher_token=share("past"),
        whitespace_share=share("whitespace"),
        whitespace_hazard_share=share("hazard"),
        retained_shared=share("retained_shared", teacher_tokens),
        retained_prefix=share("retained_prefix", teacher_tokens),
        retained_truncate=share("retained_truncate", teacher_tokens),
        truncate_same_meaning=share("same_meaning", teacher_tokens),
        coverage=coverage,
    )
