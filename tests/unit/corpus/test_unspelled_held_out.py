"""Held-out texts that a tokenizer cannot spell: left out for every model, counted, and bounded."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from distillation.config import CorpusSettings
from distillation.corpus.documents import Document, is_held_out
from distillation.corpus.loading import load_corpus
from distillation.errors import CorpusError

WORDS = (
    "house",
    "letter",
    "morning",
    "number",
    "small",
    "green",
    "under",
    "machine",
    "reads",
    "paper",
    "light",
)
LETTERS = "abcdefghijklmnopqrstuvwxyz"
SHARE = 0.3


def _texts(count: int, *extra: str) -> list[str]:
    generator = random.Random(count)
    return [" ".join([*generator.choices(WORDS, k=60), *extra]) for _ in range(count)]


def _tokenizer(*, byte_fallback: bool):
    """Return letters behind a space mark, as in Llama 2; what is no letter is bytes or the unknown token."""
    from tokenizers import Tokenizer, models, normalizers
    from transformers import PreTrainedTokenizerFast

    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256) if byte_fallback)]
    vocabulary = {piece: index for index, piece in enumerate([*pieces, "▁", *LETTERS, *"<>/"])}
    backend = Tokenizer(
        models.BPE(vocabulary, [], unk_token="<unk>", fuse_unk=True, byte_fallback=byte_fallback)
    )
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


def _load(path: Path, texts: list[str], **tokenizers):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    source = {"kind": "file", "path": str(path)}
    return load_corpus(CorpusSettings(sources=(source,), held_out_share=SHARE), tokenizers)


def _held_out(texts: list[str]) -> list[str]:
    return [text for text in texts if is_held_out(Document(text, "").document_id, SHARE)]


@pytest.mark.parametrize("lossy", ["teacher", "student"])
def test_they_are_left_out_for_all_models_and_counted(tmp_path: Path, lossy: str) -> None:
    other = {"teacher": "student", "student": "teacher"}[lossy]
    tokenizers = {lossy: _tokenizer(byte_fallback=False), other: _tokenizer(byte_fallback=True)}
    # One snowman among hundreds of letters: the share of unknown tokens is far below its limit.
    good, bad = _texts(200), _texts(20, "☃")
    corpus = _load(tmp_path / "a.jsonl", good + bad, **tokenizers)
    left_out = _held_out(bad)
    assert left_out, "else this test says nothing"
    assert list(corpus.held_out["text"]) == _held_out(good)
    assert set(bad) - set(left_out) <= set(corpus.train["text"]), "they lose a stretch in training"
    [warning] = corpus.report.warnings
    share = len(left_out) / len(_held_out(good + bad))
    assert warning.startswith(f"left out {len(left_out)} documents: held out, {share:.1%} of all")
    assert f"the {lossy}'s tokenizer cannot spell" in warning
    assert "a.jsonl:" in warning
    [check] = [check for check in corpus.report.checks if check.name == "left_out_held_out_share"]
    assert check.observed == pytest.approx(share)
    assert check.success


def test_too_many_of_them_refuse_the_source(tmp_path: Path) -> None:
    tokenizers = {name: _tokenizer(byte_fallback=False) for name in ("teacher", "student")}
    with pytest.raises(CorpusError) as raised:
        _load(tmp_path / "a.jsonl", _texts(100) + _texts(99, "☃"), **tokenizers)
    message = str(raised.value)
    assert "left_out_held_out_share is 0." in message
    assert "must be <= 0.1 (corpus.contract.max_left_out_share)" in message
    assert "the teacher's tokenizer cannot spell" in message
    assert "\n" not in message


def test_word_level_text_with_its_own_unknown_words_is_text(tmp_path: Path) -> None:
    """`<unk>` as WikiText writes it is five characters to a tokenizer whose unknown token has that name."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from distillation.evaluation.bits_per_byte import bits_per_byte
    from distillation.tokenizers.pairs import PairEncoder

    tokenizers = {name: _tokenizer(byte_fallback=name == "teacher") for name in ("teacher", "student")}
    texts = _texts(150, "<unk>", "and", "<s>", "too")
    corpus = _load(tmp_path / "a.jsonl", texts, **tokenizers)
    assert corpus.report.warnings == ()
    assert list(corpus.held_out["text"]) == _held_out(texts)
    encoder = PairEncoder(*tokenizers.values())
    assert all(pair is not None and pair.losses is None for pair in encoder.encode(texts))
    torch.manual_seed(0)
    held_out = list(corpus.held_out["text"])[:3]
    for tokenizer in tokenizers.values():
        sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes)).eval()
        measured = bits_per_byte(model, tokenizer, held_out, max_length=64, stride=48, batch_size=8)
        assert measured.num_unknown_tokens == 0
        assert measured.num_bytes == sum(map(len, held_out))
        # One token a letter, and one for the space in front.
        assert measured.num_tokens == sum(len(text) + 1 for text in held_out)
