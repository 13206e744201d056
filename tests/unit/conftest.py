"""Evaluations and comparisons with figures given by hand, for the tests of what is made of them."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from comparison_bits import BITS, SEEDS

if TYPE_CHECKING:
    from distillation.config import ComparisonSettings
    from distillation.experiment.result import Comparison

NUM_DOCUMENTS = 40
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session", autouse=True)
def source_root() -> None:
    """Tell ZenML where steps lie: it asks the main module, and a process of pytest-xdist has none."""
    from zenml.utils import source_utils

    source_utils.set_custom_source_root(str(REPOSITORY))


@pytest.fixture(scope="session")
def models(tiny_teacher_dir: Path, tiny_student_dir: Path) -> dict[str, Any]:
    """The random pair with its tokenizers."""
    from distillation.config import ModelReference
    from distillation.models.load import load_model, load_tokenizer

    teacher, student = ModelReference(path=str(tiny_teacher_dir)), ModelReference(path=str(tiny_student_dir))
    return {
        "teacher": load_model(teacher, "teacher", dtype="float32"),
        "student": load_model(student, "student", dtype="float32"),
        "teacher_tokenizer": load_tokenizer(teacher, "teacher"),
        "student_tokenizer": load_tokenizer(student, "student"),
    }


@pytest.fixture(scope="session")
def audit(tiny_teacher_dir, tiny_student_dir, english_documents):
    from distillation.audit.audit import audit_tokenizers
    from distillation.config import ModelReference
    from distillation.models.load import load_tokenizer

    teacher, student = (
        load_tokenizer(ModelReference(path=str(path)), "teacher")
        for path in (tiny_teacher_dir, tiny_student_dir)
    )
    return audit_tokenizers(teacher, student, english_documents[:8])


def _result(name: str, bits: float, teacher: str = "teacher", continuation: str = " the items of the list."):
    from distillation.evaluation.agreement import Agreement
    from distillation.evaluation.result import ModelResult
    from distillation.evaluation.samples import Sample
    from distillation.evaluation.speed import Speed

    random = np.random.default_rng(7)  # the same documents for every model
    num_bytes = random.integers(500, 4000, NUM_DOCUMENTS)
    hardness = random.normal(1.0, 0.1, NUM_DOCUMENTS)
    noise = np.random.default_rng(zlib.crc32(name.encode())).normal(1.0, 0.004, NUM_DOCUMENTS)
    document_bits = num_bytes * hardness * noise
    document_bits *= bits * num_bytes.sum() / document_bits.sum()
    is_teacher = name == teacher
    return ModelResult(
        name=name,
        source=f"models/{name}",
        dtype="float32",
        bits_per_byte=float(document_bits.sum() / num_bytes.sum()),
        total_bits=float(document_bits.sum()),
        num_bytes=int(num_bytes.sum()),
        per_document_bits=tuple(document_bits.tolist()),
        per_document_bytes=tuple(num_bytes.tolist()),
        num_tokens=int(num_bytes.sum() / (3.6 if is_teacher else 2.9)),
        num_unscored_bytes=0,
        num_unknown_tokens=0,
        accuracy=0.7 - 0.15 * bits,
        expected_calibration_error=0.02 * bits,
        gap_closed=None,
        gap_closed_interval=None,
        agreement=None
        if is_teacher
        else Agreement(
            top1_agreement=1 - 0.2 * bits,
            kl_divergence=bits - 1.2,
            num_positions=9000,
            num_student_tokens=12000,
            num_refused_documents=0,
        ),
        samples=tuple(
            Sample(prompt=prompt, continuation=continuation, num_tokens=9)
            for prompt in ("Return a new list containing", "The function raises", "Parameters\n----------\n")
        ),
        speed=Speed(
            forward_tokens_per_second=21_000.0 if is_teacher else 64_000.0,
            generated_tokens_per_second=150.0 if is_teacher else 420.0,
            num_parameters=4_012_000 if is_teacher else 1_480_000,
            num_active_parameters=2_900_000 if is_teacher else 1_480_000,
            size_on_disk=8_024_000 if is_teacher else 2_960_000,
            first_token_ms=21.4 if is_teacher else 6.83,
            peak_memory_bytes=61_950_000 if is_teacher else 22_300_000,
        ),
        reliability=_reliability(),
    )


def _reliability():
    """Fifteen bins of a model that is a little too sure, the last of them empty."""
    from distillation.evaluation.reliability import Reliability

    confidence = [(place + 0.5) / 15 for place in range(14)]
    return Reliability(
        counts=(*(900 - 60 * place for place in range(14)), 0),
        accuracy=(*(0.9 * value for value in confidence), None),
        mean_confidence=(*confidence, None),
    )


def _passages(names):
    """A passage of six stretches whose teacher always needs two bits."""
    from distillation.evaluation.token_view import PassageView

    stretches = ("Return", " a", " new <list>", "\n\n", "    déjà", " vu")
    extra = {"distilled": (0.0, 0.9, 1.5, 3.0, 9.0, -1.5), "text_only": (1.0, 2.0, 4.0, 8.0, 0.5, None)}
    bits = {"teacher": (2.0,) * 6}
    bits |= {
        name: tuple(None if more is None else 2.0 + more for more in extra[name])
        for name in extra
        if name in names
    }
    return (PassageView(document=4, kind="prose", stretches=stretches, bits=bits),)


@pytest.fixture(scope="session")
def make_evaluation():
    """The function (continuation=..., **bits per byte by name) -> Evaluation."""

    def make(continuation: str = " the items of the list.", **bits: float):
        from distillation.config import EvaluationSettings
        from distillation.evaluation.evaluate import with_gap_closed
        from distillation.evaluation.result import Evaluation

        results = {name: _result(name, value, continuation=continuation) for name, value in bits.items()}
        return Evaluation(
            results=with_gap_closed(results),
            held_out_fingerprint="5d41402abc4b2a76",
            num_held_out_documents=NUM_DOCUMENTS,
            num_held_out_bytes=next(iter(results.values())).num_bytes,
            device="cpu",
            settings=EvaluationSettings(),
            document_labels={
                "kind": tuple("prose" if place % 4 else "code" for place in range(NUM_DOCUMENTS)),
                "script": ("Latin",) * NUM_DOCUMENTS,
                "source": (
                    *(f"folder {min(place // 16, 2)}" for place in range(37)),
                    "<odd>",
                    "<odd>",
                    "one",
                ),
            },
            passages=_passages(bits),
        )

    return make


@pytest.fixture(scope="session")
def comparison_settings() -> ComparisonSettings:
    from distillation.config import ComparisonSettings, parse_settings

    variants = {
        "prefix": {},
        "shared": {"alignment.strategy": "shared"},
        "uld": {"objective.terms": {"cross_entropy": 1.0, "uld": 1.5}},
    }
    return parse_settings({"comparison": {"variants": variants, "seeds": SEEDS}}, ComparisonSettings)


@pytest.fixture(scope="session")
def make_comparison(
    make_evaluation: Callable[..., Any], comparison_settings: ComparisonSettings
) -> Callable[..., Comparison]:
    """The function (bits by variant and seed, validation bits where they differ) -> Comparison.

    None in place of a figure is a student that failed.
    """
    from distillation.experiment.plan import make_plan
    from distillation.experiment.result import StudentResult
    from distillation.experiment.summarise import summarise

    def make(bits: dict[str, Any], validation: dict[str, Any] | None = None) -> Comparison:
        plan = make_plan(comparison_settings)
        references = make_evaluation(untouched=2.331, teacher=1.540)
        students = []
        for entry in plan.entries():
            value = bits[entry.variant][SEEDS.index(entry.seed)]
            fields: dict[str, Any] = {"variant": entry.variant, "seed": entry.seed, "kind": entry.kind}
            if value is None:
                students.append(StudentResult(**fields, failure="out of memory"))
                continue
            chosen_on = (validation or bits)[entry.variant][SEEDS.index(entry.seed)]
            result = make_evaluation(**{entry.variant: value, "teacher": 1.540}).results[entry.variant]
            students.append(
                StudentResult(
                    **fields,
                    job_dir="outputs/jobs/x",
                    result=result,
                    training={"validation_bits_per_byte": chosen_on, "training_tokens_per_second": 3000.0},
                )
            )
        return summarise(students, {"sample": references}, plan)

    return make


@pytest.fixture(scope="session")
def comparison(make_comparison: Callable[..., Comparison]) -> Comparison:
    return make_comparison(BITS)
