"""The embedded corpus: the documentation that this very Python installation carries.

Docstrings of the standard library and of installed packages, module by module, and CPython's language
reference: some tens of megabytes of English that are there without any network. Sources are parsed, never
imported, so no code runs. Files come in the order of a hash of their name, so that the first few megabytes
are an even sample of all packages.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import os
import sysconfig
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from distillation.corpus.documents import Document
from distillation.corpus.sources.labels import DOCUMENTED_PACKAGES

SKIPPED_FOLDERS = frozenset(
    {"test", "tests", "testing", "_vendor", "site-packages", "lib2to3", "idlelib", "__pycache__"}
)
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
MIN_DOCSTRING_CHARACTERS = 60
MIN_MODULE_CHARACTERS = 200


def iterate_documentation() -> Iterator[Document]:
    """Yield one document a module, and one a topic of the language reference.

    A docstring that was seen before (inherited, generated or copied) is left out, so that the corpus holds
    each text once.
    """
    seen: set[bytes] = set()
    readers = _language_reference() | {name: partial(_docstrings, path) for name, path in _python_files()}
    for name in sorted(readers, key=lambda name: hashlib.sha256(name.encode()).digest()):
        docstrings = []
        for docstring in readers[name]():
            key = hashlib.sha256(docstring.encode("utf-8", "surrogatepass")).digest()
            if len(docstring) >= MIN_DOCSTRING_CHARACTERS and key not in seen:
                seen.add(key)
                docstrings.append(docstring)
        text = "\n\n\n".join(docstrings) + "\n"
        if len(text) >= MIN_MODULE_CHARACTERS:
            yield Document(text, name)


def _language_reference() -> dict[str, Callable[[], Iterable[str]]]:
    """Return a reader for each topic that `help()` shows, if this installation carries them."""
    try:
        from pydoc_data.topics import topics
    except ImportError:
        return {}
    return {f"pydoc_data/{topic}": partial(_one, text.strip()) for topic, text in topics.items()}


def _one(text: str) -> tuple[str]:
    return (text,)


def _python_files() -> Iterator[tuple[str, Path]]:
    """Yield every source file with its name relative to the folder that holds its package."""
    paths = sysconfig.get_paths()
    standard_library, packages = Path(paths["stdlib"]), Path(paths["purelib"])
    roots = [(standard_library, standard_library)]
    roots += [(packages, packages / package) for package in DOCUMENTED_PACKAGES]
    for base, root in roots:
        for folder, folders, files in os.walk(root):
            folders[:] = sorted(name for name in folders if name not in SKIPPED_FOLDERS)
            for file in files:
                if file.endswith(".py") and not file.startswith("test_"):
                    path = Path(folder) / file
                    yield path.relative_to(base).as_posix(), path


def _docstrings(path: Path) -> Iterator[str]:
    """Yield the cleaned docstrings of one file in source order; a file that does not parse has none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's sources
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError, OSError):
        return
    # Statements alone are visited, last first from a stack: expressions hold no docstring, and most nodes.
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, DOCUMENTED):
            docstring = ast.get_docstring(node, clean=False)
            if docstring:
                # Tabs and ragged indentation are cleaned as `help()` cleans them.
                yield inspect.cleandoc(docstring)
        for field in ("cases", "finalbody", "orelse", "handlers", "body"):
            children = getattr(node, field, None)
            if isinstance(children, list):
                pending.extend(reversed(children))
