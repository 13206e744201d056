"""A tokenizer's file, tried in a process of its own that `model_files.try_tokenizer` starts.

    python tokenizer_trial.py FILE FOLDER ...

The folders are where the modules lie: nothing else of the installation is loaded. What the library does to
the process, an abort, an endless loop, a table of eight gigabytes, it does to this one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

MEMORY_BYTES = 2**30
SAMPLE = (
    "Hello, world! 12345 x+=1;\r\n\tdef f(a):\n        return a  # naïve café\n"
    "你好，世界 Привет مرحبا 🙂👩‍👩‍👧 \u0301 <s> </s> <unk> <|endoftext|> [CLS] " + "a" * 500 + " " * 200
)


def main(path: Path) -> int:
    """Print what is wrong with the file at `path`, as JSON; null if nothing is."""
    from tokenizers import Tokenizer

    _limit_memory()
    try:
        reason = _fault_of(path, Tokenizer)
    except MemoryError:
        reason = "needs more than 1 GiB to be read"
    except BaseException as error:  # a panic of the library is no Exception
        reason = " ".join(str(error).split()) or type(error).__name__
    print(json.dumps({"reason": reason}))
    return 0


def _limit_memory() -> None:
    """Bound the memory of this process at what it has now and `MEMORY_BYTES` more, where the system can."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, used + MEMORY_BYTES))


def _fault_of(path: Path, library: Any) -> str | None:
    from distillation.errors import InputError, one_line
    from distillation.models.files import MAX_TOKENIZER_BYTES, VOCABULARY
    from distillation.reading import read_json

    try:
        content = read_json(path, max_bytes=MAX_TOKENIZER_BYTES)
    except InputError as error:
        return one_line(error).removeprefix(f"{path}: ")
    if path.name == VOCABULARY:
        return _fault_of_vocabulary(content)
    fault = _fault_of_content(content)
    if fault is not None:
        return fault
    del content
    tokenizer = library.from_file(str(path))
    for text in (SAMPLE, ""):
        for special in (True, False):
            tokenizer.decode(tokenizer.encode(text, add_special_tokens=special).ids)
    return None


def _fault_of_content(content: dict[str, Any]) -> str | None:
    """Return the first fault that arithmetic finds."""
    model = content.get("model")
    if not isinstance(model, dict):
        return "has no model"
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, dict):
        fault = _fault_of_vocabulary(vocabulary)
    else:
        fault = _fault_of_ids(range(len(vocabulary)) if isinstance(vocabulary, list) else ())
    added = content.get("added_tokens") or []
    if fault is None and not (isinstance(added, list) and all(isinstance(token, dict) for token in added)):
        fault = "added_tokens must be a list of objects"
    return fault or _fault_of_ids(token.get("id") for token in added)


def _fault_of_vocabulary(vocabulary: dict[str, Any]) -> str | None:
    """Return the first fault of token -> id; of two with one id the library writes either one back."""
    fault = _fault_of_ids(vocabulary.values())
    if fault is None and len(set(vocabulary.values())) < len(vocabulary):
        fault = "two of its tokens have one id"
    return fault


def _fault_of_ids(ids: Iterable[Any]) -> str | None:
    from distillation.errors import shorten
    from distillation.models.files import MAX_TOKENS

    for one in ids:
        if isinstance(one, bool) or not isinstance(one, int):
            return f"a token has the id {shorten(repr(one), 40)}, which is no whole number"
        if not 0 <= one < MAX_TOKENS:
            return f"a token has the id {shorten(repr(one), 40)}; ids up to {MAX_TOKENS:,} are taken"
    return None


if __name__ == "__main__":
    sys.path[:0] = sys.argv[2:]
    sys.exit(main(Path(sys.argv[1])))
