"""Where documents come from, in few words, so that results can be told apart by it.

    documentation    package docstrings, standard library docstrings, language reference
    files            the first folder under the source, or the file itself where there is none
    hub              the dataset and its split

A source of many files in one folder would give a label a file: it gets the files' suffixes instead.
"""

from __future__ import annotations

from collections.abc import Sequence

DOCUMENTED_PACKAGES = (
    "accelerate", "aiohttp", "alembic", "click", "cryptography", "datasets", "docker", "fastapi", "flask",
    "fsspec", "git", "graphql", "great_expectations", "huggingface_hub", "hypothesis", "jinja2", "joblib",
    "jsonschema", "marshmallow", "matplotlib", "mlflow", "networkx", "numpy", "omegaconf", "opentelemetry",
    "packaging", "pandas", "passlib", "PIL", "pip", "pyarrow", "pydantic", "pygments", "pytest", "_pytest",
    "requests", "rich", "safetensors", "scipy", "setuptools", "skops", "sklearn", "sqlalchemy", "sqlmodel",
    "sympy", "tokenizers", "torch", "tqdm", "transformers", "urllib3", "uvicorn", "werkzeug", "zenml",
)  # fmt: skip
"""Packages whose docstrings are read where they are installed; absent ones are skipped."""
MAX_LABELS = 12
"""More file names than this are no overview."""
LANGUAGE_REFERENCE = "pydoc_data"
"""First part of the origin of the language reference's topics."""


def source_labels(origins: Sequence[str], source_kind: str) -> list[str]:
    """Return one label a document.

    Args:
        origins: as `Document.origin` has them.
        source_kind: `hub`, `file` or `documentation`.
    """
    if source_kind == "documentation":
        return [_part_of_documentation(origin) for origin in origins]
    names = [origin.rsplit(":", 1)[0] for origin in origins]  # without the index of the document
    if source_kind == "file":
        names = [name.split("/", 1)[0] for name in names]
        if len(set(names)) > MAX_LABELS:
            return [_suffix(name) for name in names]
    return names


def _part_of_documentation(origin: str) -> str:
    first = origin.split("/", 1)[0]
    if first == LANGUAGE_REFERENCE:
        return "language reference"
    return "package docstrings" if first in DOCUMENTED_PACKAGES else "standard library docstrings"


def _suffix(name: str) -> str:
    """Return `.txt files` and so on; what has no suffix is a folder."""
    _, point, suffix = name.rpartition(".")
    return f".{suffix} files" if point else "folders"
