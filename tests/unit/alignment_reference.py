"""Slow references, one byte and one token at a time, and small real tokenizers to compare with.

Nothing here calls the code under test: spans by walking bytes, prefix targets by dictionaries.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from hypothesis import Phase, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

END = "<|endoftext|>"
SENTENCES = (
    "The quick brown fox jumps over the lazy dog, and the dog sleeps.",
    "A tokenizer turns text into tokens; tokens are strings of bytes.",
    "Raises ValueError if the number of rows is not positive: 1234567890.",
    "naïve café — déjà vu, “quoted”… 日本語のテキスト 🙂 and more text",
)
ALPHABET = " ab\nc1é€"
# Shrinking examples that build two tokenizers each takes minutes; repeatable runs do not flake.
exhaustive = settings(
    deadline=None, derandomize=True, database=None, phases=[Phase.explicit, Phase.generate], max_examples=100
)


def gpt2_letters() -> list[str]:
    """Byte -> letter of GPT-2's alphabet, written out from its published rule."""
    kept = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    letters, spare = [], 256
    for byte in range(256):
        if byte in kept:
            letters.append(chr(byte))
        else:
            letters.append(chr(spare))
            spare += 1
    return letters


@st.composite
def byte_level_tokenizers(draw: st.DrawFn) -> Tokenizer:
    """A byte-level BPE over a few bytes, some perhaps missing, with random merges, one special token."""
    letters = gpt2_letters()
    symbols = [letters[byte] for byte in sorted(set(ALPHABET.encode()))]
    missing = draw(st.sets(st.sampled_from(symbols), max_size=2))
    tokens = [symbol for symbol in symbols if symbol not in missing]
    merges: list[tuple[str, str]] = []
    for _ in range(draw(st.integers(0, 25))):
        pair = (draw(st.sampled_from(tokens)), draw(st.sampled_from(tokens)))
        if "".join(pair) not in tokens and len("".join(pair)) <= 8:
            merges.append(pair)
            tokens.append("".join(pair))
    order = draw(st.permutations(tokens))
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(order)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=draw(st.booleans()))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END])
    if draw(st.booleans()):
        tokenizer.add_tokens(["  "])
    return tokenizer


def trained_byte_level(size: int, *, split_digits: bool = False, nfc: bool = False) -> Tokenizer:
    """A byte-level BPE trained on `SENTENCES`."""
    tokenizer = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    parts = [pre_tokenizers.Digits(individual_digits=True), byte_level] if split_digits else [byte_level]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(parts)
    tokenizer.decoder = decoders.ByteLevel()
    if nfc:
        tokenizer.normalizer = normalizers.NFC()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=alphabet, special_tokens=[END], show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES * 3, trainer)
    return tokenizer


