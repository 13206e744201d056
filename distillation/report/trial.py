"""One report before any work, so that none fails to be drawn after it."""

from __future__ import annotations

from distillation.config import Settings
from distillation.errors import InputError, one_line
from distillation.evaluation.result import DISTILLED, TEACHER, Evaluation, ModelResult
from distillation.evaluation.speed import Speed

_NUM_BYTES = 8


def try_report(settings: Settings) -> None:
    """Draw the report of made-up figures with the run's settings, and drop it.

    Raises:
        InputError: it cannot be drawn: a library or a template is missing or is set up wrongly.
    """
    try:
        from distillation.report.page import report_page

        report_page(_made_up(settings), settings=settings)
    except Exception as error:
        raise InputError(
            f"no report can be drawn here ({type(error).__name__}: {one_line(error)}): unset MPLBACKEND and "
            "MATPLOTLIBRC if you have set them, else install this package and matplotlib again"
        ) from error


def _made_up(settings: Settings) -> Evaluation:
    return Evaluation(
        results={name: _result(name, bits) for name, bits in ((DISTILLED, 2.0), (TEACHER, 1.0))},
        held_out_fingerprint="trial",
        num_held_out_documents=1,
        num_held_out_bytes=_NUM_BYTES,
        device="cpu",
        settings=settings.evaluation,
    )


def _result(name: str, bits_per_byte: float) -> ModelResult:
    bits = bits_per_byte * _NUM_BYTES
    return ModelResult(
        name=name,
        source="trial",
        dtype="float32",
        bits_per_byte=bits_per_byte,
        total_bits=bits,
        num_bytes=_NUM_BYTES,
        per_document_bits=(bits,),
        per_document_bytes=(_NUM_BYTES,),
        num_tokens=_NUM_BYTES,
        num_unscored_bytes=0,
        num_unknown_tokens=0,
        accuracy=0.5,
        expected_calibration_error=0.1,
        gap_closed=None,
        gap_closed_interval=None,
        agreement=None,
        samples=(),
        speed=Speed(
            forward_tokens_per_second=1.0,
            generated_tokens_per_second=1.0,
            num_parameters=1,
            num_active_parameters=1,
            size_on_disk=1,
        ),
    )
