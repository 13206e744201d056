"""One text under two tokenizers: ids and byte ends that provably speak of the same bytes.

Tokenizers change text before they split it: Unicode normalisation, a space put in front (dummy prefix),
lower case. Both sides must read the *same* bytes, so the text is first brought to a fixpoint of both
normalisers, and if one side puts a space in front, the other is given that space.

Invariant: of every pair returned, both id sequences join to the same byte string, which is the normalised
text with at most one space in front, and the last end of either side is its length. Whatever cannot be
brought there (an unknown character, one that the tokenizer drops, an added token that eats the spaces around
it) is counted by cause, never aligned wrongly: the tokens around it stay where they are, for the models to
read, but have no bytes and are not trained on (`unspelled`). A text of which nothing is left is refused.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distillation.tokenizers.plain_text import PlainText
from distillation.tokenizers.token_bytes import (
    SPACE_MARK,
    WORD_FAMILIES,
    TokenBytes,
    components,
    tokens_as_bytes,
)
from distillation.tokenizers.unspelled import (
    Gap,
    PlacedTokens,
    causes_at,
    common_stretches,
    place_tokens,
    sorted_gaps,
)

MAX_ROUNDS = 4
"""Normalisers that still change each other's output after so many rounds are not going to agree."""
NOT_THE_TEXT = "tokens do not give the text back"
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
class Losses:
    """The student's tokens around what one side cannot spell."""

    text: str
    """The common text, with what was lost."""
    begins: np.ndarray
    """int64 (num_lost,): where each lost token begins in it, in bytes."""
    ends: np.ndarray
    causes: tuple[str, ...]
    """Of each lost token."""
    all_causes: frozenset[str]
    """Those too that cost no token of the student, which has none for the text."""


