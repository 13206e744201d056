"""The audit on small tokenizers, counted by hand, and its command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from alignment_reference import END, SENTENCES, trained_byte_level, vocabulary_bytes
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from distillation.alignment.audit import TokenizerAudit, audit_table, audit_tokenizers, main
from distillation.alignment.coverage import _touches_whitespace_run
from distillation.alignment.pairs import PairEncoder
from distillation.alignment.spans import align_spans


def small(tokens: list[str], merges: list[tuple[str, str]]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return tokenizer


def test_counted_by_hand() -> None:
    teacher = small(["a", "b", "c", "Ġ", "ab", "abc"], [("a", "b"), ("ab", "c")])
    student = small(["a", "c", "b", "Ġ", "bc", "ĠĠ"], [("b", "c"), ("Ġ", "Ġ")])
    # teacher: abc|ab|_|_|b|c   student: a|bc|a|b|__|bc   shared ends: 3, 5, 7, 9
    audit = audit_tokenizers(teacher, student, ["abcab  bc"], num_teacher_rows=9)
    assert (audit.num_equal_ids, audit.num_compared_ids) == (2, 6)  # "a" and the space
    assert audit.num_shared_tokens == 4
    assert audit.num_student_only_tokens == 2
    assert audit.num_shared_dropped_by_truncation == 0
    assert audit.teacher.num_rows_without_token == 3
    assert len(audit.student.missing_bytes) == 252
    corpus = audit.corpus
    assert corpus is not None
    assert (corpus.num_bytes, corpus.num_teacher_tokens, corpus.num_student_tokens) == (9, 6, 6)
    assert corpus.groups == {"1:1": 0, "1:n": 2, "n:1": 2, "n:m": 0}
    assert corpus.share_inside_teacher_token == pytest.approx(2 / 6)
    assert corpus.share_past_teacher_token == pytest.approx(2 / 6)
    assert corpus.whitespace_share == corpus.whitespace_hazard_share == pytest.approx(1 / 6)
    assert corpus.retained_shared == pytest.approx(4 / 6)  # all but "abc" and "ab"
    assert corpus.truncate_same_meaning == pytest.approx(2 / 6)  # the two spaces
    assert corpus.coverage["shared"].share_with_target == 0
    assert corpus.coverage["prefix"].share_with_target == 1
    for coverage in corpus.coverage.values():
        total = coverage.share_with_target + sum(coverage.causes_without_target.values())
        assert total == pytest.approx(1.0)


def test_shares_agree_with_the_alignment_over_many_batches() -> None:
    teacher, student = trained_byte_level(420), trained_byte_level(310, split_digits=True)
    texts = [f"{number} {SENTENCES[number % 4]}" for number in range(300)] + ["", f"refused {END}"]
    audit = audit_tokenizers(teacher, student, iter(texts))
    corpus = audit.corpus
    assert corpus is not None
    assert (corpus.num_texts, corpus.num_refused_texts) == (302, 2)
    assert corpus.refusals == {"empty": 1, "special token in the text (teacher)": 1}
    pairs = [pair for pair in PairEncoder(teacher, student).encode(texts) if pair is not None]
    alignment = align_spans(pairs)
    num_positions = sum(len(pair.student.ids) for pair in pairs)
    assert corpus.num_student_tokens == num_positions
    one_to_one = alignment.is_one_to_one_BT.sum() / num_positions
    assert corpus.one_to_one_student_token_share == pytest.approx(one_to_one)
    assert sum(corpus.groups.values()) == corpus.num_groups
    assert corpus.num_bytes == sum(pair.num_bytes for pair in pairs)


def test_same_tokenizer_is_seen() -> None:
    tokenizer = trained_byte_level(300)
    audit = audit_tokenizers(tokenizer, tokenizer, SENTENCES)
    assert audit.identical_tokenizers
    assert audit.num_equal_ids == audit.num_compared_ids == 300
    assert audit.corpus is not None
    assert audit.corpus.coverage["truncate"].share_sound == 1.0
    assert "the same" in audit.advice


def test_missing_bytes_and_no_texts() -> None:
    audit = audit_tokenizers(trained_byte_level(300), small(["a", "b"], []))
    assert audit.corpus is None
    assert len(audit.student.missing_bytes) == 254
    writable = [t for t in vocabulary_bytes(trained_byte_level(300)).values() if t[:1] in (b"a", b"b")]
    assert audit.num_unwritable_teacher_tokens == 299 - len(writable)


def test_whitespace_runs() -> None:
    content = b"a  b c\n\n\nd "
    ends = np.array([1, 3, 4, 6, 7, 9, 10, 11])  # a|__|b|_c|n|nn|d|_
    expected = [False, True, False, False, True, True, False, False]
    assert _touches_whitespace_run(content, ends).tolist() == expected


@pytest.fixture
def saved(tmp_path: Path) -> tuple[str, str]:
    paths = []
    for name, size in (("teacher", 420), ("student", 310)):
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=trained_byte_level(size), eos_token=END)
        tokenizer.save_pretrained(tmp_path / name)
        paths.append(str(tmp_path / name))
    return paths[0], paths[1]


def test_command_line(saved: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n".join(SENTENCES * 200), encoding="utf-8")
    assert main([*saved, str(text), "--json"]) == 0
    audit = TokenizerAudit.model_validate(json.loads(capsys.readouterr().out))
    assert audit.corpus is not None
    assert audit.corpus.num_texts > 1
    assert audit.corpus.num_bytes == len(text.read_bytes())
    assert main([*saved, str(text)]) == 0
    output = capsys.readouterr().out
    assert "equal ids" in output
    assert "Use `prefix`" in output
    assert audit_table(audit).row_count > 15


def test_command_line_errors_are_one_line(
    saved: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    binary = tmp_path / "binary.txt"
    binary.write_bytes(b"\xff\xfe\x00")
    for arguments in (
        [saved[0], str(tmp_path / "nowhere")],
        [*saved, str(tmp_path / "no.txt")],
        [*saved, str(binary)],
    ):
        assert main(arguments) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.count("\n") == 1
