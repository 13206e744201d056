"""The real pair and two more real tokenizers, on real texts: figures, references, oracles."""

from __future__ import annotations

import inspect
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from alignment_reference import SlowPrefix, as_dense, slow_alignment, vocabulary_bytes
from tokenizers import Tokenizer

from distillation.aligners.base import Aligner, Rows
from distillation.aligners.build import build_aligner
from distillation.audit.__main__ import read_texts
from distillation.audit.audit import TokenizerAudit, audit_tokenizers
from distillation.tokenizers.pairs import EncodedPair, PairEncoder
from distillation.tokenizers.spans import align_spans
from distillation.tokenizers.token_bytes import tokens_as_bytes
from distillation.tokenizers.vocabularies import map_specials

NUM_TEACHER_ROWS, NUM_STUDENT_ROWS = 151_936, 49_152
CODE = "def f(x):\n    if x:\n        return  x + 1\n\n\n    return {\n\t'a': 10,\n    }\n" * 6


@pytest.fixture(scope="module")
def tokenizers(shared_dir: Path) -> dict[str, Any]:
    names = ("qwen2", "smollm", "gpt2", "gpt-neox-20b")
    return {
        name: Tokenizer.from_file(str(shared_dir / "tokenizers" / name / "tokenizer.json")) for name in names
    }


@pytest.fixture(scope="module")
def texts(shared_dir: Path) -> list[str]:
    """Some three hundred texts: prose, five-language news, code, mathematics, hard Unicode."""
    corpora = shared_dir / "corpora"
    result = [(corpora / "pride-and-prejudice.txt").read_text(encoding="utf-8")[:60_000]]
    for language in ("en", "de", "zh", "ar"):
        result += (corpora / f"pud-{language}.txt").read_text(encoding="utf-8").split("\n")[:60]
    questions = (shared_dir / "evals" / "gsm8k_train.jsonl").read_text(encoding="utf-8").split("\n")
    result += questions[:60]
    return [*result, CODE, "e\u0301 🙂👩‍👩‍👧 \u212b   \t\n\n  ", "x" * 300, " " * 97, "\n" * 41]


@pytest.fixture(scope="module")
def pair_prefix(tokenizers: dict[str, Any]) -> Aligner:
    return build_aligner(
        "prefix",
        tokenizers["qwen2"],
        tokenizers["smollm"],
        num_teacher_rows=NUM_TEACHER_ROWS,
        num_student_rows=NUM_STUDENT_ROWS,
    )


@pytest.mark.parametrize(
    ("teacher", "student"),
    [("qwen2", "smollm"), ("smollm", "qwen2"), ("gpt-neox-20b", "gpt2"), ("gpt2", "gpt-neox-20b")],
)
def test_real_texts_are_partitioned_and_aligned_as_by_the_reference(
    tokenizers: dict[str, Any], texts: list[str], teacher: str, student: str
) -> None:
    encoder = PairEncoder(tokenizers[teacher], tokenizers[student])
    pairs = encoder.encode(texts)
    assert sum(encoder.refusals.values()) <= 3, encoder.refusals
    accepted = [pair for pair in pairs if pair is not None]
    alignment = align_spans(accepted)
    for window, pair in enumerate(accepted):
        content = encoder.teacher_bytes.join(pair.teacher.ids)
        assert content == encoder.student_bytes.join(pair.student.ids)
        assert len(content) == pair.num_bytes == pair.teacher.ends[-1] == pair.student.ends[-1]
        assert (np.diff(pair.teacher.ends) > 0).all()
        assert (np.diff(pair.student.ends) > 0).all()
        expected = slow_alignment(pair.teacher.ends.tolist(), pair.student.ends.tolist())
        length = len(expected)
        assert alignment.teacher_position_BT[window, :length].tolist() == [row[0] for row in expected]
        assert alignment.num_emitted_BT[window, :length].tolist() == [row[1] for row in expected]
        assert alignment.num_tail_BT[window, :length].tolist() == [row[2] for row in expected]
        assert alignment.is_one_to_one_BT[window, :length].tolist() == [row[3] for row in expected]


def test_byte_tables_give_decoded_text_back(tokenizers: dict[str, Any]) -> None:
    for name in ("qwen2", "gpt-neox-20b"):
        tokenizer = tokenizers[name]
        tokens = tokens_as_bytes(tokenizer)
        assert {i: t for i, t in enumerate(tokens.table) if t is not None} == vocabulary_bytes(tokenizer)
        for index in range(0, len(tokens.table), 997):
            token = tokens.table[index]
            if token is not None and "\ufffd" not in token.decode("utf-8", "replace"):
                assert tokenizer.decode([index]) == token.decode("utf-8")