@dataclass(frozen=True)
class EncodedPair:
    """The same bytes in the tokens of the teacher and of the student."""

    teacher: EncodedText
    student: EncodedText
    num_bytes: int
    """Length of the common text in UTF-8."""
    trained: np.ndarray | None = None
    """bool (num_student_tokens,): the student's tokens that may enter a loss; None stands for all."""
    losses: Losses | None = None
    """What a plain text lost; None: nothing, or a conversation, or a piece of something."""


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
        self.shortened: Counter[str] = Counter()
        """Texts that lost a part so far, by cause; those with several causes count under each."""
        self.lost: Counter[str] = Counter()
        """Student tokens lost so far in plain texts, refused ones included, by cause."""

    def encode(self, texts: Sequence[str]) -> list[EncodedPair | None]:
        """Encode `texts`; None stands for a text that was refused (see `refusals` and `lost`)."""
        outcomes = self.outcomes(texts)
        for text, outcome in zip(texts, outcomes, strict=True):
            if isinstance(outcome, Refusal):
                self.refusals[str(outcome)] += 1
                self.lost[str(outcome)] += len(self._student.ids([as_unicode(text)])[0])
            elif outcome.losses is not None:
                self.shortened.update(outcome.losses.all_causes)
                self.lost.update(outcome.losses.causes)
        return [None if isinstance(outcome, Refusal) else outcome for outcome in outcomes]

    def outcomes(self, texts: Sequence[str]) -> list[EncodedPair | Refusal]:
        """Encode `texts`; a text that is refused gives the cause, which is not counted."""
        normalised = [self._normalised(text) for text in texts]
        batch = [text for text in normalised if not isinstance(text, Refusal)]
        # Most texts need no second try when the side that puts no space in front is given it at once.
        spaced = [text if text.startswith(" ") else " " + text for text in batch]
        teacher = self._teacher.ids(spaced if self._spaces == (False, True) else batch)
        student = self._student.ids(spaced if self._spaces == (True, False) else batch)
        pairs = map(self._pair_or_stretches, batch, teacher, student)
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

    def _pair_or_stretches(
        self, text: str, teacher_ids: list[int], student_ids: list[int]
    ) -> EncodedPair | Refusal:
        outcome = self._pair(text, teacher_ids, student_ids)
        return self._stretches(text, outcome) if isinstance(outcome, Refusal) else outcome

    def _stretches(self, text: str, refusal: Refusal) -> EncodedPair | Refusal:
        """Pair what both sides spell of `text`; the refusal of the whole if that is nothing."""
        teacher = self._placed(text, self._teacher, self.teacher_bytes, "teacher")
        student = self._placed(text, self._student, self.student_bytes, "student")
        teacher_lengths, student_lengths = np.zeros_like(teacher.ends), np.zeros_like(student.ends)
        for teacher_rows, student_rows in common_stretches((teacher, student), len(text.encode("utf-8"))):
            teacher_lengths[teacher_rows] = (teacher.ends - teacher.begins)[teacher_rows]
            student_lengths[student_rows] = (student.ends - student.begins)[student_rows]
        if not student_lengths.any():
            return refusal
        is_lost = student_lengths == 0
        begins, ends = np.maximum(student.begins[is_lost], 0), student.ends[is_lost]
        gaps = sorted_gaps((teacher, student)) or [Gap(0, 0, str(refusal))]
        all_causes = frozenset(gap.cause for gap in gaps)
        return EncodedPair(
            EncodedText(teacher.ids, teacher_lengths.cumsum(dtype=np.int32)),
            EncodedText(student.ids, student_lengths.cumsum(dtype=np.int32)),
            num_bytes=int(student_lengths.sum()),
            trained=~is_lost,
            losses=Losses(text, begins, ends, tuple(causes_at(gaps, begins, ends)), all_causes),
        )

    def _placed(self, text: str, reader: PlainText, tokens: TokenBytes, role: str) -> PlacedTokens:
        """Return the tokens of one side on the bytes of `text`."""
        other_has_space = self._spaces == ((False, True) if role == "teacher" else (True, False))
        has_space_in_front = other_has_space or self._spaces[role == "student"]
        num_extra = int(other_has_space and not text.startswith(" "))
        [encoding] = reader.encodings([" " * num_extra + text])

        def cause_of(index: int) -> str:
            return f"{_cause(tokens, index, text)} ({role})"

        return place_tokens(
            tokens, encoding, text, num_extra, has_space_in_front, cause_of, f"{NOT_THE_TEXT} ({role})"
        )

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
                return Refusal(f"{NOT_THE_TEXT} ({side})")
        if teacher != student:
            return Refusal("only one side has a space in front")
        return EncodedPair(
            teacher=_encoded(self.teacher_bytes, teacher_ids),
            student=_encoded(self.student_bytes, student_ids),
            num_bytes=len(teacher),
        )


def as_unicode(text: str) -> str:
    """Return `text` with another character in the place of each that has no UTF-8 form."""
    return text.encode("utf-8", "replace").decode("utf-8")


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
        return _cause(tokens, next(index for index in ids if tokens.table[index] is None), text)


def _cause(tokens: TokenBytes, culprit: int, text: str) -> str:
    """Return why the token `culprit` of `text` has no bytes."""
    # The unknown token may be a special one too: what tells them apart is whether it was written out.
    written = any(string in text for string, index in tokens.special_strings.items() if index == culprit)
    return "special token in the text" if written else "unknown token"


def puts_space_in_front(reader: PlainText, tokens: TokenBytes) -> bool:
    """Tell whether the tokenizer writes a space before the first word of a text."""
    return tokens.family in WORD_FAMILIES or _join(tokens, reader.ids(["a"])[0], "a") == b" a"


def _encoded(tokens: TokenBytes, ids: list[int]) -> EncodedText:
    array = np.fromiter(ids, dtype=np.int32, count=len(ids))
    return EncodedText(ids=array, ends=tokens.lengths.take(array).cumsum(dtype=np.int32))
