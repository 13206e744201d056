"""What must hold of every pair, alignment and cut, said in bytes; each check raises AssertionError.

The fast functions are called through their modules, so that a test can plant a fault there and see these
checks find it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from alignment_reference import slow_alignment

from distillation.tokenizers import cutting, pairs, spans
from distillation.tokenizers.pairs import EncodedPair, EncodedText, PairEncoder

Table = Mapping[int, bytes]


def check_text(
    encoder: PairEncoder,
    tables: tuple[Table, Table],
    text: str,
    expected: str | None,
    *,
    max_tokens: int = 5,
    must_accept: bool = False,
) -> EncodedPair | None:
    """Encode `text` and check all that follows from it; return the pair, None if it was refused or shortened.

    Args:
        encoder: of the two tokenizers.
        tables: id -> bytes of teacher and student, by a second way.
        text: any string.
        expected: what both sides read of it; None if there is no such text.
        max_tokens: where pieces and windows are cut.
        must_accept: a refusal is a failure.
    """
    before = encoder.refusals.total()
    [pair] = encoder.encode([text])
    assert encoder.refusals.total() == before + (pair is None), "each refusal is counted once"
    if pair is None:
        assert not must_accept, f"{text!r} was refused: {dict(encoder.refusals)}"
        return None
    if pair.losses is not None:
        assert not must_accept, f"{text!r} was shortened: {pair.losses}"
        check_shortened(encoder, pair.losses.text, pair)
        return None
    assert expected is not None, f"{text!r} cannot be read by both"
    check_bytes(pair, tables, expected)
    teacher_end = min(max_tokens, len(pair.teacher.ids))
    student_end = max(len(pair.student.ids) - max_tokens // 2, 1)
    batch = [
        pair,
        # A model's window ends where its own tokens end, so the two sides end at different bytes.
        EncodedPair(_first(pair.teacher, teacher_end), pair.student, pair.num_bytes),
        EncodedPair(pair.teacher, _first(pair.student, student_end), pair.num_bytes),
        *check_pieces(pair, max_tokens)[:2],
    ]
    check_alignment(batch, spans.align_spans(batch))
    check_groups(batch)
    return pair


def check_shortened(encoder: PairEncoder, text: str, pair: EncodedPair) -> bytes:
    """What is kept is the same bytes on both sides, parts of the text in order; the rest has no bytes."""
    kept = []
    for tokens, side in ((encoder.teacher_bytes, pair.teacher), (encoder.student_bytes, pair.student)):
        has_bytes = side.ends > side.begins
        assert np.array_equal((side.ends - side.begins)[has_bytes], tokens.lengths[side.ids][has_bytes])
        kept.append(tokens.join(side.ids[has_bytes]))
    assert kept[0] == kept[1]
    assert len(kept[0]) == pair.num_bytes == pair.teacher.ends[-1] == pair.student.ends[-1]
    assert np.array_equal(pair.trained, pair.student.ends > pair.student.begins)
    rest = iter(b" " + text.encode())
    assert all(byte in rest for byte in kept[0]), "what is kept stands in the text, in this order"
    check_alignment_without_lost(pair)
    return kept[0]


def check_alignment_without_lost(pair: EncodedPair) -> None:
    found = spans.align_spans([pair])
    assert np.array_equal(found.teacher_position_BT[0] >= 0, pair.trained)
    rows = found.teacher_position_BT[0][pair.trained]
    assert (pair.teacher.ends > pair.teacher.begins)[rows].all(), "no target from a token that is lost"


def check_bytes(pair: EncodedPair, tables: tuple[Table, Table], expected: str) -> None:
    """Both sides partition the same bytes: those of `expected`, or with one space in front."""
    content = b"".join(tables[0][index] for index in pair.teacher.ids.tolist())
    wanted = expected.encode()
    assert content in (wanted, b" " + wanted), f"{content!r} is not {wanted!r}"
    assert pair.num_bytes == len(content)
    for side, table in zip((pair.teacher, pair.student), tables, strict=True):
        assert side.ids.dtype == side.ends.dtype == np.int32
        ends = side.ends.tolist()
        begins = [0, *ends[:-1]]
        assert side.begins.tolist() == begins
        assert ends[-1] == pair.num_bytes
        for index, begin, end in zip(side.ids.tolist(), begins, ends, strict=True):
            assert begin < end, "ends must grow"
            assert content[begin:end] == table[index]


def check_alignment(batch: Sequence[EncodedPair], alignment: spans.Alignment) -> None:
    """Each position has the row whose token covers its first byte, and no other position has one."""
    columns = [
        column.tolist()
        for column in (
            alignment.teacher_position_BT,
            alignment.num_emitted_BT,
            alignment.num_tail_BT,
            alignment.is_one_to_one_BT,
        )
    ]
    longest = max(len(pair.student.ids) for pair in batch)
    for window, pair in enumerate(batch):
        teacher, student = pair.teacher.ends.tolist(), pair.student.ends.tolist()
        rows = list(zip(*(column[window] for column in columns), strict=True))
        padding = [(-1, 0, 0, False)] * (longest - len(student))
        assert rows == slow_alignment(teacher, student) + padding
        _check_causal_shift(teacher, student, rows[: len(student)])


def _check_causal_shift(
    teacher: list[int], student: list[int], rows: list[tuple[int, int, int, bool]]
) -> None:
    partners = []
    for begin, end, (row, emitted, tail, is_one_to_one) in zip([0, *student], student, rows, strict=False):
        if row < 0:
            assert not teacher or end > teacher[-1], "a position that the teacher covers must have a row"
            continue
        begin_teacher = teacher[row - 1] if row else 0
        assert begin_teacher <= begin < teacher[row], "the row's token must cover the position's first byte"
        assert emitted == begin - begin_teacher
        last = row + tail
        assert (teacher[last - 1] if last else 0) < end <= teacher[last], "the tail must reach the last byte"
        if is_one_to_one:
            assert (begin, end) == (begin_teacher, teacher[row])
            partners.append(row)
    assert len(partners) == len(set(partners)), "a row is the one-to-one partner of one position at most"


def check_groups(batch: Sequence[EncodedPair]) -> None:
    """Groups partition both token lists up to the last shared boundary, and are the same bytes."""
    groups = spans.group_spans(batch)
    student_BT, teacher_BS = (ids.tolist() for ids in spans.group_ids(batch))
    sizes: list[list[tuple[int, int]]] = [[] for _ in batch]
    for window, *pair_of_sizes in zip(
        groups.window_G.tolist(),
        groups.num_teacher_tokens_G.tolist(),
        groups.num_student_tokens_G.tolist(),
        strict=True,
    ):
        sizes[window].append(tuple(pair_of_sizes))
    for window, pair in enumerate(batch):
        teacher, student = pair.teacher.ends.tolist(), pair.student.ends.tolist()
        teacher_at = student_at = 0
        for group, (num_teacher, num_student) in enumerate(sizes[window]):
            members_teacher = teacher_BS[window][teacher_at : teacher_at + num_teacher]
            members_student = student_BT[window][student_at : student_at + num_student]
            assert members_teacher == [group] * num_teacher != []
            assert members_student == [group] * num_student != []
            inner = set(teacher[teacher_at : teacher_at + num_teacher - 1])
            assert not inner & set(student[student_at : student_at + num_student - 1]), "groups are minimal"
            teacher_at, student_at = teacher_at + num_teacher, student_at + num_student
            assert teacher[teacher_at - 1] == student[student_at - 1]
        assert not set(teacher[teacher_at:]) & set(student[student_at:])
        for ids, at in ((teacher_BS[window], teacher_at), (student_BT[window], student_at)):
            assert set(ids[at:]) <= {-1}


def check_pieces(pair: EncodedPair, max_tokens: int) -> list[EncodedPair]:
    """Pieces are the longest stretches between shared boundaries that fit, in order; returns them."""
    pieces = list(cutting.cut_pair(pair, max_tokens))
    expected = slow_cuts(pair.teacher.ends.tolist(), pair.student.ends.tolist(), max_tokens)
    assert len(pieces) == len(expected)
    for piece, (teacher, student) in zip(pieces, expected, strict=True):
        begin_byte = int(pair.teacher.begins[teacher.start])
        assert begin_byte == pair.student.begins[student.start]
        for whole, part, stretch in (
            (pair.teacher, piece.teacher, teacher),
            (pair.student, piece.student, student),
        ):
            assert part.ids.tolist() == whole.ids[stretch].tolist()
            assert part.ends.tolist() == (whole.ends[stretch] - begin_byte).tolist()
            assert 0 < len(part.ids) <= max_tokens
            assert part.ends[-1] == piece.num_bytes
    return pieces


def slow_cuts(teacher: list[int], student: list[int], max_tokens: int) -> list[tuple[slice, slice]]:
    """Return the tokens of each piece: from a shared boundary to the last one that fits."""
    cuts = [(0, 0)] + [(teacher.index(end) + 1, student.index(end) + 1) for end in teacher if end in student]
    result = []
    here = 0
    while here + 1 < len(cuts):
        there = here
        while there + 1 < len(cuts) and _tokens_between(cuts[here], cuts[there + 1]) <= max_tokens:
            there += 1
        if there > here:
            (teacher_begin, student_begin), (teacher_end, student_end) = cuts[here], cuts[there]
            result.append((slice(teacher_begin, teacher_end), slice(student_begin, student_end)))
        # A stretch that does not fit alone is left out.
        here = max(there, here + 1)
    return result


def _tokens_between(one: tuple[int, int], other: tuple[int, int]) -> int:
    return max(other[0] - one[0], other[1] - one[1])


def _first(text: EncodedText, num_tokens: int) -> EncodedText:
    return EncodedText(text.ids[:num_tokens], text.ends[:num_tokens])


def fixpoint(content_of: Sequence[object], text: str) -> str | None:
    """Return the text that no reading rule changes; None if there is none soon, or it is empty."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return None
    for _ in range(pairs.MAX_ROUNDS):
        changed = text
        for content in content_of:
            changed = content(changed)  # type: ignore[operator]
        if changed == text:
            return text or None
        text = changed
    return None
