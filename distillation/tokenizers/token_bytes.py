"""Tokens as byte strings: the common ground on which two tokenizers can be compared.

A text is a string of bytes, and every ordinary token of a tokenizer stands for a byte string, so that the
concatenation over a text's tokens is the text. Families, told apart by the tokenizer's own components:

- byte-level BPE (GPT-2, Llama 3, Qwen): each character of a token names one byte in GPT-2's alphabet;
- SentencePiece BPE and Unigram (Llama 2, Gemma, T5): `▁` is a space, `<0xNN>` is one byte;
- WordPiece (BERT): `##ing` continues a word, any other token starts one and so carries a space before it;
- word level behind a pre-tokenizer that drops spaces: every token is a word with a space before it;
- literal: characters or bytes (`<0xNN>`) without any mark, every token is its own text.

Special tokens and unknown tokens have no bytes. Added tokens that are not special are their own text, as the
normaliser leaves it where the tokenizer looks for them after normalising.

Invariant: for a text that `PairEncoder` accepts, joining `table[id]` over its ids gives its bytes.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from distillation.errors import AlignmentError

if TYPE_CHECKING:
    from torch import Tensor

SPACE_MARK = "▁"
BYTE_FALLBACK = re.compile(r"^<0x([0-9A-Fa-f]{2})>$")
WORD_MARKS = ("continuing_subword_prefix", "end_of_word_suffix")
WORD_FAMILIES = ("wordpiece", "wordlevel")
"""Families that see words and not the spaces between them."""


@dataclass(frozen=True)
class TokenBytes:
    """The byte string of every id of one tokenizer."""

    table: tuple[bytes | None, ...]
    """Per id; None for a special token, an unknown token, one of no bytes, or a row without a token."""
    special_ids: frozenset[int]
    """Ids that stand for no text: control tokens and the unknown token."""
    family: str
    """`wordpiece`, `wordlevel`, or `byte_level_`, `sentencepiece_`, `literal_` and the kind of model, as in
    `byte_level_bpe`."""
    lengths: np.ndarray
    """int32 (num_tokens,): bytes of each token, 0 where the table has None."""
    byte_fallback_ids: frozenset[int] = frozenset()
    """Ids of `<0xNN>` tokens: another token may have the same byte and is then the usual one."""
    added_ids: frozenset[int] = frozenset()
    """Ids of added tokens: found in a text before the model sees it, so they win over equal strings."""
    special_strings: dict[str, int] = field(default_factory=dict)
    """Text of each special token -> id."""
    special_roles: dict[str, int] = field(default_factory=dict)
    """`bos`, `eos`, `pad`, `unk` -> id, as far as the tokenizer names them."""

    @functools.cached_property
    def canonical_ids(self) -> dict[bytes, int]:
        """Byte string -> the id that the tokenizer itself uses for it, where several have it.

        An added token comes before one of the model, and `<0xNN>` comes last.
        """
        ids: dict[bytes, int] = {}
        for index, token in enumerate(self.table):
            if token and (token not in ids or self._precedence(index) > self._precedence(ids[token])):
                ids[token] = index
        return ids

    @property
    def missing_bytes(self) -> tuple[int, ...]:
        """Bytes that no token stands for alone."""
        return tuple(byte for byte in range(256) if bytes([byte]) not in self.canonical_ids)

    def _precedence(self, index: int) -> int:
        return (index in self.added_ids) - (index in self.byte_fallback_ids)

    @functools.cached_property
    def digest(self) -> str:
        """16 hex characters that change whenever the meaning of any id does."""
        content = hashlib.sha256(self.family.encode())
        # Lengths and all bytes: no other table has both, since only an id without a token has length 0.
        content.update(self.lengths.astype("<i4").tobytes() + b"".join(filter(None, self.table)))
        content.update(json.dumps([self.special_strings, self.special_roles], sort_keys=True).encode())
        return content.hexdigest()[:16]

    def in_rows(self, num_rows: int | None, role: str) -> TokenBytes:
        """Return the tokens that a model of `num_rows` rows can read and write; None stands for any number.

        Tokens may have been added to a tokenizer and not to the model: Gemma 3's image token, a padding token
        of Llama 2. No text needs those. `role` is for the message.

        Raises:
            AlignmentError: the model lacks rows of ordinary tokens.
        """
        if num_rows is None or num_rows >= len(self.table):
            return self
        if any(
            self.table[index] and index not in self.added_ids for index in range(num_rows, len(self.table))
        ):
            raise AlignmentError(
                f"{role}: the output layer has {num_rows} rows but the tokenizer {len(self.table)} tokens; "
                "give the tokenizer that belongs to the model, or resize the model's embeddings"
            )

        def known(ids: Iterable[int]) -> frozenset[int]:
            return frozenset(index for index in ids if index < num_rows)

        return TokenBytes(
            table=self.table[:num_rows],
            special_ids=known(self.special_ids),
            family=self.family,
            lengths=self.lengths[:num_rows],
            byte_fallback_ids=known(self.byte_fallback_ids),
            added_ids=known(self.added_ids),
            special_strings={text: index for text, index in self.special_strings.items() if index < num_rows},
            special_roles={role: index for role, index in self.special_roles.items() if index < num_rows},
        )

    def join(self, ids: np.ndarray | list[int]) -> bytes:
        """Concatenate the bytes of `ids`.

        Raises:
            TypeError: an id has no bytes.
        """
        listed = ids.tolist() if isinstance(ids, np.ndarray) else ids
        if len(listed) < 2:
            return b"".join(self.table[index] for index in listed)  # type: ignore[misc]
        # This runs over every token of a corpus; itemgetter takes half the time of a loop over the ids.
        return b"".join(itemgetter(*listed)(self.table))


def tokens_as_bytes(tokenizer: Any) -> TokenBytes:
    """Return the byte string of every token of `tokenizer` (of transformers, or a `tokenizers.Tokenizer`).

    Raises:
        AlignmentError: the tokenizer is not a fast one, or of a family whose bytes are not known.
    """
    backend = backend_of(tokenizer)
    family = tokenizer_family(tokenizer)
    vocabulary = backend.get_vocab(with_added_tokens=True)
    added = backend.get_added_tokens_decoder()
    special = special_ids(tokenizer)
    num_rows = max([*vocabulary.values(), *added]) + 1 if vocabulary or added else 0

    byte_fallback = _has_byte_fallback(backend)
    to_bytes = _converter(backend, family, byte_fallback=byte_fallback)
    table: list[bytes | None] = [None] * num_rows
    fallback: set[int] = set()
    for token, index in vocabulary.items():
        if index in special:
            continue
        is_byte = byte_fallback and BYTE_FALLBACK.match(token) is not None
        if index in added and not is_byte:
            table[index] = _added_token_bytes(added[index], backend, family, to_bytes) or None
            continue
        table[index] = to_bytes(token) or None
        if is_byte:
            fallback.add(index)
    texts = {index: token for token, index in vocabulary.items() if index in special}
    return TokenBytes(
        table=tuple(table),
        special_ids=frozenset(special),
        family=family,
        lengths=np.array([len(token) if token else 0 for token in table], dtype=np.int32),
        byte_fallback_ids=frozenset(fallback),
        added_ids=frozenset(added),
        special_strings={texts[index]: index for index in sorted(texts)},
        special_roles=_special_roles(tokenizer),
    )


def special_ids(tokenizer: Any) -> set[int]:
    """Return the ids that stand for no text: control tokens and the unknown token.

    Not so a byte `<0xNN>` of a model that falls back on bytes: trainers can add those as special tokens only.
    """
    backend = backend_of(tokenizer)
    special = {index for index, token in backend.get_added_tokens_decoder().items() if token.special}
    special |= {index for index in getattr(tokenizer, "all_special_ids", ()) if index is not None}
    if _has_byte_fallback(backend):
        special -= {index for index in special if BYTE_FALLBACK.match(backend.id_to_token(index) or "")}
    return special | set(unknown_ids(backend))


def backend_of(tokenizer: Any) -> Any:
    """Return the Rust tokenizer inside `tokenizer`, or itself if it is one.

    Raises:
        AlignmentError: there is none (a slow, pure Python tokenizer).
    """
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if not hasattr(backend, "encode_batch"):
        raise AlignmentError(
            f"tokenizer {_name(tokenizer)} has no fast implementation; "
            "convert it to a tokenizer.json with transformers and give that directory"
        )
    return backend


def tokenizer_family(tokenizer: Any) -> str:
    """Return the family of `tokenizer` by its model, pre-tokenizer, normaliser and decoder.

    Raises:
        AlignmentError: a family whose tokens cannot be turned into bytes.
    """
    backend = backend_of(tokenizer)
    model = type(backend.model).__name__
    parts = [p for part in ("pre_tokenizer", "decoder", "normalizer") for p in components(backend, part)]
    kinds = {part["type"] for part in parts}
    # CLIP's `</w>` and the like: a mark that no other family writes.
    has_mark = any(getattr(backend.model, name, None) for name in WORD_MARKS)
    if model == "WordPiece":
        return "wordpiece"
    if model in ("BPE", "Unigram", "WordLevel") and not has_mark:
        if "ByteLevel" in kinds:
            return f"byte_level_{model.lower()}"
        if "Metaspace" in kinds or SPACE_MARK in json.dumps(parts, ensure_ascii=False):
            return f"sentencepiece_{model.lower()}"
        if _keeps_spaces(backend):
            return f"literal_{model.lower()}"
        if model == "WordLevel":
            return "wordlevel"
    raise AlignmentError(
        f"tokenizer {_name(tokenizer)} ({model}: {', '.join(sorted(kinds)) or 'no components'}) is of no "
        "family with known bytes; use a byte-level BPE, SentencePiece or WordPiece tokenizer"
    )


def _keeps_spaces(backend: Any) -> bool:
    probe = "a b\n  c"
    split = backend.pre_tokenizer
    return split is None or "".join(piece for piece, _ in split.pre_tokenize_str(probe)) == probe


def components(backend: Any, part: str) -> list[dict[str, Any]]:
    """Return the settings of a part of `backend` ("normalizer", "decoder", ...) with sequences flattened."""
    value = getattr(backend, part)
    return list(_flatten(json.loads(value.__getstate__()))) if value is not None else []


def same_tokenizer(one: Any, other: Any) -> bool:
    """Tell whether both turn every text into the same ids, so that row i means the same on both sides."""
    if one is other:
        return True
    first, second = backend_of(one), backend_of(other)
    if first.get_vocab_size(True) != second.get_vocab_size(True):
        return False
    if first.to_str() == second.to_str():  # Cheaper than what follows, and the usual case of a yes.
        return True
    if first.get_vocab(True) != second.get_vocab(True):
        return False
    return _meaning(first) == _meaning(second)


def _meaning(backend: Any) -> dict[str, Any]:
    """Return the tokenizer's JSON without what only adds, pads or cuts tokens, and without dropout."""
    content: dict[str, Any] = json.loads(backend.to_str())
    for irrelevant in ("padding", "truncation", "post_processor", "version"):
        content.pop(irrelevant, None)
    content["model"].pop("dropout", None)  # nothing is encoded with it
    return content


