"""What a tokenizer is, as far as distillation across tokenizers needs to know it.

Two questions decide whether a pair can be aligned byte by byte: which family turns bytes into tokens (so
that a token has a byte string at all), and what the tokenizer changes on the way (normaliser, prefix, BOS
and EOS). Two more decide whether losses are sound: output rows that no token uses, and bytes that no token
can write.

Invariant: every field is read from the tokenizer's own definition or from its behaviour on a short text,
never from its name.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from distillation.errors import AlignmentError, ModelError
from distillation.tokenizers.token_bytes import tokens_as_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_DIGITS = "902837465019"
_ROLES = ("bos", "eos", "pad", "unk", "cls", "sep", "mask")


class SpecialToken(BaseModel):
    """A token that stands for no text."""

    model_config = ConfigDict(frozen=True)

    role: str
    """`bos`, `eos`, `pad`, `unk`, `cls`, `sep`, `mask`; `other` for the rest."""
    text: str
    id: int


class VocabularyProbe(BaseModel):
    """Facts about one tokenizer and the output layer above it."""

    model_config = ConfigDict(frozen=True)

    family: str
    """`byte_level_bpe`, `sentencepiece_bpe`, `sentencepiece_unigram`, `wordpiece`, ..., as the aligner
    names them; plain `bpe`, `unigram` and `wordlevel` have no known bytes."""
    size: int
    """Distinct tokens, added and special ones included."""
    num_output_rows: int
    """Rows of the model's output layer."""
    num_rows_without_token: int
    """Output rows that no token uses: padding of the layer. They must never receive probability mass."""
    num_tokens_without_row: int
    """Tokens whose id lies beyond the output layer: the model cannot read or write them."""
    num_ordinary_tokens_without_row: int
    """Those of them that ordinary text can produce; not 0 means that tokenizer and model do not belong
    together."""
    specials: tuple[SpecialToken, ...]
    """Special tokens by role; a token with two roles stands twice."""
    num_added_tokens: int
    """Tokens added beside the trained vocabulary, special or not (runs of spaces, for example)."""
    missing_bytes: tuple[int, ...] | None
    """Bytes that no token can write. None: the family writes characters, not bytes, and has no fallback."""
    byte_fallback: bool
    """Whether unknown characters are written as `<0xNN>` tokens."""
    normalizer: str | None
    """What the tokenizer does to text before it cuts it, for example `NFC`; None: nothing."""
    pre_tokenizer: str | None
    """How text is cut before tokens are formed, for example `Sequence[Digits, ByteLevel]`."""
    digit_group: int | None
    """Longest run of digits that can be one token: 1 splits digits one by one. None: no limit."""
    adds_prefix_space: bool
    """Whether a space is put before a text that does not begin with one."""
    adds_bos: bool
    """Whether encoding a text puts a special token before it."""
    adds_eos: bool
    """Whether encoding a text puts a special token after it."""
    has_chat_template: bool
    """Whether the tokenizer brings a template for conversations."""

    def special(self, role: str) -> SpecialToken | None:
        """Return the special token of `role`, if there is one."""
        return next((token for token in self.specials if token.role == role), None)


