"""Chat templates written out in Python, tokenizers that have them, and pairs made by walking characters.

Nothing here calls the code under test. A template is a function that gives each character of the rendered
text with the message and the byte of its content that it stands for, or None for scaffolding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from alignment_reference import gpt2_letters, sentencepiece_bpe, trained_byte_level
from transformers import PreTrainedTokenizerFast

Mark = tuple[int, int] | None
Marked = list[tuple[str, Mark]]
Messages = Sequence[dict[str, str]]

CHATML = """{% for message in messages -%}
<|im_start|>{{ message['role'] }}
{{ message['content'] }}<|im_end|>
{% endfor %}"""
TRIMMING = """{{ bos_token }}{% if messages[0]['role'] != 'system' %}<|im_start|>system
Be brief.<|im_end|>
{% endif %}{% for message in messages -%}
<|im_start|>{{ message['role'] }}
{{ message['content'] | trim }}<|im_end|>
{% endfor %}"""
LLAMA = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'system' %}"
    "{{ '<<SYS>>\\n' + message['content'] + '\\n<</SYS>>\\n\\n' }}{% elif message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'].strip() + ' [/INST]' }}{% else %}"
    "{{ ' ' + message['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
ZEPHYR = """{% for message in messages -%}
<|{{ message['role'] }}|>
{{ message['content'] }}</s>
{% endfor %}"""


def chatml(messages: Messages) -> Marked:
    parts: Marked = []
    for index, message in enumerate(messages):
        parts += scaffold(f"<|im_start|>{message['role']}\n")
        parts += content(index, message["content"], message["content"])
        parts += scaffold("<|im_end|>\n")
    return parts


def trimming(messages: Messages) -> Marked:
    parts = scaffold("<|endoftext|>")
    if messages[0]["role"] != "system":
        parts += scaffold("<|im_start|>system\nBe brief.<|im_end|>\n")
    for index, message in enumerate(messages):
        parts += scaffold(f"<|im_start|>{message['role']}\n")
        parts += content(index, message["content"], message["content"].strip())
        parts += scaffold("<|im_end|>\n")
    return parts


def llama(messages: Messages) -> Marked:
    parts = scaffold("<s>")
    for index, message in enumerate(messages):
        text = message["content"]
        if message["role"] == "system":
            parts += scaffold("<<SYS>>\n") + content(index, text, text) + scaffold("\n<</SYS>>\n\n")
        elif message["role"] == "user":
            parts += scaffold("[INST] ") + content(index, text, text.strip()) + scaffold(" [/INST]")
        else:
            parts += scaffold(" ") + content(index, text, text.strip()) + scaffold(" </s>")
    return parts


def zephyr(messages: Messages) -> Marked:
    parts: Marked = []
    for index, message in enumerate(messages):
        parts += scaffold(f"<|{message['role']}|>\n")
        parts += content(index, message["content"], message["content"]) + scaffold("</s>\n")
    return parts


def scaffold(text: str) -> Marked:
    return [(letter, None) for letter in text]


def content(message: int, whole: str, kept: str) -> Marked:
    """Mark each character of `kept` with the byte of `whole` at which it begins."""
    place = len(whole[: whole.index(kept)].encode())
    marked: Marked = []
    for letter in kept:
        marked.append((letter, (message, place)))
        place += len(letter.encode())
    return marked


TEMPLATES: dict[str, Callable[[Messages], Marked]] = {
    "chatml": chatml,
    "trimming": trimming,
    "llama": llama,
    "zephyr": zephyr,
}


def chat_tokenizer(name: str) -> PreTrainedTokenizerFast:
    if name == "llama":
        tokenizer = sentencepiece_bpe()
        names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=LLAMA, **names)
    if name == "zephyr":
        tokenizer = trained_byte_level(300)
        tokenizer.add_special_tokens(["</s>", "<|user|>"])
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=ZEPHYR, eos_token="</s>")
    tokenizer = trained_byte_level(420 if name == "chatml" else 330, split_digits=name == "trimming")
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    names = {"eos_token": "<|im_end|>"} | ({"bos_token": "<|endoftext|>"} if name == "trimming" else {})
    template = CHATML if name == "chatml" else TRIMMING
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=template, **names)


def token_bytes(tokenizer: Any) -> dict[int, bytes]:
    """Return id -> bytes of ordinary tokens, by the published rules of the two families."""
    letters = {letter: byte for byte, letter in enumerate(gpt2_letters())}
    special = {"<s>", "</s>", "<unk>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|user|>"}
    is_sentencepiece = "<0x00>" in tokenizer.get_vocab()
    result = {}
    for token, index in tokenizer.get_vocab().items():
        if token in special:
            continue
        if not is_sentencepiece:
            result[index] = bytes(letters[letter] for letter in token)
        elif token.startswith("<0x"):
            result[index] = bytes([int(token[3:5], 16)])
        else:
            result[index] = token.replace("▁", " ").encode()
    return result


class SlowSide:
    """The tokens of a rendered conversation, each with the marks of its bytes."""

    def __init__(self, tokenizer: Any, marked: Marked) -> None:
        self.text = "".join(letter for letter, _ in marked)
        table = token_bytes(tokenizer)
        stream: list[tuple[int, Mark]] = []
        for letter, mark in marked:
            for step, byte in enumerate(letter.encode()):
                stream.append((byte, None if mark is None else (mark[0], mark[1] + step)))
        self.ids = tokenizer.backend_tokenizer.encode(self.text, add_special_tokens=False).ids
        self.is_special = [index not in table for index in self.ids]
        self.names = tokenizer.convert_ids_to_tokens(self.ids)
        self.bytes = [
            table.get(index, name.encode()) for index, name in zip(self.ids, self.names, strict=True)
        ]
        self.marks: list[list[Mark]] = []
        for spelled in self.bytes:
            here: list[Mark] = []
            for byte in spelled:
                if stream and stream[0][0] == byte:
                    here.append(stream.pop(0)[1])
                else:
                    assert byte == 0x20, "only a space in front of a segment has no text"
                    assert not here
                    here.append(None)
            self.marks.append(here)
        assert not stream

    def span(self, token: int, message: int, inside: range) -> tuple[int, int] | None:
        """Return begin and end of a token that is wholly within `inside` of the content of `message`."""
        marks = self.marks[token]
        if any(mark is None or mark[0] != message or mark[1] not in inside for mark in marks):
            return None
        return marks[0][1], marks[-1][1] + 1

    def touches(self, token: int, message: int) -> bool:
        return any(mark is not None and mark[0] == message for mark in self.marks[token])

    def end_of_turn(self, message: int) -> int | None:
        """Return the first special token behind the content, if only white space is between."""
        last = max(token for token in range(len(self.ids)) if self.touches(token, message))
        for token in range(last + 1, len(self.ids)):
            if self.is_special[token]:
                return None if self.names[token] == "<s>" else token
            if self.bytes[token].strip():
                return None
        return None


def slow_pair(
    messages: Messages, teacher: SlowSide, student: SlowSide
) -> tuple[list[int], list[int], list[bool]]:
    """Return the bytes of every token of both sides, and which of the student's tokens are trained on."""
    sides = (teacher, student)
    lengths = [[0] * len(side.ids) for side in sides]
    trained = [False] * len(student.ids)
    for message, one in enumerate(messages):
        if not one["content"].strip():
            continue
        kept = [
            {mark[1] for marks in side.marks for mark in marks if mark and mark[0] == message}
            for side in sides
        ]
        common = kept[0] & kept[1]
        inside = range(min(common), max(common) + 1)
        spans = [
            {t: s for t in range(len(side.ids)) if not side.is_special[t]
             and (s := side.span(t, message, inside))}
            for side in sides
        ]  # fmt: skip
        starts = {begin for begin, _ in spans[0].values()} & {begin for begin, _ in spans[1].values()}
        stops = {end for _, end in spans[0].values()} & {end for _, end in spans[1].values()}
        covered = None
        if starts and stops and min(starts) < max(stops):
            covered = min(starts), max(stops)
            for number in (0, 1):
                for token, (begin, end) in spans[number].items():
                    if covered[0] <= begin and end <= covered[1]:
                        lengths[number][token] = end - begin
        if one["role"] != "assistant":
            continue
        touching = [token for token in range(len(student.ids)) if student.touches(token, message)]
        ends = [side.end_of_turn(message) for side in sides]
        last = touching[-1] if ends[1] is None else ends[1]
        for token in range(touching[0], last + 1):
            trained[token] = True
        if covered is None or None in ends:
            continue
        directly = all(
            lengths[number][ends[number] - 1] and covered[1] == max(kept[number]) + 1 for number in (0, 1)
        )
        if directly and teacher.names[ends[0]] == student.names[ends[1]]:
            lengths[0][ends[0]] = lengths[1][ends[1]] = 1
    return lengths[0], lengths[1], trained
