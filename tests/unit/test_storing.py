"""A disk that refuses is one line with the path and what to do, whichever library met it first."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from distillation.errors import JobError, StorageError
from distillation.files import storage_error, storing


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_refusal_names_path_setting_and_remedy(tmp_path: Path, code: int) -> None:
    with pytest.raises(StorageError) as error, storing(tmp_path, "training.output_dir"):
        raise OSError(code, os.strerror(code), str(tmp_path / "model.safetensors"))
    text = str(error.value)
    assert str(tmp_path / "model.safetensors") in text
    assert os.strerror(code) in text
    assert "training.output_dir" in text


def test_a_refusal_inside_of_a_library_is_found(tmp_path: Path) -> None:
    cause = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(StorageError, match="No space left"), storing(tmp_path):
        raise RuntimeError("cannot save") from cause


def test_the_number_in_the_text_of_a_library_in_rust_is_read(tmp_path: Path) -> None:
    """Its draft is gone when the error comes, so a try finds room and says nothing."""
    from safetensors import SafetensorError

    with (
        pytest.raises(StorageError, match=f"{tmp_path}.*No space left.*output_dir"),
        storing(tmp_path, "output_dir"),
    ):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def test_a_library_that_hides_the_cause_is_seen_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=f"{tmp_path}.*No space left"), storing(tmp_path):
        raise RuntimeError("PytorchStreamWriter failed writing file data.pkl: file write failed")
    assert not list(tmp_path.iterdir())


def test_faults_of_our_own_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), storing(tmp_path):
        raise ZeroDivisionError
    with pytest.raises(JobError), storing(tmp_path):
        raise JobError("damaged")


def test_of_several_places_the_one_that_refuses_is_named(tmp_path: Path) -> None:
    full = Path("/dev/full")
    places: dict[str | Path, str | None] = {tmp_path: "training.output_dir", full: "tracking.uri"}
    hidden = RuntimeError("database or disk is full")
    assert storage_error(hidden, {tmp_path: "training.output_dir"}) is None
    named = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(full))
    hidden.__cause__ = named
    line = str(storage_error(hidden, places))
    assert line == "/dev/full: cannot be written, No space left on device; make room there (tracking.uri)"