def probe_vocabulary(tokenizer: PreTrainedTokenizerBase, num_output_rows: int) -> VocabularyProbe:
    """Return the facts about `tokenizer` under an output layer of `num_output_rows` rows.

    Raises:
        ModelError: the tokenizer has no `tokenizers` definition to read (a pure Python tokenizer).
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelError(
            f"tokenizer {tokenizer.name_or_path!r} has no fast definition: convert it to a tokenizer.json"
        )
    definition = json.loads(backend.to_str())
    vocabulary = tokenizer.get_vocab()
    added = {token["id"]: token for token in definition["added_tokens"]}
    trained = set(_trained_ids(definition["model"]))
    family, missing_bytes = _meaning(tokenizer, definition)
    rows_used = {id_ for id_ in vocabulary.values() if id_ < num_output_rows}
    beyond = {id_ for id_ in vocabulary.values() if id_ >= num_output_rows}
    special_ids = {id_ for id_, token in added.items() if token["special"]}
    adds_bos, adds_eos = _added_around(tokenizer)
    return VocabularyProbe(
        family=family,
        size=len(set(vocabulary.values())),
        num_output_rows=num_output_rows,
        num_rows_without_token=num_output_rows - len(rows_used),
        num_tokens_without_row=len(beyond),
        num_ordinary_tokens_without_row=len((beyond & trained) - special_ids),
        specials=_specials(tokenizer, added),
        num_added_tokens=len(added),
        missing_bytes=missing_bytes,
        byte_fallback=bool(definition["model"].get("byte_fallback")),
        normalizer=_component_name(definition["normalizer"]),
        pre_tokenizer=_component_name(definition["pre_tokenizer"]),
        digit_group=_digit_group(backend, vocabulary),
        adds_prefix_space=_adds_prefix_space(tokenizer),
        adds_bos=adds_bos,
        adds_eos=adds_eos,
        has_chat_template=bool(getattr(tokenizer, "chat_template", None)),
    )


def _trained_ids(model: dict[str, Any]) -> list[int]:
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        return list(vocabulary.values())
    return list(range(len(vocabulary)))  # Unigram lists (piece, score); the position is the id.


def _component_name(component: Any) -> str | None:
    if not isinstance(component, dict):
        return None
    name = str(component["type"])
    parts = [part for value in component.values() if isinstance(value, list) for part in value]
    names = [_component_name(part) for part in parts if isinstance(part, dict) and "type" in part]
    return f"{name}[{', '.join(str(part) for part in names)}]" if names else name


def _meaning(tokenizer: Any, definition: dict[str, Any]) -> tuple[str, tuple[int, ...] | None]:
    """Return the family, and the bytes that no token can write as far as tokens are bytes."""
    try:
        tokens = tokens_as_bytes(tokenizer)
    except AlignmentError:  # of no family with known bytes
        return definition["model"]["type"].lower(), None
    writes_bytes = tokens.family.startswith("byte_level") or definition["model"].get("byte_fallback")
    return tokens.family, tokens.missing_bytes if writes_bytes else None


def _specials(tokenizer: Any, added: dict[int, dict[str, Any]]) -> tuple[SpecialToken, ...]:
    found = []
    for role in _ROLES:
        text = getattr(tokenizer, f"{role}_token", None)
        if text is not None:
            found.append(
                SpecialToken(role=role, text=str(text), id=tokenizer.convert_tokens_to_ids(str(text)))
            )
    named = {token.id for token in found}
    found += [
        SpecialToken(role="other", text=token["content"], id=id_)
        for id_, token in sorted(added.items())
        if token["special"] and id_ not in named
    ]
    return tuple(found)


def _added_around(tokenizer: Any) -> tuple[bool, bool]:
    """Return whether the tokenizer puts something before and after a text by itself."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a")["input_ids"]
    if full == plain:
        return False, False
    start = next((i for i in range(len(full)) if full[i : i + len(plain)] == plain), 0)
    return start > 0, start + len(plain) < len(full)


def _digit_group(backend: Any, vocabulary: dict[str, int]) -> int | None:
    """Return the longest run of digits that survives pre-tokenization; None when a run is never cut."""
    if backend.pre_tokenizer is not None:
        normalized = _DIGITS if backend.normalizer is None else backend.normalizer.normalize_str(_DIGITS)
        pieces = [piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str(normalized)]
        longest = max(len(re.sub(r"\D", "", piece)) for piece in pieces)
        if longest < len(_DIGITS):
            return longest
    # Nothing cuts digits, yet a vocabulary trained on split digits (Llama's SentencePiece) has no longer
    # token.
    longest = max((len(token) for token in vocabulary if re.fullmatch(r"[0-9]+", token)), default=0)
    return 1 if longest == 1 else None


def _adds_prefix_space(tokenizer: Any) -> bool:
    tokens = tokenizer.convert_ids_to_tokens(tokenizer("a", add_special_tokens=False)["input_ids"])
    return bool(tokens) and tokens[0][:1] in ("Ġ", "▁")
