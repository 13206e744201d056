"""A tokenizer's chat template, and where it puts the contents of the messages.

Searching a content in the rendered text would find the template's own words where a content repeats them (an
answer `assistant` after the header `assistant`). So the same roles are rendered once more with marks in place
of the contents: what stands between the marks is the scaffolding, and scaffolding and contents in turn must
spell the rendered text, to the character. Templates may strip a content, of all white space or of line ends.

A template may look into an answer for its thinking (`<think>...</think>`) and write both parts itself. Where
it writes them word for word as the content has them, the content stands there like any other.

Invariant: of every text returned, the places hold the contents, apart from stripped ends, in order.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distillation.errors import AlignmentError

Message = Mapping[str, str]
"""`role` and `content`."""

_MARK = re.compile("\ue000([0-9]+)\ue001")
"""Private characters: no template writes, strips or splits them."""
_THINKING = re.compile(r"(\s*<(\w+)>\s*)(.*?)(\s*</\2>\s*)(.*\S.*)", re.DOTALL)
"""An answer that begins with a part between tags of one name, which templates take for its thinking."""
_FIXED_DAY = (
    "{%- macro strftime_now(format) %}{{ format | replace('%d', '26') | replace('%b', 'Jul') | "
    "replace('%B', 'July') | replace('%m', '07') | replace('%Y', '2024') | replace('%y', '24') }}"
    "{%- endmacro %}"
)
"""Some templates write today's date: a run that is resumed tomorrow would read another text."""


@dataclass(frozen=True)
class RenderedChat:
    """A conversation as the template writes it."""

    text: str
    """What the model reads, with special tokens written out."""
    places: tuple[tuple[int, int], ...]
    """Per message, where its content begins and ends in `text`, in characters."""
    kept: tuple[tuple[int, int], ...]
    """Per message, which characters of its content stand there."""


def has_chat_template(tokenizer: Any) -> bool:
    """Tell whether `tokenizer` can render conversations."""
    template = getattr(tokenizer, "chat_template", None)
    return "default" in template if isinstance(template, dict) else bool(template)


class ChatTemplate:
    """Renders conversations as one tokenizer's model reads them.

    Args:
        tokenizer: of transformers, with a chat template.
        role: `teacher` or `student`, for messages.

    Raises:
        AlignmentError: the tokenizer has no chat template.
    """

    def __init__(self, tokenizer: Any, role: str) -> None:
        if not has_chat_template(tokenizer):
            name = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
            raise AlignmentError(
                f"models.{role}.path = {name}: its tokenizer has no chat template, which conversations need; "
                "put a chat_template.jinja beside its tokenizer.json, for example the one of its instruct "
                "version, or read plain text without messages_column"
            )
        self._tokenizer = tokenizer
        template = tokenizer.get_chat_template()
        self._template = _FIXED_DAY + template if "strftime_now" in template else template
        self._scaffolds: dict[tuple[tuple[str, bool], ...], tuple[str, ...] | str] = {}

    def render(self, conversation: Sequence[Message]) -> RenderedChat | str:
        """Render `conversation`, or return the cause why it cannot be used."""
        key = tuple((message["role"], bool(message["content"])) for message in conversation)
        scaffold = self._scaffolds.get(key)
        if scaffold is None:
            scaffold = self._scaffolds[key] = self._scaffold(conversation)
        if isinstance(scaffold, str):
            return scaffold
        text = self._write(conversation)
        if isinstance(text, str):
            contents = [message["content"] for message in conversation]
            found = _locate(text, scaffold, contents)
            if found is None and any(map(_THINKING.fullmatch, contents)):
                found = _locate(text, self._scaffold_with_thinking(conversation), contents)
            return "the template changes a content" if found is None else RenderedChat(text, *found)
        return text[0]

    def _write(self, conversation: Sequence[Message]) -> str | tuple[str]:
        """Return the rendered text, or in a tuple the cause why there is none."""
        from jinja2 import TemplateError

        messages = [{"role": one["role"], "content": one["content"]} for one in conversation]
        try:
            return self._tokenizer.apply_chat_template(
                messages, chat_template=self._template, tokenize=False, add_generation_prompt=False
            )
        except (TemplateError, TypeError) as error:
            # Templates raise for roles that they do not know or that do not alternate.
            return (f"the template refuses the roles: {' '.join(str(error).split())[:80]}",)

    def _scaffold(self, conversation: Sequence[Message]) -> tuple[str, ...] | str:
        """Return what the template writes before, between and after the contents, or the cause."""
        # An empty content stays empty, because templates ask whether there is one.
        marked = [
            {"role": one["role"], "content": _mark(index) if one["content"] else ""}
            for index, one in enumerate(conversation)
        ]
        text = self._write(marked)
        if not isinstance(text, str):
            return text[0]
        parts = _MARK.split(text)
        expected = [str(index) for index, one in enumerate(conversation) if one["content"]]
        if parts[1::2] != expected:
            return "the template drops or reorders messages"
        return tuple(parts[::2])

    def _scaffold_with_thinking(self, conversation: Sequence[Message]) -> tuple[str, ...]:
        """Return the scaffold with thinking and answer marked one by one; empty if they are rewritten."""
        marked, between = [], []
        num_marks = 0
        for one in conversation:
            thinking = _THINKING.fullmatch(one["content"])
            content = _mark(num_marks) if one["content"] else ""
            if thinking is not None:
                content = thinking[1] + _mark(num_marks) + thinking[4] + _mark(num_marks + 1)
                between.append((num_marks, thinking))
            num_marks += 2 if thinking is not None else bool(content)
            marked.append({"role": one["role"], "content": content})
        text = self._write(marked)
        parts = _MARK.split(text) if isinstance(text, str) else []
        if parts[1::2] != [str(number) for number in range(num_marks)]:
            return ()
        scaffold: list[str] = parts[::2]
        for number, thinking in reversed(between):
            before, inner = scaffold[number] + scaffold[number + 1], thinking[1] + thinking[4]
            is_as_written = scaffold[number + 1] == thinking[4] or not thinking[3]
            if not is_as_written or not before.endswith(inner):
                return ()
            scaffold[number : number + 2] = [before.removesuffix(inner)]
        return tuple(scaffold)


def _mark(number: int) -> str:
    return f"\ue000{number}\ue001"


def _locate(
    text: str, scaffold: Sequence[str], contents: Sequence[str]
) -> tuple[tuple[tuple[int, int], ...], tuple[tuple[int, int], ...]] | None:
    """Return places and kept characters of all contents; None if the parts do not spell `text`."""
    if not scaffold or not text.startswith(scaffold[0]):
        return None
    places, kept = [], []
    cursor = len(scaffold[0])
    following = iter(scaffold[1:])
    for content in contents:
        begin = end = 0
        after = ""
        if content:
            after = next(following)
            for begin, end in _strippings(content):
                if text.startswith(content[begin:end] + after, cursor):
                    break
            else:
                return None
        places.append((cursor, cursor + end - begin))
        kept.append((begin, end))
        cursor += end - begin + len(after)
    return (tuple(places), tuple(kept)) if cursor == len(text) else None


def _strippings(content: str) -> list[tuple[int, int]]:
    """Return what a template may leave of `content`, as characters of it, the longest first."""
    begins = {0, *(len(content) - len(content.lstrip(which)) for which in (None, "\n"))}
    ends = {len(content), *(len(content.rstrip(which)) for which in (None, "\n"))}
    return sorted(
        ((begin, end) for begin in begins for end in ends if begin < end), key=lambda part: part[0] - part[1]
    )
