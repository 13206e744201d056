"""Mass conservation, and plain distillation for equal tokenizers, over random texts of every family.

Two hundred examples per family and strategy, three rows each: a row costs a whole vocabulary.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from alignment_families import BUILDERS, all_variants, variants_of
from alignment_reference import exhaustive
from alignment_texts import text_of
from hypothesis import given, settings
from hypothesis import strategies as st

from distillation.aligners.base import Aligner, Rows
from distillation.aligners.build import build_aligner
from distillation.tokenizers.pairs import EncodedPair, PairEncoder
from distillation.tokenizers.spans import Alignment

NUM_EXAMPLES = 200
MAX_ROWS = 3
EXTRA_ROWS = 3
"""Output rows without a token on either side."""


@functools.cache
def built(strategy: str, teacher: int, student: int) -> tuple[Aligner, PairEncoder]:
    sides = [all_variants()[index].tokenizer for index in (teacher, student)]
    sizes = [max(tokenizer.get_vocab(True).values()) + 1 + EXTRA_ROWS for tokenizer in sides]
    aligner = build_aligner(
        strategy, sides[0], sides[1], num_teacher_rows=sizes[0], num_student_rows=sizes[1]
    )
    return aligner, PairEncoder(*sides)


def some_rows(pair: EncodedPair, alignment: Alignment, seed: int) -> Rows:
    [used] = np.nonzero(alignment.teacher_position_BT[0] >= 0)
    chosen = np.random.default_rng(seed).permutation(used)[:MAX_ROWS]
    row, tail = alignment.teacher_position_BT[0, chosen], alignment.num_tail_BT[0, chosen]
    return Rows(
        torch.tensor(pair.teacher.ids[row].astype(np.int64)),
        torch.tensor(pair.student.ids[chosen].astype(np.int64)),
        torch.tensor(alignment.num_emitted_BT[0, chosen]),
        torch.tensor(tail),
        torch.tensor(-0.7 * tail, dtype=torch.float32),
    )


def random_logits(num_rows: int, num_columns: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_rows, num_columns, generator=generator) * (1 + seed % 9)


@pytest.mark.parametrize("strategy", ["prefix", "shared"])
@pytest.mark.parametrize("family", BUILDERS)
def test_mass_is_conserved(family: str, strategy: str) -> None:
    num_rows = 0

    @settings(exhaustive, max_examples=NUM_EXAMPLES)
    @given(st.binary(min_size=4, max_size=24))
    def examples(data: bytes) -> None:
        nonlocal num_rows
        own = all_variants().index(variants_of(family)[data[0] % len(variants_of(family))])
        other = data[1] % len(all_variants())
        aligner, encoder = built(strategy, *((own, other) if data[2] % 2 else (other, own)))
        [pair] = encoder.encode([text_of(data[3:], 245)])
        if pair is None:
            return
        rows = some_rows(pair, aligner.align([pair]), data[2])
        logits = random_logits(len(rows), aligner.num_teacher_rows, data[2])
        targets = aligner.targets(logits.log_softmax(-1), rows)
        assert targets.probabilities_NV.shape == (len(rows), aligner.num_student_rows)
        assert (targets.probabilities_NV >= 0).all()
        assert (targets.probabilities_NV.double().sum(-1) - 1).abs().le(1e-5).all()
        assert ((targets.residual_N >= 0) & (targets.residual_N <= 1)).all()
        num_rows += len(rows)

    examples()
    assert num_rows >= NUM_EXAMPLES // 4


@pytest.mark.parametrize("strategy", ["prefix", "shared"])
@pytest.mark.parametrize("family", BUILDERS)
def test_the_same_tokenizer_is_plain_distillation(family: str, strategy: str) -> None:
    num_rows = 0

    @settings(exhaustive, max_examples=NUM_EXAMPLES)
    @given(st.binary(min_size=4, max_size=24))
    def examples(data: bytes) -> None:
        nonlocal num_rows
        own = all_variants().index(variants_of(family)[data[0] % len(variants_of(family))])
        aligner, encoder = built(strategy, own, own)
        [pair] = encoder.encode([text_of(data[3:], 245)])
        if pair is None or pair.losses is not None:
            return
        alignment = aligner.align([pair])
        assert alignment.teacher_position_BT[0].tolist() == list(range(len(pair.student.ids)))
        assert alignment.is_one_to_one_BT.all()
        rows = some_rows(pair, alignment, data[2])
        logits = random_logits(len(rows), aligner.num_teacher_rows, data[2])
        targets = aligner.targets(logits.log_softmax(-1), rows)
        torch.testing.assert_close(
            targets.probabilities_NV, logits.double().softmax(-1).float(), rtol=0, atol=1e-6
        )
        num_rows += len(rows)

    examples()
    assert num_rows >= NUM_EXAMPLES // 4
