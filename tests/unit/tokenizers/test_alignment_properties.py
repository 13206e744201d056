"""Ten thousand random texts for every tokenizer family, as teacher and as student, against every other."""

from __future__ import annotations

import functools
from collections import Counter

import pytest
from alignment_families import BUILDERS, Variant, all_variants, variants_of
from alignment_properties import check_text, fixpoint
from alignment_reference import exhaustive
from alignment_texts import MARKERS, text_of
from hypothesis import given, settings
from hypothesis import strategies as st

from distillation.tokenizers.pairs import PairEncoder

NUM_EXAMPLES = 10_000
LEAST_ACCEPTED = {"characters": 0.5, "words": 0.3, "sentencepiece_unigram": 0.4}
"""Share of examples that must be aligned rather than refused; 0.7 where the family writes any text."""


@functools.cache
def encoder_of(teacher: int, student: int) -> PairEncoder:
    return PairEncoder(all_variants()[teacher].tokenizer, all_variants()[student].tokenizer)


def check_example(family: str, data: bytes) -> bool:
    """Check one text; the first bytes choose the variant, its partner, the order and the cut."""
    own = all_variants().index(variants_of(family)[data[0] % len(variants_of(family))])
    # Half of the partners write any text, else most texts would be refused; one in eight is itself.
    kind, place = data[1] % 8, data[1] // 8
    other = own if kind == 0 else place % 2 if kind < 5 else place % len(all_variants())
    teacher, student = (own, other) if data[2] % 2 else (other, own)
    sides: tuple[Variant, Variant] = (all_variants()[teacher], all_variants()[student])
    # Few random texts are in the reach of a tokenizer without a way to write any character.
    text = text_of(data[3:], 200 if all(side.is_complete for side in sides) else 245)
    expected = fixpoint([side.content for side in sides], text)
    has_marker = any(marker.strip() in text for marker in MARKERS)
    pair = check_text(
        encoder_of(teacher, student),
        (sides[0].table, sides[1].table),
        text,
        expected,
        max_tokens=1 + data[2] // 2 % 9,
        must_accept=expected is not None and not has_marker and all(side.is_complete for side in sides),
    )
    return pair is not None


@pytest.mark.slow
@pytest.mark.parametrize("family", BUILDERS)
def test_any_text_is_aligned_or_refused(family: str) -> None:
    outcomes: Counter[bool] = Counter()

    @settings(exhaustive, max_examples=NUM_EXAMPLES)
    @given(st.binary(min_size=3, max_size=24))
    def examples(data: bytes) -> None:
        outcomes[check_example(family, data)] += 1

    examples()
    assert outcomes.total() >= NUM_EXAMPLES
    assert outcomes[True] >= LEAST_ACCEPTED.get(family, 0.7) * NUM_EXAMPLES, outcomes
