"""Conversations under two chat templates: each model reads its own, only what both read is aligned.

A model is asked the way it was taught to be asked, so each side renders a conversation with its own template
and tokenises the whole of it. Of that, the contents of the messages are common to both; headers, special
tokens and scaffolding are not. Inside a message let [lo, hi] be the first byte where a token of both sides
begins and the last where one of both ends. The tokens between are the pair's content tokens: they cover the
same bytes. Every other token has no bytes (`spans`): its model reads it, and nothing aligns with it.

Trained on is the answer: the student's tokens with a byte of an assistant's message, among them the one
that straddles its edge (` Yes` after `[/INST]`), up to the special token that ends the turn. Where both sides
write the same special token directly after the content, it stands for one byte that is no text, so that the
student learns from the teacher where to stop. Elsewhere the text alone teaches it: of two different tokens
not every aligner knows that they mean the same. An answer without text is not trained on: it would teach to
say nothing.

Invariants: content tokens of both sides join to the same bytes; outside an assistant's turn nothing is
trained on; a start token in front, on one side or both, changes nothing; what spells a special token inside a
content is text.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from distillation.tokenizers.chat_template import ChatTemplate, Message, RenderedChat
from distillation.tokenizers.pairs import EncodedPair, EncodedText, PairEncoder
from distillation.tokenizers.plain_text import (
    hidden_name,
    special_strings,
    unchanging_backend,
    with_hidden_names,
)
from distillation.tokenizers.token_bytes import TokenBytes
from distillation.tokenizers.unspelled import byte_places

ANSWERING = "assistant"


class ChatEncoder:
    """Encodes conversations for both models at once.

    Args:
        encoder: the pair's encoder of plain texts; refused conversations are counted in its `refusals`.
        teacher_start: token that will stand before the teacher's ids in any case: one that the template
            writes in front is taken off.
        student_start: likewise.

    Raises:
        AlignmentError: a tokenizer has no chat template.
    """

    def __init__(self, encoder: PairEncoder, teacher_start: int | None, student_start: int | None) -> None:
        self.encoder = encoder
        teacher, student = encoder.tokenizers
        self._teacher = _Side(teacher, encoder.teacher_bytes, teacher_start, "teacher")
        self._student = _Side(student, encoder.student_bytes, student_start, "student")

    def encode(self, conversations: Sequence[Sequence[Message]]) -> list[EncodedPair | None]:
        """Encode conversations, lists of `role` and `content`; None stands for one that was refused."""
        results: list[EncodedPair | None] = [None] * len(conversations)
        prepared = [
            (index, conversation)
            for index, conversation in enumerate(map(self._prepare, conversations))
            if conversation is not None
        ]
        batch = [conversation for _, conversation in prepared]
        teacher, student = self._teacher.read(batch), self._student.read(batch)
        for (index, conversation), one, other in zip(prepared, teacher, student, strict=True):
            outcome: EncodedPair | str
            if isinstance(one, str) or isinstance(other, str):
                outcome = one if isinstance(one, str) else str(other)
            else:
                outcome = _pair(conversation, one, other)
            if isinstance(outcome, str):
                self.encoder.refusals[outcome] += 1
            else:
                results[index] = outcome
        return results

    def _prepare(self, conversation: Sequence[Message]) -> list[Message] | None:
        """Bring all contents to a form that neither tokenizer changes; None, counted, if there is none."""
        if not any(one["role"] == ANSWERING and one["content"].strip() for one in conversation):
            self.encoder.refusals["no answer"] += 1
            return None
        prepared: list[Message] = []
        for message in conversation:
            content: str | None = message["content"]
            if content is not None and content.strip():
                content = self.encoder.normalise(content)
            if content is None:
                return None
            prepared.append({"role": message["role"], "content": content if content.strip() else ""})
        return prepared


@dataclass(frozen=True)
class _Reading:
    """A conversation in the tokens of one model; places are bytes of its own rendered text."""

    ids: np.ndarray
    begins: np.ndarray
    """int64 (num_tokens,): the first token after a special one may begin a byte before the text it stands
    for, where the tokenizer puts a space in front."""
    ends: np.ndarray
    specials: np.ndarray
    """int64: which of the tokens are special ones, ascending."""
    content: bytes
    """The rendered text."""
    places: np.ndarray
    """int64 (num_messages, 2): where each message's content begins and ends."""
    kept: np.ndarray
    """int64 (num_messages, 2): which bytes of the content stand there."""
    side: _Side

    def answer(self, message: int) -> tuple[int, int]:
        """Return the range of the tokens with a byte of the content of `message`."""
        begin, end = self.places[message]
        return int(np.searchsorted(self.ends, begin, "right")), int(np.searchsorted(self.begins, end, "left"))

    def end_of_turn(self, message: int) -> int | None:
        """Return the special token after the content of `message`, at most white space away; else None."""
        end = self.places[message, 1]
        place = np.searchsorted(self.specials, np.searchsorted(self.begins, end, "left"))
        if place == len(self.specials):
            return None
        index = int(self.specials[place])
        is_next_turn = self.ids[index] == self.side.bos
        return None if is_next_turn or self.content[end : self.begins[index]].strip() else index

    def special_text(self, index: int) -> str:
        """Return the text of the special token at `index`."""
        return self.side.special_texts[int(self.ids[index])]


