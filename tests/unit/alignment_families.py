"""Small real tokenizers of every family, each with its reading rule written out a second time.

A `Variant` says, independently of the code under test, which bytes each id stands for and what the
tokenizer reads of a text.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from alignment_reference import END, SENTENCES, gpt2_letters, sentencepiece_bpe, trained_byte_level
from alignment_texts import FRAGMENTS
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

NFC, NFKC, LOWER = normalizers.NFC(), normalizers.NFKC(), normalizers.Lowercase()
STRIP_RIGHT = normalizers.Strip(left=False, right=True)
LETTERS = {letter: byte for byte, letter in enumerate(gpt2_letters())}
TRAINING = SENTENCES * 3


def from_letters(token: str) -> bytes:
    return bytes(LETTERS[letter] for letter in token)


def with_fallback(token: str) -> bytes:
    match = re.fullmatch("<0x(..)>", token)
    return bytes([int(match[1], 16)]) if match else token.replace("▁", " ").encode()


def spaced(text: str) -> str:
    return text.replace("▁", " ")


@dataclass(frozen=True)
class Variant:
    """A tokenizer and what it reads, by its family's published rule."""

    tokenizer: Tokenizer
    piece: Callable[[str], bytes]
    """Bytes of a model token's string."""
    content: Callable[[str], str] = str
    """What the tokenizer reads of a text, but for a space in front."""
    added: dict[str, bytes] = field(default_factory=dict)
    """Bytes of the added tokens that are not special."""
    is_complete: bool = True
    """It writes every text that holds no marker."""

    @functools.cached_property
    def table(self) -> dict[int, bytes]:
        """Id -> bytes of every ordinary token."""
        added = self.tokenizer.get_added_tokens_decoder()
        unknown = {self.tokenizer.token_to_id(token) for token in ("<unk>", "[UNK]")}
        result = {}
        for token, index in self.tokenizer.get_vocab(True).items():
            if index in added and not added[index].special:
                result[index] = self.added[token]
            elif index not in added and index not in unknown:
                result[index] = self.piece(token)
        return result


def byte_level(size: int = 380, normalizer: normalizers.Normalizer | None = None) -> Tokenizer:
    tokenizer = trained_byte_level(size)
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    return tokenizer


def put_around(tokenizer: Tokenizer, begin: str, end: str) -> None:
    """Let `tokenizer` put special tokens around a text, where it is asked for them."""
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}".strip(),
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (begin, end) if token],
    )


def byte_level_variants() -> list[Variant]:
    runs = trained_byte_level(400, nfc=True)
    runs.add_tokens(["  ", "    "])
    put_around(runs, END, "")
    in_front = trained_byte_level(320, split_digits=True)
    in_front.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    by_normaliser = byte_level(normalizer=normalizers.Sequence([NFC, normalizers.ByteLevel()]))
    by_normaliser.pre_tokenizer = None
    return [
        Variant(runs, from_letters, NFC.normalize_str, {"  ": b"  ", "    ": b"    "}),
        Variant(in_front, from_letters),
        Variant(by_normaliser, from_letters, NFC.normalize_str),
    ]


def sentencepiece_bpe_variants() -> list[Variant]:
    tokenizers = [sentencepiece_bpe()]
    put_around(tokenizers[0], "<s>", "</s>")
    for scheme in ("first", "always", "never"):
        tokenizer = sentencepiece_bpe()
        tokenizer.normalizer = normalizers.Sequence([])
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=scheme != "never")
        tokenizers.append(tokenizer)
    # Gemma's kind: no space in front, runs of spaces as added tokens of the vocabulary.
    gemma = sentencepiece_bpe()
    gemma.normalizer = normalizers.Replace(" ", "▁")
    gemma.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    gemma.add_tokens([AddedToken("▁▁", normalized=False), AddedToken("\n\n", normalized=False)])
    return [Variant(tokenizer, with_fallback, spaced) for tokenizer in tokenizers] + [
        Variant(gemma, with_fallback, spaced, {"▁▁": b"  ", "\n\n": b"\n\n"})
    ]


def unigram_variants() -> list[Variant]:
    def trained(normalizer: normalizers.Normalizer, **settings: object) -> Tokenizer:
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.normalizer = normalizer
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=260,
            special_tokens=["<unk>", "</s>"],
            unk_token="<unk>",
            show_progress=False,
            **settings,
        )
        tokenizer.train_from_iterator([*TRAINING, *FRAGMENTS], trainer)
        return tokenizer

    # T5's kind: runs of spaces become one, spaces at the end go.
    squeeze = normalizers.Replace(Regex(" {2,}"), "▁")
    squeezed = trained(normalizers.Sequence([NFKC, STRIP_RIGHT, squeeze]))

    def squeezed_content(text: str) -> str:
        return spaced(re.sub(" {2,}", "▁", STRIP_RIGHT.normalize_str(NFKC.normalize_str(text))))

    # With byte fallback, as Unigram models of recent years have it.
    plain = trained(NFKC)
    pieces = [(token, plain.token_to_id(token)) for token in plain.get_vocab(False)]
    scores = [(token, -float(index)) for token, index in sorted(pieces, key=lambda item: item[1])]
    scores += [(f"<0x{byte:02X}>", -200.0) for byte in range(256)]
    fallback = Tokenizer(models.Unigram(scores, unk_id=0, byte_fallback=True))
    fallback.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    fallback.add_special_tokens(["<unk>", "</s>"])
    return [
        Variant(squeezed, spaced_bytes, squeezed_content, is_complete=False),
        # A literal "<0x41>" is such a byte token to this model, and is refused.
        Variant(fallback, with_fallback, spaced, is_complete=False),
    ]