@functools.cache
def byte_alphabet() -> dict[str, int]:
    """Return GPT-2's alphabet, character -> byte: printable Latin-1 as is, the others from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(0x100 + i): b for i, b in enumerate(others)}


def _converter(backend: Any, family: str, *, byte_fallback: bool) -> Callable[[str], bytes]:
    """Return the function that turns a model token's string into bytes."""
    if family.startswith("byte_level"):
        # Latin-1 that is outside the alphabet must not pass for a byte.
        letters = dict.fromkeys(range(256), "\uffff")
        letters |= {ord(letter): chr(byte) for letter, byte in byte_alphabet().items()}

        def byte_level(token: str) -> bytes:
            try:
                return token.translate(letters).encode("latin-1")
            except UnicodeEncodeError:
                return token.encode("utf-8")  # The decoder passes such strings through unchanged.

        return byte_level
    if family in WORD_FAMILIES:
        prefix = getattr(backend.model, "continuing_subword_prefix", None)

        def word(token: str) -> bytes:
            if prefix and token.startswith(prefix) and len(token) > len(prefix):
                return token[len(prefix) :].encode("utf-8")
            return b" " + token.encode("utf-8")

        return word
    space = SPACE_MARK if family.startswith("sentencepiece") else " "

    def literal(token: str) -> bytes:
        match = BYTE_FALLBACK.match(token) if byte_fallback else None
        if match:
            return bytes([int(match[1], 16)])
        return token.replace(space, " ").encode("utf-8")

    return literal


