"""A materializer on a real local artifact store in a temporary folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def stored(tmp_path: Path) -> Callable[[type], Any]:
    """Return what makes a materializer of a class, with a place in the store of its own."""
    from zenml.artifact_stores.local_artifact_store import LocalArtifactStore, LocalArtifactStoreConfig
    from zenml.enums import StackComponentType

    uri = tmp_path / "store" / "artifact"
    uri.mkdir(parents=True)
    store = LocalArtifactStore(
        name="local",
        id="00000000-0000-0000-0000-000000000001",
        config=LocalArtifactStoreConfig(path=str(tmp_path / "store")),
        flavor="local",
        type=StackComponentType.ARTIFACT_STORE,
        user=None,
        created="2026-01-01",
        updated="2026-01-01",
    )
    return lambda kind: kind(uri=str(uri), artifact_store=store)