def choose_rows(pairs: list[EncodedPair], aligner: Aligner, seed: int) -> Rows:
    """Return rows of every kind: at boundaries, inside a teacher token, running past one, and both."""
    alignment = aligner.align(pairs)
    generator = np.random.default_rng(seed)
    used = alignment.teacher_position_BT >= 0
    kinds = (
        (used & (alignment.num_emitted_BT == 0) & (alignment.num_tail_BT == 0), 1),
        (used & (alignment.num_emitted_BT == 0) & (alignment.num_tail_BT > 0), 1),
        (used & (alignment.num_emitted_BT > 1) & (alignment.num_tail_BT == 0), 12),
        (used & (alignment.num_emitted_BT > 0) & (alignment.num_tail_BT > 0), 8),
    )
    chosen = []
    for mask, number in kinds:
        places = np.argwhere(mask)
        chosen.append(places[generator.permutation(len(places))[:number]])
    window, position = np.concatenate(chosen).T
    row = alignment.teacher_position_BT[window, position]
    tail = alignment.num_tail_BT[window, position]
    teacher = np.array([pairs[w].teacher.ids[i] for w, i in zip(window, row, strict=True)], dtype=np.int64)
    student = np.array(
        [pairs[w].student.ids[j] for w, j in zip(window, position, strict=True)], dtype=np.int64
    )
    return Rows(
        torch.tensor(teacher),
        torch.tensor(student),
        torch.tensor(alignment.num_emitted_BT[window, position]),
        torch.tensor(tail),
        torch.tensor(-0.3 * tail, dtype=torch.float32),
    )


def test_prefix_targets_of_the_real_pair_equal_the_definition(
    tokenizers: dict[str, Any], texts: list[str], pair_prefix: Aligner
) -> None:
    teacher, student = tokenizers["qwen2"], tokenizers["smollm"]
    pairs = [pair for pair in PairEncoder(teacher, student).encode(texts) if pair is not None]
    rows = choose_rows(pairs, pair_prefix, 0)
    assert len(rows) == 22
    generator = torch.Generator().manual_seed(0)
    log_probs = (torch.randn(len(rows), NUM_TEACHER_ROWS, generator=generator) * 3).log_softmax(-1)
    targets = pair_prefix.targets(log_probs, rows)
    assert (targets.probabilities_NV.sum(-1) - 1).abs().max() < 1e-5
    slow = SlowPrefix(
        teacher,
        student,
        map_specials(tokens_as_bytes(teacher), tokens_as_bytes(student)),
        NUM_STUDENT_ROWS,
    )
    for n in range(len(rows)):
        emitted = int(rows.num_emitted_N[n])
        mass, moved = slow.target(
            log_probs[n].tolist(),
            int(rows.teacher_token_N[n]),
            int(rows.student_token_N[n]),
            emitted,
            int(rows.num_tail_N[n]),
            float(rows.tail_log_prob_N[n]),
        )
        assert moved >= 0
        assert math.fsum(mass.values()) == pytest.approx(1.0, abs=1e-5)
        dense, residual = as_dense(mass, NUM_STUDENT_ROWS)
        difference = targets.probabilities_NV[n].double() - torch.tensor(dense, dtype=torch.float64)
        assert difference.abs().max() < 1e-6
        assert float(targets.residual_N[n]) == pytest.approx(residual, abs=1e-5)


def test_the_real_pair_has_the_published_tables(pair_prefix: Aligner) -> None:
    assert pair_prefix.details["num_unwritable_tokens"] == 21
    assert pair_prefix.details["num_own_encodings"] + pair_prefix.details["num_longest_prefixes"] == 151_643
    assert pair_prefix.details["special_tokens"] == {"151643": 0, "151644": 1, "151645": 2}


