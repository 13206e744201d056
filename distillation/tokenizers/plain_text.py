"""Encoding text as text: whatever a document spells is no markup of the tokenizer that reads it.

A web page with an HTML `<s>`, word-level WikiText with its `<unk>`, a page about `<|endoftext|>` are text
like any other. Only a chat template's own markup is meant as special tokens (`chat`). Added tokens that are
not special, such as runs of spaces, are text and stay what they are.

Everything that is aligned, trained on or measured is encoded here, so that all of it reads the same tokens:
always the same ones, without the dropout that some tokenizer.json files keep from their training.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Collection, Sequence
from typing import Any

from distillation.errors import AlignmentError, reason_of
from distillation.tokenizers.token_bytes import backend_of, special_ids

SAMPLING = ("dropout", "alpha", "nbest_size")
"""Settings of a model that make it cut the same text differently from call to call."""


class PlainText:
    """A tokenizer as a reader of plain text: a copy, so that the caller's own is left as it is.

    Args:
        tokenizer: fast tokenizer of transformers, or a `tokenizers.Tokenizer`.
        num_rows: rows of the model; added tokens beyond them are not looked for either.
    """

    def __init__(self, tokenizer: Any, num_rows: int | None = None) -> None:
        strings = strings_to_spell(tokenizer, num_rows)
        self.backend = _plain_copy(backend_of(tokenizer).to_str(), tuple(strings.items()))
        """Read it, never change it: several readers share one copy."""

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text."""
        encodings = self.backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def encodings(self, texts: Sequence[str]) -> list[Any]:
        """Return the ids of each text with their places in it, in characters."""
        return list(self.backend.encode_batch(list(texts), add_special_tokens=False))


@functools.lru_cache(maxsize=4)
def _plain_copy(content: str, special: tuple[tuple[str, int], ...]) -> Any:
    """Return the tokenizer of this JSON, for which the texts of `special` are text like any other."""
    backend = _unchanging(_read_back(content))
    backend.post_processor = None  # some trim the spaces off a token's place
    backend.encode_special_tokens = True
    # Unigram and word-level models have their special tokens among the words that they look for.
    encodings = backend.encode_batch([text for text, _ in special], add_special_tokens=False)
    if any(index in one.ids for (_, index), one in zip(special, encodings, strict=True)):
        return with_hidden_names(backend, [text for text, _ in special]) or backend
    return backend


def unchanging_backend(tokenizer: Any) -> Any:
    """Return the Rust tokenizer of `tokenizer`, as a copy if it is set to pad, to cut or to cut at random."""
    backend = backend_of(tokenizer)
    if backend.padding is None and backend.truncation is None and not cuts_at_random(backend):
        return backend
    return _unchanging(_read_back(backend.to_str()))


def _read_back(content: str) -> Any:
    """Return the tokenizer of what another one wrote of itself.

    Raises:
        AlignmentError: it cannot be read, as where two of its tokens have one id and only one is written.
    """
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_str(content)
    except Exception as error:  # the Rust library raises plain Exception
        raise AlignmentError(
            f"a tokenizer cannot be copied ({reason_of(error)}): two of its tokens have one id, or its "
            "merges make tokens that it does not have; use the tokenizer.json that belongs to the model"
        ) from error


def _unchanging(backend: Any) -> Any:
    backend.no_padding()
    backend.no_truncation()
    cut_the_same_always(backend)
    return backend


def cuts_at_random(backend: Any) -> bool:
    """Tell whether the tokenizer gives one text other tokens at each call."""
    return any(getattr(backend.model, name, None) for name in SAMPLING)


def cut_the_same_always(backend: Any) -> None:
    """Take dropout and sampling off `backend`."""
    model = backend.model
    for name in SAMPLING:
        if getattr(model, name, None):
            setattr(model, name, None)


def special_strings(tokenizer: Any) -> dict[str, int]:
    """Return the text of each special token -> its id."""
    backend = backend_of(tokenizer)
    texts = {index: backend.id_to_token(index) for index in sorted(special_ids(tokenizer))}
    return {text: index for index, text in texts.items() if text}


def strings_to_spell(tokenizer: Any, num_rows: int | None = None) -> dict[str, int]:
    """Return the text -> id of each token that plain text does not hold: special ones, those beyond rows."""
    strings = special_strings(tokenizer)
    if num_rows is not None:
        added = backend_of(tokenizer).get_added_tokens_decoder()
        strings |= {token.content: index for index, token in added.items() if index >= num_rows}
    return strings


def hidden_name(text: str) -> str:
    """Return the name that a special token has in `with_hidden_names`: no text spells it."""
    return f"\uffff{text}\ufffe"


def with_hidden_names(backend: Any, strings: Collection[str]) -> Any | None:
    """Return a copy of `backend` that knows its special tokens by other names, under the same ids.

    What spells a special token's own name is text to it. None if a model builds such a token out of parts.
    """
    content = json.loads(backend.to_str())
    names = {text: hidden_name(text) for text in strings}
    for token in content["added_tokens"]:
        token["content"] = names.get(token["content"], token["content"])
    model = content["model"]
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        model["vocab"] = {names.get(text, text): index for text, index in vocabulary.items()}
    else:
        model["vocab"] = [[names.get(text, text), score] for text, score in vocabulary]
    if model.get("unk_token") is not None:
        model["unk_token"] = names.get(model["unk_token"], model["unk_token"])
    try:
        copy = type(backend).from_str(json.dumps(content))
        copy.encode_special_tokens = backend.encode_special_tokens
    except Exception:  # the Rust library raises plain Exception, here for merges that make such a token
        return None
    is_same = all(copy.token_to_id(names[text]) == backend.token_to_id(text) for text in strings)
    return copy if is_same else None