def spaced_bytes(token: str) -> bytes:
    return spaced(token).encode()


def word_variants() -> list[Variant]:
    def until_stable(tokenizer: Tokenizer) -> Callable[[str], str]:
        def content(text: str) -> str:
            normal = tokenizer.normalizer.normalize_str(text)
            return " ".join(piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normal))

        return content

    pieces = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    pieces.normalizer = normalizers.BertNormalizer(lowercase=True)
    pieces.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=600, special_tokens=["[UNK]", "[CLS]", "[SEP]"], show_progress=False
    )
    pieces.train_from_iterator([*TRAINING, *FRAGMENTS], trainer)
    pieces.add_tokens([AddedToken("foo", single_word=True)])
    put_around(pieces, "[CLS]", "[SEP]")
    words = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    words.normalizer = normalizers.Sequence([LOWER, NFC])
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    word_trainer = trainers.WordLevelTrainer(vocab_size=3000, special_tokens=["[UNK]"], show_progress=False)
    words.train_from_iterator(
        [*TRAINING, *FRAGMENTS, *(a + b for a in FRAGMENTS for b in FRAGMENTS)], word_trainer
    )

    def word_piece(token: str) -> bytes:
        return token[2:].encode() if token.startswith("##") and token != "##" else b" " + token.encode()

    return [
        Variant(pieces, word_piece, until_stable(pieces), {"foo": b" foo"}, is_complete=False),
        Variant(words, lambda token: b" " + token.encode(), until_stable(words), is_complete=False),
    ]


def byte_variants() -> list[Variant]:
    """ByT5's ids (byte + 3) as fast tokenizers, by byte fallback alone and by GPT-2's alphabet."""
    control = {"<pad>": 0, "</s>": 1, "<unk>": 2}
    by_name = {f"<0x{byte:02X}>": byte + 3 for byte in range(256)}
    fallback = Tokenizer(models.BPE(control | by_name, [], byte_fallback=True))
    fallback.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    letters = Tokenizer(models.BPE(control | {letter: byte + 3 for letter, byte in LETTERS.items()}, []))
    letters.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    letters.decoder = decoders.ByteLevel()
    for tokenizer in (fallback, letters):
        tokenizer.add_special_tokens(list(control))
    return [Variant(fallback, with_fallback_literally), Variant(letters, from_letters)]


def with_fallback_literally(token: str) -> bytes:
    return token.encode() if "▁" in token else with_fallback(token)


def character_variants() -> list[Variant]:
    characters = sorted({character for text in (*SENTENCES, *FRAGMENTS) for character in text})
    vocabulary = {token: index for index, token in enumerate(["<unk>", "</s>", *characters])}
    without_merges = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    # This one has no unknown token: it loses what it cannot write.
    lossy = Tokenizer(models.BPE(vocabulary, []))
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    # The last one's unknown token is not marked as a special one.
    for tokenizer in (without_merges, lossy):
        tokenizer.add_special_tokens(["<unk>", "</s>"])
    return [Variant(tokenizer, str.encode, is_complete=False) for tokenizer in (without_merges, lossy, words)]


def added_token_variants() -> list[Variant]:
    """Added tokens that are not special and touch the text around them."""
    plain = byte_level()
    touching = [
        AddedToken("<X>", lstrip=True, normalized=False),
        AddedToken("<Y>", rstrip=True, normalized=True),
    ]
    touching += [AddedToken("foo", single_word=True), AddedToken("   ", lstrip=True, rstrip=True)]
    plain.add_tokens(touching)
    lower = byte_level(normalizer=normalizers.Sequence([NFC, LOWER]))
    lower.add_tokens([AddedToken("Bar", normalized=True), AddedToken("<X>", normalized=False)])
    letters = byte_level(normalizer=normalizers.ByteLevel())
    letters.pre_tokenizer = None
    letters.add_tokens([AddedToken(" bar", normalized=True), AddedToken("é!", normalized=False)])
    front = sentencepiece_bpe()
    front.add_tokens([AddedToken("<X>", normalized=True), AddedToken("foo", normalized=False)])
    by_text = {token: token.encode() for token in ("<X>", "<Y>", "foo", "   ")}

    def lowered(text: str) -> str:
        return LOWER.normalize_str(NFC.normalize_str(text))

    return [
        Variant(plain, from_letters, added=by_text, is_complete=False),
        Variant(lower, from_letters, lowered, {"Bar": b"bar", "<X>": b"<X>"}, is_complete=False),
        Variant(letters, from_letters, added={" bar": b" bar", "é!": "é!".encode()}),
        # Prepend puts its mark before the added token's text too.
        Variant(front, with_fallback, spaced, {"<X>": b" <X>", "foo": b"foo"}, is_complete=False),
    ]


BUILDERS: dict[str, Callable[[], list[Variant]]] = {
    "byte_level_bpe": byte_level_variants,
    "sentencepiece_bpe": sentencepiece_bpe_variants,
    "sentencepiece_unigram": unigram_variants,
    "words": word_variants,
    "bytes": byte_variants,
    "characters": character_variants,
    "added_tokens": added_token_variants,
}


@functools.cache
def variants_of(family: str) -> list[Variant]:
    """Return the variants of a family, built once."""
    return BUILDERS[family]()


@functools.cache
def all_variants() -> list[Variant]:
    """Return every variant of every family."""
    return [variant for family in BUILDERS for variant in variants_of(family)]
