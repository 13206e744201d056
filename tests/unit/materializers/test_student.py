"""A student through a real local artifact store: same weights, no pickle, hash of the content."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distillation.config import parse_settings
from distillation.errors import JobError
from distillation.models.decision import decide


@pytest.fixture
def materializer(stored: Callable[[type], Any]) -> Any:
    from materializers.student import StudentMaterializer

    return stored(StudentMaterializer)


@pytest.fixture
def student(tiny_student_dir: Path, tmp_path: Path) -> Any:
    from distillation.training.student import Student

    directory = shutil.copytree(tiny_student_dir, tmp_path / "job" / "student")
    history = tmp_path / "job" / "metrics.jsonl"
    history.write_text('{"step": 1}\n')
    return Student(directory, "distilled", {"held_out/bits_per_byte": 2.5}, history)


def test_round_trip(student: Any, materializer: Any) -> None:
    from transformers import AutoModelForCausalLM

    student = replace(student, decision=decide(parse_settings({"models": {"device": "cpu"}})))
    materializer.save(student)
    loaded = materializer.load(type(student))
    assert loaded.decision == student.decision
    assert (loaded.variant, loaded.metrics) == ("distilled", {"held_out/bits_per_byte": 2.5})
    assert loaded.history.read_text() == '{"step": 1}\n'
    before = AutoModelForCausalLM.from_pretrained(student.directory).state_dict()
    after = AutoModelForCausalLM.from_pretrained(loaded.directory).state_dict()
    assert all((before[name] == after[name]).all() for name in before)
    suffixes = {path.suffix for path in Path(materializer.uri).rglob("*") if path.is_file()}
    assert suffixes == {".json", ".jsonl", ".safetensors"}


def test_hash_follows_weights_and_variant(student: Any, materializer: Any) -> None:
    first = materializer.compute_content_hash(student)
    assert materializer.compute_content_hash(replace(student, metrics={})) == first
    assert materializer.compute_content_hash(replace(student, variant="text_only")) != first
    weights = student.directory / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert materializer.compute_content_hash(student) != first


def test_metadata_has_variant_size_and_figures(student: Any, materializer: Any) -> None:
    metadata = materializer.extract_metadata(student)
    assert metadata["variant"] == "distilled"
    assert metadata["held_out_bits_per_byte"] == 2.5
    assert metadata["size_in_bytes"] > (student.directory / "model.safetensors").stat().st_size


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "no safetensors weights"),
        (lambda folder: (folder / "config.json").unlink(), "config.json"),
        (lambda folder: (folder / "pytorch_model.bin").write_bytes(b"x"), "pytorch_model.bin may hold code"),
        (lambda folder: shutil.rmtree(folder), "no safetensors weights"),
    ],
)
def test_what_is_no_safe_student_is_refused(student: Any, materializer: Any, damage: Any, words: str) -> None:
    damage(student.directory)
    with pytest.raises(JobError, match=words):
        materializer.save(student)
    assert not list(Path(materializer.uri).rglob("*"))
