"""Documents, which may be conversations, and the split that never moves one.

A document belongs to the held-out part by a hash of its own text alone. Adding, removing or reordering other
documents therefore never moves one across, and a teacher that was trained on the training part elsewhere has
not seen the held-out part here.

The text of a conversation is what was said: its contents joined by blank lines, without system prompts. Those
are often the same in all conversations: as text they would pass for a leak, and fill the measured bytes with
what every model knows by heart. The whole of it, roles and system prompts, decides its hash.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from distillation.corpus.left_out import BadDocumentError, check_characters
from distillation.errors import shorten

SYSTEM_ROLES = ("system", "developer")


@dataclass(frozen=True)
class Document:
    """One text and where it comes from."""

    text: str
    origin: str
    """Source-relative name, for example `torch/nn/modules/linear.py` or `train.jsonl:17`."""
    messages: str | None = None
    """Of a conversation: its messages as a JSON list of `role` and `content`."""

    @cached_property
    def document_id(self) -> str:
        """SHA-256 of the text, or of the messages, in UTF-8, in hexadecimal; lone surrogates as they are."""
        content = self.text if self.messages is None else self.messages
        return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()

    def with_plain_line_ends(self) -> Document:
        """Return the document with every line end as `\\n`; those of a conversation are already."""
        return self if self.messages else Document(_plain_line_ends(self.text), self.origin)


def conversation_of(messages: Iterable[Mapping[str, str]], origin: str) -> Document:
    """Return the document of a conversation, its line ends as `\\n`."""
    kept = [{"role": one["role"], "content": _plain_line_ends(one["content"])} for one in messages]
    said = [one["content"] for one in kept if one["role"] not in SYSTEM_ROLES]
    return Document("\n\n".join(filter(None, said)), origin, json.dumps(kept))


def check_messages(value: Any, column: str) -> list[dict[str, str]]:
    """Return the messages of a row; a missing value is a conversation without any.

    Raises:
        BadDocumentError: the value is no list of messages, or a message is more than a role and a text.
    """
    setting = f"messages_column = {column!r}"
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        kind = type(value).__name__
        raise BadDocumentError(f"{setting} holds {kind}, not a list of messages", "name a column that does")
    messages = []
    for one in value:
        if not isinstance(one.get("role"), str):
            keys = shorten(", ".join(sorted(map(str, one))), 80) or "nothing"
            raise BadDocumentError(
                f"a message of {setting} has {keys}", "give each a role and a content, both text"
            )
        content = one.get("content")
        if (content is not None and not isinstance(content, str)) or one.get("tool_calls"):
            raise BadDocumentError(
                f"a message of {setting} has more than text (tool calls, or a content that is "
                f"{type(content).__name__})"
            )
        messages.append({"role": check_characters(one["role"]), "content": check_characters(content or "")})
    return messages


def _plain_line_ends(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def is_held_out(document_id: str, share: float) -> bool:
    """Tell whether the document falls into the held-out `share` of the hash space."""
    return int(document_id[:13], 16) < share * 16**13


def is_validation(document_id: str) -> bool:
    """Tell whether a *held-out* document belongs to the quarter that training may look at.

    Training picks its best checkpoint on this quarter; every published figure is measured on the other three,
    so that choosing does not flatter the chosen. Other digits of the hash than `is_held_out` uses decide.
    """
    return int(document_id[-2:], 16) < 64
