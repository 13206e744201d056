"""One text under two tokenizers: ids and byte ends that provably speak of the same bytes.

Tokenizers change text before they split it: Unicode normalisation, a space put in front (dummy prefix),
lower case. Both sides must read the *same* bytes, so the text is first brought to a fixpoint of both
normalisers, and if one side puts a space in front, the other is given that space.

Invariant: of every pair returned, both id sequences join to the same byte string, which is the normalised
text with at most one space in front, and the last end of either side is its length. Whatever cannot be
brought there (an unknown character that the tokenizer drops, an added token that eats the spaces around it)
is refused and counted by cause, never aligned wrongly.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distillation.alignment.plain_text import PlainText
from distillation.alignment.token_bytes import (
    SPACE_MARK,
    WORD_FAMILIES,
    TokenBytes,
    components,
    tokens_as_bytes,
)

MAX_ROUNDS = 4
"""Normalisers that still change each other's output after so many rounds are not going to agree."""
UNICODE_FORMS = ("NFC", "NFD", "NFKC", "NFKD")


class Refusal(str):
    """The cause why a text cannot be used, in the place of what was asked for."""


@dataclass(frozen=True)
class EncodedText:
    """A text in the tokens of one tokenizer: no start token, no special tokens."""

    ids: np.ndarray
    """int32 (num_tokens,)."""
    ends: np.ndarray
    """int32 (num_tokens,): where each token ends, in bytes of the common text. A token that ends where the
    one before it does has no bytes: a chat template's, which the model reads but nothing aligns with."""

    @property
    def begins(self) -> np.ndarray:
        """int32 (num_tokens,): where each token begins, in bytes."""
        return np.concatenate([np.zeros(1, dtype=self.ends.dtype), self.ends[:-1]])[: len(self.ends)]


@dataclass(frozen=True)
class EncodedPair:
    """The same bytes in the tokens of the teacher and of the student."""

    teacher: EncodedText
    student: EncodedText
    num_bytes: int
    """Length of the common text in UTF-8."""
    trained: np.ndarray | None = None
    """bool (num_student_tokens,): the student's tokens that may enter a loss; None stands for all."""


class PairEncoder:
    """Encodes texts with both tokenizers at once.

    Args:
        teacher_tokenizer: fast tokenizer of transformers, or a `tokenizers.Tokenizer`.
        student_tokenizer: likewise.
        num_teacher_rows: rows of the teacher's model; added tokens beyond them are not used. None: any.
        num_student_rows: likewise.

    Raises:
        AlignmentError: a tokenizer's tokens cannot be turned into bytes, or a model lacks rows of them.
    """

    def __init__(
        self,
        teacher_tokenizer: Any,
        student_tokenizer: Any,
        *,
        num_teacher_rows: int | None = None,
        num_student_rows: int | None = None,
    ) -> None:
        self.tokenizers = (teacher_tokenizer, student_tokenizer)
        self.teacher_bytes = tokens_as_bytes(teacher_tokenizer).in_rows(num_teacher_rows, "teacher")
        self.student_bytes = tokens_as_bytes(student_tokenizer).in_rows(num_student_rows, "student")
        self._teacher = PlainText(teacher_tokenizer, num_teacher_rows)
        self._student = PlainText(student_tokenizer, num_student_rows)
        self._normalisers = [
            normalise
            for side, tokens in ((self._teacher, self.teacher_bytes), (self._student, self.student_bytes))
            if (normalise := content_normaliser(side.backend, tokens.family)) is not None
        ]
        self._spaces = (
            puts_space_in_front(self._teacher, self.teacher_bytes),
            puts_space_in_front(self._student, self.student_bytes),
        )
        self.refusals: Counter[str] = Counter()
        """Texts refused so far, by cause."""

    def encode(self, texts: Sequence[str]) -> list[EncodedPair | None]:
        """Encode `texts`; None stands for a text that was refused (see `refusals`)."""
        outcomes = self.outcomes(texts)
        self.refusals.update(str(outcome) for outcome in outcomes if isinstance(outcome, Refusal))
        return [None if isinstance(outcome, Refusal) else outcome for outcome in outcomes]

    def outcomes(self, texts: Sequence[str]) -> list[EncodedPair | Refusal]:
        """Encode `texts`; a text that is refused gives the cause, which is not counted."""
        normalised = [self._normalised(text) for text in texts]
        batch = [text for text in normalised if not isinstance(text, Refusal)]
        # Most texts need no second try when the side that puts no space in front is given it at once.
        spaced = [text if text.startswith(" ") else " " + text for text in batch]
        teacher = self._teacher.ids(spaced if self._spaces == (False, True) else batch)
        student = self._student.ids(spaced if self._spaces == (True, False) else batch)
        pairs = map(self._pair, batch, teacher, student)
        return [text if isinstance(text, Refusal) else next(pairs) for text in normalised]

    def normalise(self, text: str) -> str | None:
        """Return the form of `text` that neither normaliser changes; None, counted, if there is none."""
        outcome = self._normalised(text)
        if isinstance(outcome, Refusal):
            self.refusals[str(outcome)] += 1
            return None
        return outcome

    def _normalised(self, text: str) -> str:
        """Return that form, or a `Refusal`."""
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            return Refusal("not valid Unicode")
        for _ in range(MAX_ROUNDS):
            changed = text
            for normalise in self._normalisers:
                changed = normalise(changed)
            if changed == text:
                break
            text = changed
        else:
            return Refusal("normalisers disagree")
        return text or Refusal("empty")

    def _pair(self, text: str, teacher_ids: list[int], student_ids: list[int]) -> EncodedPair | Refusal:
        """Pair the ids of one text, or return the cause of its refusal."""
        teacher = _join(self.teacher_bytes, teacher_ids, text)
        student = _join(self.student_bytes, student_ids, text)
        if isinstance(teacher, bytes) and isinstance(student, bytes) and teacher != student:
            # One side put a space in front: give that space to the other side too.
            if teacher == b" " + student:
                student_ids = self._student.ids([" " + text])[0]
                student = _join(self.student_bytes, student_ids, text)
            elif student == b" " + teacher:
                teacher_ids = self._teacher.ids([" " + text])[0]
                teacher = _join(self.teacher_bytes, teacher_ids, text)
        expected = text.encode("utf-8")
        for joined, side in ((teacher, "teacher"), (student, "student")):
            if isinstance(joined, str):
                return Refusal(f"{joined} ({side})")
            # Equal on both sides is not enough: two tokenizers may lose the same character.
            if joined not in (expected, b" " + expected):
                return Refusal(f"tokens do not give the text back ({side})")
        if teacher != student:
            return Refusal("only one side has a space in front")
        return EncodedPair(
            teacher=_encoded(self.teacher_bytes, teacher_ids),
            student=_encoded(self.student_bytes, student_ids),
            num_bytes=len(teacher),
        )