def test_the_same_real_tokenizer_is_plain_distillation(tokenizers: dict[str, Any], texts: list[str]) -> None:
    tokenizer = tokenizers["smollm"]
    pairs = [pair for pair in PairEncoder(tokenizer, tokenizer).encode(texts[1:60]) if pair is not None]
    sizes = {"num_teacher_rows": NUM_STUDENT_ROWS, "num_student_rows": NUM_STUDENT_ROWS}
    generator = torch.Generator().manual_seed(1)
    for strategy in ("prefix", "shared"):
        aligner = build_aligner(strategy, tokenizer, tokenizer, **sizes)
        alignment = aligner.align(pairs)
        for window, pair in enumerate(pairs):
            length = len(pair.student.ids)
            assert alignment.teacher_position_BT[window, :length].tolist() == list(range(length))
        ids = torch.tensor(pairs[0].student.ids[:16], dtype=torch.int64)
        rows = Rows(ids, ids, torch.zeros_like(ids), torch.zeros_like(ids), torch.zeros(len(ids)))
        logits = torch.randn(len(ids), NUM_STUDENT_ROWS, generator=generator) * 4
        targets = aligner.targets(logits.log_softmax(-1), rows)
        expected = logits.double().softmax(-1).float()
        torch.testing.assert_close(targets.probabilities_NV, expected, rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def audit(tokenizers: dict[str, Any], texts: list[str]) -> TokenizerAudit:
    return audit_tokenizers(
        tokenizers["qwen2"],
        tokenizers["smollm"],
        [texts[0]],
        num_teacher_rows=NUM_TEACHER_ROWS,
        num_student_rows=NUM_STUDENT_ROWS,
    )


def test_audit_of_the_real_pair(audit: TokenizerAudit) -> None:
    assert (audit.num_equal_ids, audit.num_compared_ids) == (17, 49_152)
    assert audit.num_shared_tokens == 39_234
    assert audit.num_shared_dropped_by_truncation == 11_560
    assert audit.num_unwritable_teacher_tokens == 21
    assert len(audit.student.missing_bytes) == 21
    assert audit.teacher.missing_bytes == ()
    assert audit.teacher.num_rows_without_token == 290
    assert audit.student.num_rows_without_token == 0
    assert not audit.identical_tokenizers
    assert audit.recommended_strategy == "prefix"
    assert "17 of 49,152" in audit.advice


def test_audit_of_prose(audit: TokenizerAudit) -> None:
    corpus = audit.corpus
    assert corpus is not None
    assert 0.92 < corpus.one_to_one_group_share < 0.97
    assert 0.85 < corpus.one_to_one_student_token_share < 0.93
    assert corpus.coverage["prefix"].share_with_target == 1.0
    assert corpus.coverage["shared"].share_with_target == corpus.one_to_one_student_token_share
    assert corpus.coverage["truncate"].share_sound < 0.05
    assert corpus.truncate_same_meaning < 0.1
    assert corpus.retained_prefix == 1.0
    assert TokenizerAudit.model_validate_json(audit.model_dump_json()) == audit


def test_audit_sees_that_code_is_harder_than_prose(tokenizers: dict[str, Any], audit: TokenizerAudit) -> None:
    code = audit_tokenizers(tokenizers["qwen2"], tokenizers["smollm"], [CODE]).corpus
    assert code is not None
    assert audit.corpus is not None
    assert code.one_to_one_student_token_share < audit.corpus.one_to_one_student_token_share - 0.1
    assert code.whitespace_hazard_share > audit.corpus.whitespace_hazard_share + 0.05


def python_library(num_bytes: int) -> list[str]:
    """Modules of Python's own library, each as one text."""
    texts: list[str] = []
    for file in sorted(Path(inspect.getfile(inspect)).parent.glob("*.py")):
        if sum(map(len, texts)) < num_bytes:
            texts.append(file.read_text(encoding="utf-8"))
    return texts


@pytest.mark.parametrize(
    ("corpus", "least_share", "most_shared", "kind", "script"),
    [
        ("novels", 0.995, 0.90, "prose", "Latin"),
        ("python", 0.99, 0.65, "code", "Latin"),
        ("problems", 0.99, 0.96, "maths", "common"),
        ("pud-en.txt", 0.97, 0.95, "prose", "Latin"),
        ("pud-de.txt", 0.97, 0.50, "prose", "Latin"),
        ("pud-zh.txt", 0.97, 0.12, "prose", "Han"),
        ("pud-ar.txt", 0.97, 0.12, "prose", "Arabic"),
    ],
)
def test_prefix_reaches_nearly_all_positions_and_shared_does_not(
    tokenizers: dict[str, Any],
    shared_dir: Path,
    corpus: str,
    least_share: float,
    most_shared: float,
    kind: str,
    script: str,
) -> None:
    corpora = shared_dir / "corpora"
    if corpus == "novels":
        files = [corpora / "pride-and-prejudice.txt", corpora / "middlemarch.txt"]
        texts = list(read_texts(files, 500_000))
    elif corpus == "python":
        texts = python_library(400_000)
    elif corpus == "problems":
        texts = list(read_texts([shared_dir / "evals" / "gsm8k_train.jsonl"], 200_000))
    else:
        texts = (corpora / corpus).read_text(encoding="utf-8").splitlines()
    # Windows as in training: what they cannot hold counts as lost.
    found = audit_tokenizers(tokenizers["qwen2"], tokenizers["smollm"], texts, window_length=256).corpus
    assert found is not None
    assert found.num_positions > 20_000
    prefix, shared = found.coverage["prefix"], found.coverage["shared"]
    assert prefix.share_with_target >= least_share
    assert prefix.share_with_target + sum(prefix.causes_without_target.values()) == pytest.approx(1.0)
    assert shared.share_with_target < min(most_shared, found.coverage["projection"].share_with_target)
    # The slices are what the corpus is known to be.
    assert next(iter(found.scripts)) == script
    assert max(found.kinds, key=lambda name: found.kinds[name].share_of_positions) == kind
