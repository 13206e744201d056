"""The vocabulary probe on real tokenizers and on one of each other family, trained here."""

from __future__ import annotations

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from distillation.models.inspect.vocabulary import probe_vocabulary

TEXTS = [
    "the cat sat on 12345 mats in 1999",
    "a café near the sea",
    "she sells sea shells",
    "mats and cats",
] * 3


def wordpiece():
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=90, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


def unigram():
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=80, special_tokens=["<unk>", "</s>"], unk_token="<unk>")
    tokenizer.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>")


def sentencepiece_bpe():
    """Llama's layout: prefix and `▁` by the normaliser, nothing cuts, byte fallback without <0x0A>."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256) if byte != 10)]
    pieces += ["▁", *"abcdefghijklmnopqrstuvwxyz0123456789", "▁t", "h", "e", "▁a"]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    model = models.BPE(vocabulary, [("▁", "t"), ("▁", "a")], unk_token="<unk>", byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def test_wordpiece() -> None:
    tokenizer = wordpiece()
    found = probe_vocabulary(tokenizer, len(tokenizer) + 6)
    assert found.family == "wordpiece"
    assert found.normalizer == "BertNormalizer"
    assert found.missing_bytes is None
    assert (found.adds_bos, found.adds_eos) == (True, True)
    assert found.num_rows_without_token == 6
    assert found.special("cls").id == 2
    assert not found.adds_prefix_space


def test_unigram() -> None:
    tokenizer = unigram()
    found = probe_vocabulary(tokenizer, len(tokenizer))
    assert (found.family, found.normalizer, found.pre_tokenizer) == (
        "sentencepiece_unigram",
        "NFKC",
        "Metaspace",
    )
    assert found.adds_prefix_space
    assert (found.adds_bos, found.adds_eos) == (False, False)
    assert found.digit_group is None


def test_sentencepiece_bpe_with_byte_fallback() -> None:
    tokenizer = sentencepiece_bpe()
    found = probe_vocabulary(tokenizer, len(tokenizer))
    assert found.family == "sentencepiece_bpe"
    assert found.byte_fallback
    assert found.missing_bytes == (10,)
    assert found.normalizer == "Sequence[Prepend, Replace]"
    assert found.digit_group == 1  # No token of the vocabulary has two digits.
    assert (found.adds_bos, found.adds_eos, found.adds_prefix_space) == (True, False, True)


def test_digits_in_groups_of_three_and_chat_template() -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{N}{1,3}"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=200))
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    wrapped.chat_template = "{{ messages }}"
    found = probe_vocabulary(wrapped, 400)
    assert found.family == "byte_level_bpe"
    assert found.digit_group == 3
    assert found.has_chat_template
    present = set("".join(TEXTS).encode())
    assert len(found.missing_bytes) == 256 - len(present)  # No initial alphabet: only bytes that were seen.


@pytest.mark.parametrize("make", [wordpiece, unigram, sentencepiece_bpe])
def test_family_is_named_as_the_aligner_names_it(make) -> None:
    from distillation.tokenizers.token_bytes import tokenizer_family

    tokenizer = make()
    assert probe_vocabulary(tokenizer, len(tokenizer)).family == tokenizer_family(tokenizer)


def test_tokens_beyond_the_output_layer_are_told_apart() -> None:
    tokenizer = unigram()
    num_trained = len(tokenizer)
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    assert probe_vocabulary(tokenizer, num_trained).num_tokens_without_row == 1
    assert probe_vocabulary(tokenizer, num_trained).num_ordinary_tokens_without_row == 0
    assert probe_vocabulary(tokenizer, num_trained - 5).num_ordinary_tokens_without_row == 5


@pytest.mark.parametrize(
    ("name", "rows", "num_empty", "num_missing", "normalizer", "digit_group"),
    [
        ("qwen2", 151936, 290, 0, "NFC", 1),
        ("smollm", 49152, 0, 21, None, 1),
        ("gpt2", 50257, 0, 0, None, None),
    ],
)
def test_real_tokenizers(shared_dir, name, rows, num_empty, num_missing, normalizer, digit_group) -> None:
    tokenizer = AutoTokenizer.from_pretrained(shared_dir / "tokenizers" / name)
    found = probe_vocabulary(tokenizer, rows)
    assert found.family == "byte_level_bpe"
    assert found.num_rows_without_token == num_empty
    assert len(found.missing_bytes) == num_missing
    assert (found.normalizer, found.digit_group) == (normalizer, digit_group)
    assert found.size == rows - num_empty