def content_normaliser(backend: Any, family: str) -> Callable[[str], str] | None:
    """Return what the tokenizer does to a text's *content* before it splits it; None if nothing.

    Left out is what only writes the same content in another alphabet: `▁` for a space, the space in
    front, the byte alphabet. A `▁` of the text itself is a space to SentencePiece. WordPiece drops the
    spacing between words, so its content is the words with one space between them.
    """
    parts = [part for part in components(backend, "normalizer") if not _is_spelling(part)]
    steps: list[Callable[[str], str]] = []
    if parts:
        steps.append(_run_parts(parts))
    if family.startswith("sentencepiece"):
        steps.append(lambda text: text.replace(SPACE_MARK, " "))
    if family in WORD_FAMILIES and backend.pre_tokenizer is not None:
        split = backend.pre_tokenizer.pre_tokenize_str
        steps.append(lambda text: " ".join(piece for piece, _ in split(text)))
    if not steps:
        return None

    def normalise(text: str) -> str:
        for step in steps:
            text = step(text)
        return text

    return normalise


def _run_parts(parts: list[dict[str, Any]]) -> Callable[[str], str]:
    from tokenizers import normalizers

    rust = normalizers.Sequence([])
    rust.__setstate__(json.dumps({"type": "Sequence", "normalizers": parts}).encode("utf-8"))
    only_unicode_forms = all(part["type"] in UNICODE_FORMS for part in parts)

    def run(text: str) -> str:
        return text if only_unicode_forms and text.isascii() else rust.normalize_str(text)

    return run


def _is_spelling(part: dict[str, Any]) -> bool:
    """Tell whether a part of a normaliser leaves the content as it is.

    Not so a Replace that writes one `▁` for a run of spaces: the number of spaces is content.
    """
    if part["type"] == "Prepend":
        return part["prepend"] in (SPACE_MARK, " ")
    if part["type"] == "Replace":
        return part["content"] == SPACE_MARK and part["pattern"] == {"String": " "}
    return part["type"] == "ByteLevel"


def _join(tokens: TokenBytes, ids: list[int], text: str) -> bytes | str:
    """Return the bytes of `ids`, or the cause why there are none."""
    try:
        return tokens.join(ids)
    except TypeError:
        culprit = next(index for index in ids if tokens.table[index] is None)
    # The unknown token may be a special one too: what tells them apart is whether it was written out.
    written = any(string in text for string, index in tokens.special_strings.items() if index == culprit)
    return "special token in the text" if written else "unknown token"


def puts_space_in_front(reader: PlainText, tokens: TokenBytes) -> bool:
    """Tell whether the tokenizer writes a space before the first word of a text."""
    return _join(tokens, reader.ids(["a"])[0], "a") == b" a"


def _encoded(tokens: TokenBytes, ids: list[int]) -> EncodedText:
    array = np.fromiter(ids, dtype=np.int32, count=len(ids))
    return EncodedText(ids=array, ends=tokens.lengths.take(array).cumsum(dtype=np.int32))
