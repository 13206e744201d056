"""Spans against the reference that walks bytes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from alignment_reference import exhaustive, slow_alignment
from hypothesis import given, settings
from hypothesis import strategies as st

from distillation.tokenizers.pairs import EncodedPair, EncodedText
from distillation.tokenizers.spans import Alignment, align_by_index, align_spans, group_ids, group_spans


def encoded(ends: list[int]) -> EncodedText:
    return EncodedText(np.zeros(len(ends), dtype=np.int32), np.array(ends, dtype=np.int32))


def pair_of(teacher: list[int], student: list[int]) -> EncodedPair:
    return EncodedPair(encoded(teacher), encoded(student), max([0, *teacher, *student]))


@st.composite
def windows(draw: st.DrawFn) -> EncodedPair:
    """Two partitions of the same bytes; either may be cut short, as at the end of a window."""
    size = draw(st.integers(1, 40))
    sides = []
    for _ in range(2):
        inner = draw(st.sets(st.integers(1, size - 1), max_size=20)) if size > 1 else set()
        ends = [*sorted(inner), size]
        sides.append(ends[: draw(st.integers(0 if draw(st.booleans()) else len(ends), len(ends)))])
    return pair_of(*sides)


def assert_equals_reference(pairs: list[EncodedPair], alignment: Alignment) -> None:
    for window, pair in enumerate(pairs):
        expected = slow_alignment(pair.teacher.ends.tolist(), pair.student.ends.tolist())
        got = zip(
            alignment.teacher_position_BT[window].tolist(),
            alignment.num_emitted_BT[window].tolist(),
            alignment.num_tail_BT[window].tolist(),
            alignment.is_one_to_one_BT[window].tolist(),
            strict=True,
        )
        rows = list(got)
        assert rows[: len(expected)] == expected
        assert rows[len(expected) :] == [(-1, 0, 0, False)] * (len(rows) - len(expected))


@settings(exhaustive, max_examples=200)
@given(st.lists(windows(), min_size=1, max_size=6))
def test_alignment_equals_reference(pairs: list[EncodedPair]) -> None:
    alignment = align_spans(pairs)
    assert_equals_reference(pairs, alignment)
    assert alignment.teacher_position_BT.dtype == np.int64
    assert alignment.num_emitted_BT.dtype == alignment.num_tail_BT.dtype == np.int32


@pytest.mark.parametrize("shift", [-1, 1])
def test_planted_off_by_one_is_caught(shift: int) -> None:
    pairs = [pair_of([2, 5, 6, 9], [2, 3, 6, 8, 9])]
    alignment = align_spans(pairs)
    assert_equals_reference(pairs, alignment)
    wrong = dataclasses.replace(alignment, teacher_position_BT=alignment.teacher_position_BT + shift)
    with pytest.raises(AssertionError):
        assert_equals_reference(pairs, wrong)


def test_by_hand() -> None:
    # bytes:    0 1 2 3 4 5 6 7 8      teacher |ab|cde|f|ghi|     student |ab|c|def|gh|i|
    alignment = align_spans([pair_of([2, 5, 6, 9], [2, 3, 6, 8, 9])])
    assert alignment.teacher_position_BT.tolist() == [[0, 1, 1, 3, 3]]
    assert alignment.num_emitted_BT.tolist() == [[0, 0, 1, 0, 2]]
    assert alignment.num_tail_BT.tolist() == [[0, 0, 1, 0, 0]]
    assert alignment.is_one_to_one_BT.tolist() == [[True, False, False, False, False]]


def test_equal_partitions_are_the_identity() -> None:
    alignment = align_spans([pair_of([1, 3, 4], [1, 3, 4]), pair_of([2], [2])])
    assert alignment.teacher_position_BT.tolist() == [[0, 1, 2], [0, -1, -1]]
    assert alignment.is_one_to_one_BT.tolist() == [[True, True, True], [True, False, False]]
    assert not alignment.num_emitted_BT.any()


def test_a_cut_teacher_gives_no_target_beyond_its_last_byte() -> None:
    alignment = align_spans([pair_of([2, 4], [2, 3, 6, 7]), pair_of([], [1, 2]), pair_of([3], [])])
    assert alignment.teacher_position_BT[0].tolist() == [0, 1, -1, -1]
    assert (alignment.teacher_position_BT[1:] == -1).all()


def test_no_windows() -> None:
    assert align_spans([]).teacher_position_BT.shape == (0, 0)
    assert len(group_spans([]).window_G) == 0


@settings(exhaustive, max_examples=150)
@given(st.lists(windows(), min_size=1, max_size=5))
def test_groups_partition_the_tokens(pairs: list[EncodedPair]) -> None:
    groups = group_spans(pairs)
    expected = []
    for window, pair in enumerate(pairs):
        teacher, student = pair.teacher.ends.tolist(), pair.student.ends.tolist()
        last = (0, 0)
        for end in sorted(set(teacher) & set(student)):
            here = (teacher.index(end) + 1, student.index(end) + 1)
            expected.append((window, here[0] - last[0], here[1] - last[1]))
            last = here
    columns = (groups.window_G, groups.num_teacher_tokens_G, groups.num_student_tokens_G)
    assert list(zip(*(column.tolist() for column in columns), strict=True)) == expected
    kinds = [groups.count(a, b) for a in "1n" for b in "1n"]
    assert sum(kinds) == len(expected)
    assert kinds[0] == int(align_spans(pairs).is_one_to_one_BT.sum())


@settings(exhaustive, max_examples=150)
@given(st.lists(windows(), min_size=1, max_size=5))
def test_group_of_every_token_equals_reference(pairs: list[EncodedPair]) -> None:
    for got, name in zip(group_ids(pairs), ("student", "teacher"), strict=True):
        longest = max(len(getattr(pair, name).ids) for pair in pairs)
        assert got.dtype == np.int32
        assert got.tolist() == [
            padded + [-1] * (longest - len(padded))
            for padded in (slow_group_ids(pair)[name] for pair in pairs)
        ]
    # Counting members gives the sizes of `group_spans`.
    student_BT, teacher_BS = group_ids(pairs)
    groups = group_spans(pairs)
    for ids, sizes in ((student_BT, groups.num_student_tokens_G), (teacher_BS, groups.num_teacher_tokens_G)):
        counted = [np.bincount(row[row >= 0]) for row in ids]
        assert np.concatenate(counted).tolist() == sizes.tolist()


def slow_group_ids(pair: EncodedPair) -> dict[str, list[int]]:
    sides = {"teacher": pair.teacher.ends.tolist(), "student": pair.student.ends.tolist()}
    shared = sorted(set(sides["teacher"]) & set(sides["student"]))
    return {
        name: [next((g for g, boundary in enumerate(shared) if end <= boundary), -1) for end in ends]
        for name, ends in sides.items()
    }


def test_groups_of_tokens_by_hand() -> None:
    # The second window has nothing in common, the third is empty.
    student_BT, teacher_BS = group_ids(
        [pair_of([2, 5, 6, 9], [2, 3, 6, 8]), pair_of([2], [1, 3]), pair_of([], [])]
    )
    assert student_BT.tolist() == [[0, 1, 1, -1], [-1] * 4, [-1] * 4]
    assert teacher_BS.tolist() == [[0, 1, 1, -1], [-1] * 4, [-1] * 4]
    assert [ids.shape for ids in group_ids([])] == [(0, 0), (0, 0)]


def test_by_index_pairs_positions_by_number() -> None:
    alignment = align_by_index([pair_of([2, 5, 6], [2, 3, 6, 7]), pair_of([1], [1])])
    assert alignment.teacher_position_BT.tolist() == [[0, 1, 2, -1], [0, -1, -1, -1]]
    assert alignment.is_one_to_one_BT.tolist() == [[True, False, False, False], [True, False, False, False]]
    assert not alignment.num_emitted_BT.any()
    assert not alignment.num_tail_BT.any()
