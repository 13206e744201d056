"""The words and number formats that the terminal, the page and the model card share."""

from __future__ import annotations

from distillation.config import BASELINE, CONTROLS
from distillation.evaluation.result import DISTILLED, TEACHER, Evaluation

LABELS = {
    "untouched": "untouched student",
    DISTILLED: "distilled student",
    TEACHER: "teacher",
}
EXPLANATIONS = {
    "untouched": "the student as it was before any training here",
    DISTILLED: "trained on text and on the teacher's distribution, aligned across tokenizers",
    TEACHER: "the model that is learned from",
}
MISSING = "–"
SPACE = "\u00a0"  # no line breaks between a number and its unit


def label(name: str) -> str:
    """Return how a model of a comparison is called in front of people."""
    return CONTROLS[name].title if name in CONTROLS else LABELS.get(name, name.replace("_", " "))


def explanation(name: str) -> str:
    """Return what a model of a comparison is, in half a sentence; nothing for one that has no usual name."""
    return CONTROLS[name].explanation if name in CONTROLS else EXPLANATIONS.get(name, "")


def divergence_title(name: str) -> str:
    """Return a divergence's setting as a title: `forward_kl` is `Forward KL`."""
    words = name.replace("_kl", " KL").replace("jensen_shannon", "Jensen-Shannon").replace("_", " ")
    return words[0].upper() + words[1:]


def percent(share: float | None, digits: int = 0) -> str:
    """Return a share as per cent, with a true minus sign."""
    if share is None:
        return MISSING
    text = f"{100 * share:.{digits}f}"
    if float(text) == 0:
        text = text.removeprefix("-")
    return text.replace("-", "−") + SPACE + "%"


def decimal(value: float | None, digits: int = 3) -> str:
    """Return a number with fixed digits, or a dash."""
    return MISSING if value is None else f"{value:.{digits}f}".replace("-", "−")


def scaled(value: float | None, unit: str = "") -> str:
    """Return three significant digits and a decimal prefix: 1,234,567 -> `1.23 M`; k, M, G and T."""
    if value is None:
        return MISSING
    magnitude = abs(float(value))
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if magnitude >= factor * 0.9995:
            return _three_digits(value / factor) + SPACE + prefix + unit
    number = _three_digits(value)
    return number + SPACE + unit if unit else number


def milliseconds(value: float | None) -> str:
    """Return a time with three significant digits and its unit."""
    return MISSING if value is None else _three_digits(value) + SPACE + "ms"


def _three_digits(value: float) -> str:
    if float(value).is_integer() and abs(value) < 1000:
        return f"{value:.0f}"
    digits = 0 if abs(value) >= 99.95 else 1 if abs(value) >= 9.995 else 2
    return f"{value:.{digits}f}"


def verdict_sentence(evaluation: Evaluation) -> str:
    """Return the one sentence that a reader should take away, whichever way the comparison went."""
    distilled, control = evaluation.results.get(DISTILLED), evaluation.results.get(BASELINE)
    if distilled is None or control is None:
        absent = ", ".join(label(n) for n in (DISTILLED, BASELINE) if n not in evaluation.results)
        return f"No verdict: not evaluated: {absent}."
    saving = 1.0 - distilled.bits_per_byte / control.bits_per_byte
    if evaluation.verdict == "equal":
        return (
            "Distillation made no difference that these held-out documents can show: "
            f"{decimal(distilled.bits_per_byte)} bits per byte, "
            f"{decimal(control.bits_per_byte)} without a teacher."
        )
    if evaluation.verdict == "worse":
        return (
            f"Distillation did harm: the distilled student needs {percent(-saving, 1)} more bits per byte "
            "than the one trained on text alone."
        )
    if distilled.gap_closed is None:
        return (
            f"The distilled student needs {percent(saving, 1)} fewer bits per byte than the one trained on "
            "text alone; the teacher is no better than that control, so there is no gap to close."
        )
    return (
        f"The distilled student closes {percent(distilled.gap_closed)} of the gap between training on text "
        "alone and its teacher."
    )


def verdict_details(evaluation: Evaluation) -> list[str]:
    """Return the sentences under the verdict: the figures, the interval, what the controls show."""
    results = evaluation.results
    details = []
    parts = [f"{label(name)} {decimal(result.bits_per_byte)}" for name, result in results.items()]
    details.append("Bits per byte, lower is better: " + ", ".join(parts) + ".")
    distilled = results.get(DISTILLED)
    if distilled is not None and distilled.gap_closed_interval is not None:
        low, high = distilled.gap_closed_interval
        details.append(
            f"95{SPACE}% interval of the gap closed over draws of the held-out documents: "
            f"{percent(low, 1)} to {percent(high, 1)}. It does not speak of other seeds."
        )
    baseline = results.get(BASELINE)
    for name in results:
        if baseline is not None and name in CONTROLS and CONTROLS[name].action:
            bits = results[name].bits_per_byte
            details.append(
                f"{CONTROLS[name].action} gives {decimal(bits)}: "
                f"{'worse' if bits > baseline.bits_per_byte else 'no worse'} than no teacher."
            )
    return details


def best_student(evaluation: Evaluation) -> str | None:
    """Return the name of the student with the fewest bits per byte."""
    students = {name: r.bits_per_byte for name, r in evaluation.results.items() if name != TEACHER}
    return min(students, key=students.__getitem__) if students else None