class _Side:
    """One of the two models: its template, its tokenizer, its start token."""

    def __init__(self, tokenizer: Any, tokens: TokenBytes, start: int | None, role: str) -> None:
        self.template = ChatTemplate(tokenizer, role)
        self.backend = unchanging_backend(tokenizer)
        self.tokens = tokens
        self.role = role
        self.start = start
        self.special_texts = {index: text for text, index in tokens.special_strings.items()}
        strings = sorted(special_strings(tokenizer), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, strings)) or "(?!)")
        self._strings = strings
        roles = tokens.special_roles
        # A tokenizer may end turns and begin texts with one token; only an own BOS begins the next turn.
        self.bos = None if roles.get("bos") == roles.get("eos") else roles.get("bos")

    def read(self, conversations: Sequence[Sequence[Message]]) -> list[_Reading | str]:
        """Render and tokenise; a string is the cause why a conversation cannot be used."""
        rendered = [self.template.render(conversation) for conversation in conversations]
        texts = [one.text for one in rendered if isinstance(one, RenderedChat)]
        encodings = iter(self.backend.encode_batch(texts, add_special_tokens=False))
        readings: list[_Reading | str] = []
        for conversation, one in zip(conversations, rendered, strict=True):
            outcome: _Reading | str
            if isinstance(one, str):
                outcome = one
            else:
                encoding = next(encodings)
                if any(self._special.search(message["content"]) for message in conversation):
                    outcome = self._read_apart(conversation, one)
                else:
                    outcome = self._read(conversation, one, encoding, self.special_texts)
            readings.append(f"{outcome} ({self.role})" if isinstance(outcome, str) else outcome)
        return readings

    @functools.cached_property
    def _hidden(self) -> Any:
        """The tokenizer with other names for its special tokens."""
        return with_hidden_names(self.backend, self._strings) or self.backend

    def _read_apart(self, conversation: Sequence[Message], rendered: RenderedChat) -> _Reading | str:
        """Read a conversation whose contents spell special tokens: only the template's own are meant as such.

        Those get the other names, and the contents, which do not, are text.
        """
        text, cursor, places = "", 0, []
        for begin, end in rendered.places:
            text += self._special.sub(lambda found: hidden_name(found[0]), rendered.text[cursor:begin])
            places.append((len(text), len(text) + end - begin))
            text += rendered.text[begin:end]
            cursor = end
        text += self._special.sub(lambda found: hidden_name(found[0]), rendered.text[cursor:])
        encoding = self._hidden.encode(text, add_special_tokens=False)
        names = {index: hidden_name(name) for index, name in self.special_texts.items()}
        return self._read(conversation, RenderedChat(text, tuple(places), rendered.kept), encoding, names)

    def _read(
        self,
        conversation: Sequence[Message],
        rendered: RenderedChat,
        encoding: Any,
        names: Mapping[int, str],
    ) -> _Reading | str:
        """Put the tokens of a rendered conversation in place; `names`: what special tokens are spelled as."""
        ids = np.asarray(encoding.ids, dtype=np.int64)
        if ids.max(initial=-1) >= len(self.tokens.table):
            return "the template writes a token that the model has no row for"
        byte_of = byte_places(rendered.text)
        content = rendered.text.encode("utf-8")
        specials = np.flatnonzero(self.tokens.lengths[ids] == 0)
        offsets = encoding.offsets
        special_places = np.zeros((len(specials), 2), dtype=np.int64)
        for row, index in enumerate(specials.tolist()):
            begin, end = offsets[index]
            if rendered.text[begin:end].strip() != names.get(int(ids[index]), "").strip():
                return "unknown token"
            special_places[row] = byte_of[begin], byte_of[end]
        places = byte_of[np.array(rendered.places, dtype=np.int64)]
        for begin, end in places.tolist():
            if ((special_places[:, 0] < end) & (special_places[:, 1] > begin)).any():
                return "special token in a content"
        spans = self._spans(ids, specials, special_places, content)
        if spans is None:
            return "tokens do not give the text back"
        kept_begins = [
            len(message["content"][:begin].encode("utf-8"))
            for message, (begin, _) in zip(conversation, rendered.kept, strict=True)
        ]
        kept = np.array(kept_begins, dtype=np.int64)[:, None] + places - places[:, :1]
        return _Reading(ids, *spans, specials, content, places, kept, self)

    def _spans(
        self, ids: np.ndarray, specials: np.ndarray, special_places: np.ndarray, content: bytes
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Return begins and ends of all tokens, or None if those between special ones are not the text."""
        begins, ends = np.zeros_like(ids), np.zeros_like(ids)
        begins[specials], ends[specials] = special_places[:, 0], special_places[:, 1]
        tokens_at = pairwise([-1, *specials.tolist(), len(ids)])
        bytes_at = pairwise([0, *special_places.ravel().tolist(), len(content)])
        for (before, after), (begin, end) in zip(tokens_at, list(bytes_at)[::2], strict=True):
            stretch = slice(before + 1, after)
            joined = self.tokens.join(ids[stretch])
            # After a special token some tokenizers put a space in front that no text has.
            num_extra = len(joined) - (end - begin)
            if num_extra not in (0, 1) or joined != b" " * num_extra + content[begin:end]:
                return None
            ends[stretch] = begin - num_extra + np.cumsum(self.tokens.lengths[ids[stretch]])
            begins[stretch] = ends[stretch] - self.tokens.lengths[ids[stretch]]
        return begins, ends


def _pair(conversation: Sequence[Message], teacher: _Reading, student: _Reading) -> EncodedPair | str:
    """Pair the two readings of one conversation, or return the cause of its refusal."""
    teacher_lengths, student_lengths = np.zeros_like(teacher.ids), np.zeros_like(student.ids)
    trained = np.zeros(len(student.ids), dtype=bool)
    for message, one in enumerate(conversation):
        if not one["content"]:
            continue
        common = _common_tokens(teacher, student, message)
        if common is not None:
            teacher_part, student_part = common
            teacher_lengths[teacher_part] = (teacher.ends - teacher.begins)[teacher_part]
            student_lengths[student_part] = (student.ends - student.begins)[student_part]
        if one["role"] != ANSWERING:
            continue
        first, last = student.answer(message)
        ends = teacher.end_of_turn(message), student.end_of_turn(message)
        trained[first : last if ends[1] is None else ends[1] + 1] = True
        if common is not None and ends == (teacher_part.stop, student_part.stop):
            is_same = teacher.special_text(teacher_part.stop) == student.special_text(student_part.stop)
            teacher_lengths[teacher_part.stop] = student_lengths[student_part.stop] = int(is_same)
    teacher_text, _ = _without_start(teacher, teacher_lengths)
    student_text, num_off = _without_start(student, student_lengths)
    return EncodedPair(teacher_text, student_text, int(student_lengths.sum()), trained[num_off:])


def _common_tokens(teacher: _Reading, student: _Reading, message: int) -> tuple[slice, slice] | None:
    """Return which tokens of either side are content tokens of `message`; None if there are none."""
    sides = (teacher, student)
    begin = max(int(side.kept[message, 0]) for side in sides)
    end = min(int(side.kept[message, 1]) for side in sides)
    inside = []
    for side in sides:
        # Where the content's first byte would stand, had nothing been stripped.
        origin = int(side.places[message, 0] - side.kept[message, 0])
        first = int(np.searchsorted(side.begins, origin + begin, "left"))
        last = int(np.searchsorted(side.ends, origin + end, "right"))
        inside.append((first, side.begins[first:last] - origin, side.ends[first:last] - origin))
    (_, teacher_begins, teacher_ends), (_, student_begins, student_ends) = inside
    starts = np.intersect1d(teacher_begins, student_begins, assume_unique=True)
    stops = np.intersect1d(teacher_ends, student_ends, assume_unique=True)
    if not len(starts) or not len(stops) or stops[-1] <= starts[0]:
        return None
    teacher_part, student_part = (
        slice(first + np.searchsorted(begins, starts[0]), first + np.searchsorted(ends, stops[-1]) + 1)
        for first, begins, ends in inside
    )
    return teacher_part, student_part


def _without_start(side: _Reading, lengths: np.ndarray) -> tuple[EncodedText, int]:
    """Return the tokens without a leading start token, and how many tokens that takes off."""
    num_off = int(len(side.ids) > 0 and side.ids[0] == side.side.start and not lengths[0])
    ends = np.cumsum(lengths[num_off:], dtype=np.int32)
    return EncodedText(side.ids[num_off:].astype(np.int32), ends), num_off
