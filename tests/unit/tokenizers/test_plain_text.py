"""What spells a tokenizer's own markup is text, to every family; one text has always the same tokens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from alignment_reference import (
    END,
    SENTENCES,
    sentencepiece_bpe,
    sentencepiece_unigram,
    trained_byte_level,
    vocabulary_bytes,
    wordpiece,
)
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from distillation.errors import AlignmentError
from distillation.tokenizers.pairs import PairEncoder
from distillation.tokenizers.plain_text import PlainText, special_strings
from distillation.tokenizers.token_bytes import backend_of

MARKED = f"an HTML <s>line</s>, <unk> and {END} or [SEP] or <pad>."


def unigram() -> Tokenizer:
    """Its special tokens are among the pieces that the model looks for, with the best score of all."""
    letters = sorted({*MARKED, "▁"} - {" "})
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *((letter, -5.0) for letter in letters)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>", END])
    return tokenizer


def whole_words() -> Tokenizer:
    """A byte-level model that looks every word up whole, `<s>` too."""
    tokenizer = trained_byte_level(300)
    content = json.loads(tokenizer.to_str())
    content["model"]["ignore_merges"] = True
    content["model"]["vocab"] |= {"<s>": 300, "Ġ<s>": 301}
    content["added_tokens"] = [one for one in content["added_tokens"] if one["content"] != END]
    content["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [
            {
                "type": "Split",
                "pattern": {"Regex": "</?s>"},
                "behavior": "Isolated",
                "invert": False,
            },
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        ],
    }
    tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.add_special_tokens(["<s>"])
    return tokenizer


FAMILIES = {
    "byte_level": lambda: trained_byte_level(320),
    "whole_words": whole_words,
    "sentencepiece_bpe": sentencepiece_bpe,
    "unigram": unigram,
}


@pytest.mark.parametrize("family", FAMILIES)
def test_what_spells_a_special_token_is_text(family: str) -> None:
    tokenizer = FAMILIES[family]()
    before = tokenizer.to_str(), tokenizer.encode_special_tokens
    for encoder in (
        PairEncoder(tokenizer, trained_byte_level(400)),
        PairEncoder(trained_byte_level(400), tokenizer),
    ):
        [pair] = encoder.encode([MARKED])
        assert pair is not None, encoder.refusals
        for tokens, side in (
            (encoder.teacher_bytes, pair.teacher),
            (encoder.student_bytes, pair.student),
        ):
            assert tokens.join(side.ids).decode().removeprefix(" ") == MARKED
            assert not tokens.special_ids & set(side.ids.tolist())
    assert (tokenizer.to_str(), tokenizer.encode_special_tokens) == before, "the caller's is left alone"


def test_the_ids_are_those_of_the_characters() -> None:
    """The same ids as from a tokenizer that has no such special token."""
    plain = trained_byte_level(320)
    marked = Tokenizer.from_str(plain.to_str())
    marked.add_special_tokens(["<s>", "</s>"])
    text = "an HTML <s>line</s>."
    assert PlainText(marked).ids([text]) == [plain.encode(text).ids]
    assert marked.token_to_id("<s>") in marked.encode(text).ids, "else this test says nothing"
    # With a space in front of what a special token's neighbour would lose.
    marked.add_special_tokens([AddedToken("<X>", lstrip=True, rstrip=True)])
    assert PlainText(marked).ids(["a <X> b"]) == [plain.encode("a <X> b").ids]


def test_added_tokens_that_are_not_special_stay_what_they_are() -> None:
    tokenizer = trained_byte_level(320)
    tokenizer.add_tokens(["    "])
    [ids] = PlainText(tokenizer).ids(["a    b"])
    assert tokenizer.token_to_id("    ") in ids


def test_a_special_token_that_merges_make_is_refused_not_read_as_text() -> None:
    tokenizer = Tokenizer(models.BPE({"<": 0, "s": 1, ">": 2, "<s": 3, "<s>": 4}, [("<", "s"), ("<s", ">")]))
    tokenizer.add_special_tokens(["<s>"])
    encoder = PairEncoder(tokenizer, trained_byte_level(300))
    refused, shortened = encoder.encode(["<s>", "s<s>"])
    assert refused is None
    assert encoder.refusals == {"special token in the text (teacher)": 1}
    assert shortened.num_bytes == 1
    assert encoder.lost == {"special token in the text (teacher)": 6}


@pytest.mark.parametrize("kind", ["dropout", "sampling"])
def test_one_text_has_always_the_same_tokens(kind: str) -> None:
    tokenizer = trained_byte_level(400) if kind == "dropout" else sentencepiece_unigram()
    expected = [tokenizer.encode(text, add_special_tokens=False).ids for text in SENTENCES]
    if kind == "dropout":
        tokenizer.model.dropout = 0.5
    else:
        tokenizer.model.alpha = 0.1
    drawn = {tuple(tokenizer.encode(SENTENCES[0], add_special_tokens=False).ids) for _ in range(20)}
    assert len(drawn) > 1, "else this test says nothing"
    assert PlainText(tokenizer).ids(SENTENCES) == expected
    assert tokenizer.model.dropout == 0.5 if kind == "dropout" else tokenizer.model.alpha


def test_a_word_that_is_the_unknown_token_is_a_word() -> None:
    words = Tokenizer(models.WordLevel({"<unk>": 0, "the": 1, "dog": 2}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.add_special_tokens(["<unk>"])
    assert special_strings(words) == {"<unk>": 0}
    # No word of this vocabulary spells it, so that it is unknown, under the same id.
    assert PlainText(words).ids(["the <unk> dog"]) == [[1, 0, 2]]
    assert special_strings(wordpiece()).keys() >= {"[UNK]"}


@pytest.mark.parametrize("name", ["qwen2", "smollm", "gpt2", "gpt-neox-20b"])
def test_real_tokenizers(shared_dir: Path, name: str) -> None:
    tokenizer = Tokenizer.from_file(str(shared_dir / "tokenizers" / name / "tokenizer.json"))
    bytes_of = vocabulary_bytes(tokenizer)
    text = f"{MARKED}\n\n    <|im_start|>user   <|endoftext|>"
    [ids] = PlainText(tokenizer).ids([text])
    assert b"".join(bytes_of[index] for index in ids).decode() == text


def test_two_tokens_with_one_id_are_one_line() -> None:
    """Found by fuzzing: the tokenizer loads, and cannot be read back from what it writes of itself."""
    content = json.loads(backend_of(trained_byte_level(300)).to_str())
    vocabulary = content["model"]["vocab"]
    merged = "".join(content["model"]["merges"][0])
    vocabulary[merged] = vocabulary["a"]
    with pytest.raises(AlignmentError, match="two of its tokens have one id"):
        PlainText(Tokenizer.from_str(json.dumps(content)))
