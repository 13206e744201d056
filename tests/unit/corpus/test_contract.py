"""The data contract: each expectation fails on the fault that it is there for, and on nothing else."""

from __future__ import annotations

import logging
import re

import numpy as np
import pytest

from distillation.config import ContractSettings
from distillation.corpus.checks import ContractResult
from distillation.corpus.contract import check_contract
from distillation.corpus.documents import Document
from distillation.corpus.statistics import CorpusStatistics, measure_documents, unknown_share

SETTINGS = ContractSettings(min_documents=10, min_held_out_documents=2)


def _documents(prefix: str, count: int, text: str = "sensible text, long enough to pass") -> list[Document]:
    return [Document(f"{text} {prefix} {i}", f"{prefix}:{i}") for i in range(count)]


def _check(
    train=None, held_out=None, leaked=None, duplicate_share=0.0, unknown=None
) -> tuple[ContractResult, str]:
    train = _documents("train", 10) if train is None else train
    held_out = _documents("held-out", 4) if held_out is None else held_out
    leaked = np.zeros(len(held_out)) if leaked is None else leaked
    frame = measure_documents(train, held_out, leaked)
    statistics = CorpusStatistics(frame, duplicate_share, unknown or {"student": 0.0})
    return check_contract(statistics, SETTINGS.model_copy(update={"min_median_characters": 30}), "file <x>")


def test_sound_corpus_passes():
    result, _ = _check()
    assert result.success, result.reason()
    assert result.reason() == ""
    assert len(result.checks) == 10


@pytest.mark.parametrize(
    ("name", "observed", "arguments"),
    [
        ("num_train_documents", 9, {"train": _documents("train", 9)}),
        ("num_held_out_documents", 1, {"held_out": _documents("held-out", 1)}),
        ("median_characters", 10, {"train": _documents("t", 30, "short")}),
        (
            "empty_documents_share",
            1 / 15,
            {"train": [*_documents("train", 10), Document(" \n" * 40, "blank")]},
        ),
        (
            "invalid_utf8_share",
            1 / 15,
            {"train": [*_documents("t", 10), Document("a lone surrogate \ud800 in a text", "bad")]},
        ),
        (
            "most_nul_characters",
            2,
            {"train": [*_documents("t", 10), Document("binary \0\0" + "x" * 40, "nul")]},
        ),
        ("duplicate_share", 0.2, {"duplicate_share": 0.2}),
        ("held_out_in_train_share", 0.5, {"held_out": [*_documents("held-out", 2), *_documents("train", 2)]}),
        ("leaking_documents_share", 0.25, {"leaked": np.array([0.0, 0.19, 0.5, 0.0])}),
        ("unknown_share_student", 0.02, {"unknown": {"student": 0.02}}),
    ],
)
def test_each_fault_fails_its_own_expectation(name, observed, arguments):
    result, page = _check(**arguments)
    assert not result.success
    failed = [check for check in result.checks if not check.success]
    assert [check.name for check in failed] == [name]
    assert failed[0].observed == pytest.approx(observed)
    assert "\n" not in result.reason()
    assert name in result.reason()
    assert "failed" in page


def test_no_held_out_document_at_all():
    result, _ = _check(held_out=[])
    assert [check.name for check in result.checks if not check.success] == ["num_held_out_documents"]


def test_page_asks_no_other_host_and_escapes_the_title():
    _, page = _check(train=_documents("train", 3))
    assert "file &lt;x&gt;" in page
    assert not re.search(r"https?://|<script|<link|<img|@import|url\(|src=|file <x>", page)
    assert "At least 10 training documents" in page
    assert "9 of 10 expectations hold" in page


def test_library_logs_nothing_and_its_logger_is_given_back(caplog, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with caplog.at_level(logging.INFO):
        level = logging.getLogger("great_expectations").level
        _check()
    assert [record for record in caplog.records if record.name.startswith("great_expectations")] == []
    assert logging.getLogger("great_expectations").level == level


def test_thousands_of_documents_take_seconds():
    import time

    train = _documents("train", 8000)
    _check()  # imports
    start = time.perf_counter()
    result, _ = _check(train=train)
    assert result.success
    assert time.perf_counter() - start < 5


def test_unknown_share_of_byte_level_tokenizer_counts_dropped_bytes(shared_dir):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(shared_dir / "tokenizers" / "smollm")
    assert unknown_share(tokenizer, ["plain English, with ünïcödé 中文 \U0001f600"]) == 0.0
    # This vocabulary has no token for the bytes 4, 6 and 19, and none to stand in: 3 of 7 are lost.
    assert unknown_share(tokenizer, ["a\x04\x06b \x13 c"]) == pytest.approx(3 / 7)
    # Decomposed characters are composed by this one's normaliser; that loses nothing.
    tokenizer = AutoTokenizer.from_pretrained(shared_dir / "tokenizers" / "qwen2")
    assert unknown_share(tokenizer, ["cafe\u0301 " * 50]) == 0.0


def test_unknown_share_counts_unknown_tokens():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({"[UNK]": 0, "known": 1}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    words = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    assert unknown_share(words, ["known other known known"]) == 0.25


def test_bytes_and_what_spells_a_special_token_are_spelled():
    """Llama 2 and its heirs write line ends and tabs as bytes; a document may hold the letters `<unk>`."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    vocabulary = {f"<0x{byte:02X}>": byte for byte in range(256)} | {"a": 256, "b": 257, "<unk>": 258}
    model = models.BPE(vocabulary, [], byte_fallback=True, unk_token="<unk>")
    pieces = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model), unk_token="<unk>")
    assert pieces.unk_token_id in pieces("a <unk>")["input_ids"], "else this test says nothing"
    assert unknown_share(pieces, ["def a:\n\tb", "aü", "the <unk> dog"]) == 0.0
    vocabulary = {f"<0x{byte:02X}>": byte for byte in range(3)} | {"a": 3, "<unk>": 4}
    model = models.BPE(vocabulary, [], byte_fallback=True, unk_token="<unk>")
    pieces = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model), unk_token="<unk>")
    assert unknown_share(pieces, ["a\x01b"]) == pytest.approx(1 / 3)
