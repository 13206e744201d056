"""The files of a model, looked at before a library builds anything of them.

A `config.json` of a hundred bytes can ask for a billion layers, and a `tokenizer.json` for a table of eight
gigabytes; one character in a normaliser makes the tokenizer library abort the process. So numbers are
compared with bounds that no real model comes near, names with what stands in the directory, and a tokenizer
is first read by a process of its own, with a limit of time and memory (`tokenizer_trial`).

Invariants: no check allocates more than the file's size asks for; a refusal comes within 20 seconds and 1
GiB; a verdict depends on the files' content alone.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from distillation.errors import InputError, one_line, shorten
from distillation.reading import MAX_TEXT_BYTES, open_regular, parse_json, read_bytes, read_json

MAX_LAYERS = 1_000
"""Real models have up to about 130."""
MAX_EXPERTS = 4_096
"""Experts of one layer; real models have up to 2,048."""
MAX_HEADS = 16_384
MAX_LABELS = 100_000
MAX_TOKENS = 2**21
"""Ids of a vocabulary; the largest that is known has 901,629."""
MAX_SIZE = 2**24
"""Any other width: hidden states, feed-forward parts, heads."""
MAX_SMALL_BYTES = 16 * 2**20
"""Configurations; most have a few kilobytes."""
MAX_TOKENIZER_BYTES = 128 * 2**20
"""The largest `tokenizer.json` that is known has 40 MB."""
TRIAL_SECONDS = 15.0
"""How long the trial of a tokenizer may take; one of 260,000 tokens takes two seconds."""

CONFIG, TOKENIZER, VOCABULARY = "config.json", "tokenizer.json", "vocab.json"
SMALL_FILES = (
    CONFIG,
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
OTHER_FILES = (
    "tokenizer.model",
    "spiece.model",
    "vocab.txt",
    "merges.txt",
    "tekken.json",
    "chat_template.jinja",
)
FILES = (*SMALL_FILES, TOKENIZER, VOCABULARY, *OTHER_FILES)
"""Every file besides the weights that is read when a model or its tokenizer is loaded."""
INDEX = "model.safetensors.index.json"

_BOUNDS = (
    (re.compile(r"(^|_)(layers?|blocks?|depths?)$"), MAX_LAYERS),
    (re.compile(r"(^|_)experts?(_per_tok(en)?)?$"), MAX_EXPERTS),
    (re.compile(r"(^|_)heads?$"), MAX_HEADS),
    (re.compile(r"(^|_)labels$"), MAX_LABELS),
    (re.compile(r"(^|_)vocab(ulary)?(_size)?$"), MAX_TOKENS),
    (re.compile(r"(^|_)(size|dim|embd|model|inner|width)s?$"), MAX_SIZE),
)
"""Architectures call the same number by many names; the last word of the name is what they share."""

_SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
_verdicts: dict[str, str | None] = {}


def check_files(files: Mapping[str, Path]) -> None:
    """Check the files of a model or a tokenizer that are there, by their names, as far as this knows them.

    Raises:
        InputError: one is too large, ill-formed, or asks for what no real model has; its name is in front.
    """
    for name, path in files.items():
        try:
            if name in SMALL_FILES:
                _CHECKS.get(name, _pass)(read_json(path, max_bytes=MAX_SMALL_BYTES))
            elif name in (TOKENIZER, VOCABULARY):
                try_tokenizer(path)
            elif name in OTHER_FILES:
                with open_regular(path) as stream:
                    if os.fstat(stream.fileno()).st_size > MAX_TOKENIZER_BYTES:
                        raise InputError(f"is larger than {MAX_TOKENIZER_BYTES / 2**20:g} MiB")
        except InputError as error:
            raise InputError(f"{name}: {one_line(error).removeprefix(f'{path}: ')}") from error


def check_numbers(content: Mapping[str, Any]) -> None:
    """Check the numbers of a configuration and of all its parts.

    Raises:
        InputError: a number is not finite, or counts more than any real model has.
    """
    for key, value, is_single in _numbers_of(content):
        if isinstance(value, float):
            # An open end of a range is written as Infinity; a number of its own cannot be infinite.
            if math.isnan(value) or (is_single and math.isinf(value)):
                raise InputError(f"{shorten(key)} = {value}: must be a finite number")
            continue
        bound = next((limit for pattern, limit in _BOUNDS if pattern.search(key)), 2**63 - 1)
        if abs(value) > bound:
            raise InputError(f"{shorten(key)} = {shorten(str(value))}: more than {bound:,}")


def _numbers_of(content: Mapping[str, Any]) -> Iterator[tuple[str, int | float, bool]]:
    """Yield each number with the key it stands under, and whether it stands there alone."""
    waiting: list[tuple[str, Any, bool]] = [("", content, True)]
    while waiting:
        key, value, is_single = waiting.pop()
        if isinstance(value, bool):
            continue
        if isinstance(value, int | float):
            yield key, value, is_single
        elif isinstance(value, Mapping):
            waiting += [(str(name), part, True) for name, part in value.items()]
        elif isinstance(value, list):
            waiting += [(key, part, False) for part in value]


def check_sizes(config: Any) -> None:
    """Check the sizes of a loaded configuration against each other.

    Raises:
        InputError: one is no positive whole number, or the heads cannot share what they are to share.
    """
    text = config.get_text_config(decoder=True)
    sizes = _whole_sizes({name: getattr(text, name, None) for name in _SIZES})
    heads, width = sizes.get("num_attention_heads"), sizes.get("hidden_size")
    shared = sizes.get("num_key_value_heads")
    if heads and shared and heads % shared:
        raise InputError(f"num_attention_heads = {heads}: no multiple of num_key_value_heads = {shared}")
    if heads and width and width % heads and not getattr(text, "head_dim", None):
        raise InputError(f"hidden_size = {width}: no multiple of num_attention_heads = {heads}")


def _whole_sizes(stated: Mapping[str, Any]) -> dict[str, int]:
    """Return those of the sizes that are stated, for all layers alike."""
    sizes = {}
    for name in _SIZES:
        value = stated.get(name)
        if value is None or isinstance(value, list | tuple):
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{name} = {shorten(repr(value))}: must be a positive whole number")
        sizes[name] = value
    return sizes


def _check_config(content: Mapping[str, Any]) -> None:
    check_numbers(content)
    text = content.get("text_config")
    for part in (content, text if isinstance(text, Mapping) else {}):
        _whole_sizes(part)


def _check_tokenizer_config(content: Mapping[str, Any]) -> None:
    longest = content.get("model_max_length")
    if longest is not None and (isinstance(longest, bool) or not isinstance(longest, int | float)):
        raise InputError(f"model_max_length = {shorten(repr(longest))}: must be a number")
    added = content.get("added_tokens_decoder") or {}
    if not isinstance(added, Mapping):
        raise InputError("added_tokens_decoder: must be a mapping of ids")
    for key, token in added.items():
        # The length first: Python takes its time over a number of a million digits.
        if not (len(key) < 20 and key.isdecimal() and int(key) < MAX_TOKENS):
            raise InputError(f"added_tokens_decoder: {shorten(repr(key))} is no id below {MAX_TOKENS:,}")
        if not isinstance(token, Mapping) or not isinstance(token.get("content"), str):
            raise InputError(f"added_tokens_decoder: the token of id {key} has no content")


def _check_added_tokens(content: Mapping[str, Any]) -> None:
    for token, number in content.items():
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < MAX_TOKENS:
            raise InputError(f"{shorten(repr(token), 40)} has no id below {MAX_TOKENS:,}")


def _pass(content: Mapping[str, Any]) -> None:
    """Ask nothing of a file but to be a JSON object."""


_CHECKS = {
    CONFIG: _check_config,
    "generation_config.json": check_numbers,
    "tokenizer_config.json": _check_tokenizer_config,
    "added_tokens.json": _check_added_tokens,
}


def weight_names(index: Path) -> list[str]:
    """Return the names of the weight files that an index lists, in their order.

    A name stands for a file below the index's own folder. That file may be a link, as in the hub's cache;
    a name that leads out of the folder is refused, and so is one that is not safetensors.

    Raises:
        InputError: the index is damaged, or a name is not such a one.
    """
    content = read_json(index, max_bytes=MAX_TEXT_BYTES // 4)
    weights = content.get("weight_map")
    if not isinstance(weights, Mapping) or not weights:
        raise InputError("has no weight_map")
    for name in weights.values():
        if not isinstance(name, str) or not name.endswith(".safetensors") or len(name) > 255 or "\0" in name:
            raise InputError(f"names {shorten(repr(name), 60)}, which is no safetensors file")
        path = PurePosixPath(name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or re.match(r"^\w:", name):
            raise InputError(f"names {shorten(repr(name), 60)}, which is outside of its directory")
    return sorted(set(weights.values()))


def try_tokenizer(path: Path) -> None:
    """Read a `tokenizer.json` or `vocab.json` and encode a few words with it, in a process of its own.

    Raises:
        InputError: it is too large, ill-formed, takes too long or too much memory, or breaks the library.
    """
    content = read_bytes(path, max_bytes=MAX_TOKENIZER_BYTES)
    key = f"{path.name} {hashlib.sha256(content).hexdigest()}"
    del content
    if key not in _verdicts:
        _verdicts[key] = _verdict(path)
    if _verdicts[key] is not None:
        raise InputError(str(_verdicts[key]))


def _verdict(path: Path) -> str | None:
    """Return what is wrong with a tokenizer's file, or None."""
    library = importlib.util.find_spec("tokenizers")
    if library is None or library.origin is None:
        raise ModuleNotFoundError("tokenizers")
    program = Path(__file__).with_name("tokenizer_trial.py")
    places = [str(Path(library.origin).parents[1]), str(program.parents[2])]
    # Without `site`, and with this one library, the process is there in 40 milliseconds.
    command = [sys.executable, "-I", "-S", "-X", "utf8", str(program), str(path), *places]
    environment = os.environ | {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"}
    environment |= {"MALLOC_ARENA_MAX": "1", "RUST_BACKTRACE": "0"}
    try:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=TRIAL_SECONDS,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"the tokenizer library takes more than {TRIAL_SECONDS:g} s over it"
    report = parse_json(done.stdout, "trial") if done.returncode == 0 else None
    if isinstance(report, dict) and "reason" in report:
        reason = report["reason"]
        return None if reason is None else shorten(str(reason), 200)
    return f"the tokenizer library breaks on it ({_last_words(done)})"


def _last_words(done: subprocess.CompletedProcess[bytes]) -> str:
    lines = [line.strip() for line in done.stderr.decode("utf-8", "replace").splitlines() if line.strip()]
    if any("memory allocation of" in line or "MemoryError" in line for line in lines):
        return "it needs more than 1 GiB"
    panics = [index for index, line in enumerate(lines) if "panicked at" in line]
    if panics:
        return shorten(" ".join(lines[panics[0] : panics[0] + 2]))
    return shorten(lines[-1]) if lines else f"exit code {done.returncode}"
