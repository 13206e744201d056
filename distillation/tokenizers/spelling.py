"""Whether a tokenizer spells a text as a whole: its tokens join to the bytes of the text.

An unknown token, or a character that is dropped, costs a model next to nothing, whatever it stood for. So the
bits of such a text say too little, and no other model's can be compared with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distillation.tokenizers.pairs import content_normaliser
from distillation.tokenizers.plain_text import PlainText
from distillation.tokenizers.token_bytes import tokens_as_bytes


def are_spelled(tokenizer: Any, texts: Sequence[str]) -> list[bool]:
    """Tell of each text whether `tokenizer` spells all of it, as `PairEncoder` reads texts.

    What the normaliser changes (Unicode forms, lower case) and a space in front are no loss.

    Raises:
        AlignmentError: the tokenizer's tokens cannot be turned into bytes.
    """
    tokens, reader = tokens_as_bytes(tokenizer), PlainText(tokenizer)
    normalise = content_normaliser(reader.backend, tokens.family) or str

    def is_spelled(text: str, ids: list[int]) -> bool:
        if any(tokens.table[index] is None for index in ids):
            return False
        content = normalise(text).encode("utf-8")
        return tokens.join(ids) in (content, b" " + content)

    return [is_spelled(*both) for both in zip(texts, reader.ids(texts), strict=True)]