def sentencepiece_bpe() -> Tokenizer:
    """A BPE of Llama's kind: a space put in front, `▁` for a space, byte fallback."""
    words = ["▁the", "▁dog", "s", "▁", "t", "h", "e", "d", "o", "g", "▁t", "he", "▁d", "og", ",", "a"]
    vocabulary = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    merges = [("▁", "t"), ("h", "e"), ("▁t", "he"), ("▁", "d"), ("o", "g"), ("▁d", "og")]
    model = models.BPE(
        {token: index for index, token in enumerate(vocabulary)},
        merges,
        unk_token="<unk>",
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return tokenizer


def sentencepiece_unigram() -> Tokenizer:
    """A Unigram of T5's kind, trained on `SENTENCES`, without byte fallback."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=["<unk>", "</s>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES * 3, trainer)
    return tokenizer


def wordpiece() -> Tokenizer:
    """A WordPiece of BERT's kind, lower case, trained on `SENTENCES`."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=150, special_tokens=["[UNK]", "[CLS]", "[SEP]"], show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES * 3, trainer)
    return tokenizer


def slow_alignment(
    teacher_ends: Sequence[int], student_ends: Sequence[int]
) -> list[tuple[int, int, int, bool]]:
    """Per student position (teacher row, emitted, tail, one to one), by walking bytes."""
    owner: list[int] = []
    begins: list[int] = []
    for row, end in enumerate(teacher_ends):
        begins.append(len(owner))
        while len(owner) < end:
            owner.append(row)
    result = []
    begin = 0
    for end in student_ends:
        if end > len(owner):
            result.append((-1, 0, 0, False))
        else:
            row = owner[begin]
            exact = begins[row] == begin and teacher_ends[row] == end
            result.append((row, begin - begins[row], owner[end - 1] - row, exact))
        begin = end
    return result


class SlowPrefix:
    """Prefix targets by the definition: dictionaries, loops over bytes, float64."""

    def __init__(
        self,
        teacher: Tokenizer,
        student: Tokenizer,
        specials: dict[int, int],
        num_student_rows: int,
    ) -> None:
        self.teacher, self.bytes_of = vocabulary_bytes(teacher), vocabulary_bytes(student)
        self.student: dict[bytes, int] = {}
        # Of two tokens with the same bytes the added one is what the tokenizer gives.
        added = student.get_added_tokens_decoder()
        for index in sorted(self.bytes_of, key=lambda index: (index in added, index)):
            self.student[self.bytes_of[index]] = index
        self.tokenizer = student
        self.specials, self.num_student_rows = specials, num_student_rows
        self.cache: dict[tuple[bytes, bool], int | None] = {}

    def phi(self, token: int, emitted: int) -> int | None:
        if token not in self.teacher:
            return self.specials.get(token)
        rest = self.teacher[token][emitted:]
        key = (rest, emitted == 0)
        if key not in self.cache:
            own = self._own(rest) if emitted == 0 else None
            self.cache[key] = own if own is not None else self._longest(rest)
        return self.cache[key]

    def _own(self, content: bytes) -> int | None:
        try:
            ids = self.tokenizer.encode(content.decode("utf-8"), add_special_tokens=False).ids
        except UnicodeDecodeError:
            return None
        return ids[0] if ids and b"".join(self.bytes_of.get(i, b"") for i in ids) == content else None

    def _longest(self, content: bytes) -> int | None:
        for size in range(len(content), 0, -1):
            if content[:size] in self.student:
                return self.student[content[:size]]
        return None

    def target(
        self, log_probs: Sequence[float], teacher: int, student: int, emitted: int, tail: int, tail_log: float
    ) -> tuple[dict[int | None, float], float]:
        """Return (student id or None for the residual -> mass, the chain value that was moved)."""
        prefix = self.teacher[teacher][:emitted]
        if emitted == 0:
            weights = {index: math.exp(value) for index, value in enumerate(log_probs)}
        else:
            reachable = [i for i, b in self.teacher.items() if len(b) > emitted and b[:emitted] == prefix]
            weights = {index: math.exp(log_probs[index]) for index in reachable}
            total = math.fsum(weights.values())
            weights = {index: weight / total for index, weight in weights.items()}
        mass: dict[int | None, float] = {}
        for index, weight in weights.items():
            column = self.phi(index, emitted)
            mass[column] = mass.get(column, 0.0) + weight
        source = self.phi(teacher, emitted)
        moved = min(weights[teacher] * (math.exp(tail_log) if tail else 1.0), mass[source])
        mass[source] -= moved
        mass[student] = mass.get(student, 0.0) + moved
        return mass, moved


def as_dense(mass: dict[int | None, float], num_rows: int) -> tuple[list[float], float]:
    """Return (renormalised list over the student's rows, residual)."""
    residual = mass.get(None, 0.0)
    written = math.fsum(value for column, value in mass.items() if column is not None)
    row = [0.0] * num_rows
    for column, value in mass.items():
        if column is not None and written > 0:
            row[column] = value / written
    return row, residual


def vocabulary_bytes(tokenizer: Any) -> dict[int, bytes]:
    """Return id -> bytes of a byte-level tokenizer's ordinary tokens, straight from its vocabulary."""
    letters = {letter: byte for byte, letter in enumerate(gpt2_letters())}
    added = tokenizer.get_added_tokens_decoder()
    result = {}
    for token, index in tokenizer.get_vocab(True).items():
        if index in added:
            if not added[index].special:
                result[index] = token.encode("utf-8")
        else:
            result[index] = bytes(letters[letter] for letter in token)
    return result