def _added_token_bytes(token: Any, backend: Any, family: str, to_bytes: Callable[[str], bytes]) -> bytes:
    """Return the text of an added token that is not special, for example a run of spaces."""
    content: str = token.content
    if token.normalized and backend.normalizer is not None:
        # Such a token is found in the normalised text, so that text is what it covers.
        content = backend.normalizer.normalize_str(content)
        if any(part["type"] == "ByteLevel" for part in components(backend, "normalizer")):
            return to_bytes(content)
    # SentencePiece vocabularies repeat runs of `▁` as added tokens; they mean spaces there too.
    if family.startswith("sentencepiece"):
        content = content.replace(SPACE_MARK, " ")
    return (" " * (family in WORD_FAMILIES) + content).encode("utf-8")


def _has_byte_fallback(backend: Any) -> bool:
    """Tell whether `<0xNN>` is a byte, and not those six characters."""
    if type(backend.model).__name__ == "Unigram":
        return bool(json.loads(backend.model.__getstate__()).get("byte_fallback"))
    return bool(getattr(backend.model, "byte_fallback", False))


def unknown_ids(backend: Any) -> Iterator[int]:
    """Yield the id that the model gives to text it cannot write, if it has one."""
    token = getattr(backend.model, "unk_token", None)
    if token is not None and backend.token_to_id(token) is not None:
        yield backend.token_to_id(token)
    if type(backend.model).__name__ == "Unigram":
        index = json.loads(backend.model.__getstate__()).get("unk_id")
        if index is not None:
            yield index


def _special_roles(tokenizer: Any) -> dict[str, int]:
    ids = {role: getattr(tokenizer, f"{role}_token_id", None) for role in ("eos", "bos", "pad", "unk")}
    return {role: int(index) for role, index in ids.items() if index is not None}


def _flatten(part: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if part["type"] != "Sequence":
        yield part
        return
    for key in ("normalizers", "pretokenizers", "decoders", "processors"):
        for inner in part.get(key, ()):
            yield from _flatten(inner)


def _name(tokenizer: Any) -> str:
    return getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__


def boundary_tokens(tokens: TokenBytes, num_rows: int) -> Tensor:
    """Return bool (num_rows,): the tokens that begin a new word: with white space, or special ones."""
    import torch

    tokens = tokens.in_rows(num_rows, "objective.terms.likelihood")
    starts_word = [token is not None and token[:1].isspace() for token in tokens.table]
    member = torch.zeros(num_rows, dtype=torch.bool)
    member[: len(starts_word)] = torch.tensor(starts_word)
    member[sorted(tokens.special_ids)] = True
    return member
