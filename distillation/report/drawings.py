"""Which figures a comparison has: drawn once here, for the page and for the files beside it.

Each drawing has a file name that stays the same from run to run, so that a tracking server shows the same
figure of several runs side by side.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from distillation.config import DIVERGENCES
from distillation.evaluation.result import Evaluation
from distillation.report import figures as draw
from distillation.report.histories import History
from distillation.report.suite_figures import group_figure, reliability_figure
from distillation.report.tasks import task_drawings
from distillation.report.templating import Drawing
from distillation.report.words import divergence_title, percent

CURVES = (
    ("held_out/bits_per_byte", "Held-out bits per byte", "bits per byte", "lower is better"),
    ("cross_entropy", "Cross-entropy on the text", "nats a student token", "training windows"),
)
TERM_CURVES: dict[str, tuple[str, str, str]] = {
    **{
        name: (f"{divergence_title(name)} from the target", "nats a position", "each variant's own target")
        for name in DIVERGENCES
    },
    "likelihood": ("Likelihood matching", "scaled nats a token", "groups between shared boundaries"),
    "uld": ("Universal logit distillation", "summed difference", "sorted probabilities"),
    "gold": ("GOLD", "loss a token", "matched strings and sorted rest"),
    "hidden": ("Hidden states", "mean squared difference", "pooled over groups, standardised"),
    "attention": ("Attention maps", "nats a group", "pooled over groups"),
}
"""Of each term: title, unit, note; drawn where a variant has it."""
WAYS = {"kind": "by kind of text", "script": "by script", "source": "by source"}
"""Ways to group documents, as they are called in front of people."""


def comparison_drawings(evaluation: Evaluation) -> list[Drawing]:
    """Return the figures that set the models of a comparison side by side."""
    return list(_comparison(evaluation))


def group_drawings(evaluation: Evaluation) -> list[Drawing]:
    """Return bits per byte by group, one figure for each way that has more than one group."""
    note = "documents in brackets; * fewer than five"
    return [
        Drawing(f"bits_per_byte_by_{way}", f"Bits per byte {WAYS.get(way, way)}", note, group_figure(groups))
        for way, groups in evaluation.groups.items()
        if len(groups) > 1
    ]


def training_drawings(histories: Mapping[str, History]) -> list[Drawing]:
    """Return the curves of training, of the metrics that a variant has."""
    drawings = []
    terms = ((name, *shown) for name, shown in TERM_CURVES.items())
    for metric, title, unit, note in (*CURVES, *terms):
        figure = draw.training_figure(histories, metric, unit)
        if figure is not None:
            drawings.append(Drawing(f"training_{metric.replace('/', '_')}", title, note, figure))
    return drawings


def figure_files(evaluation: Evaluation, histories: Mapping[str, History] | None = None) -> dict[str, bytes]:
    """Return every figure as a PNG on white, by its path: `figures/bits_per_byte.png` and so on.

    Args:
        evaluation: what `evaluate_models` found.
        histories: lines of metrics logs by variant (see `read_history`).
    """
    from distillation.report.images import as_png

    drawings = [
        *comparison_drawings(evaluation),
        *group_drawings(evaluation),
        *task_drawings(evaluation),
        *training_drawings(histories or {}),
    ]
    return {f"figures/{one.name}.png": as_png(one.figure, one.title) for one in drawings}


def _comparison(evaluation: Evaluation) -> Iterator[Drawing]:
    figure = draw.bits_per_byte_figure(evaluation)
    yield Drawing("bits_per_byte", "Bits per byte", "shaded: from text alone to the teacher", figure)
    agreement = {
        name: result.agreement.top1_agreement
        for name, result in evaluation.results.items()
        if result.agreement is not None and result.agreement.top1_agreement is not None
    }
    if agreement:
        figure = draw.bar_figure(
            agreement,
            [percent(share, 1) for share in agreement.values()],
            "positions with the teacher's most likely token",
            is_share=True,
        )
        yield Drawing("top1_agreement", "Top-1 agreement with the teacher", "at shared boundaries", figure)
    figure = draw.speed_figure(evaluation)
    yield Drawing("speed", "Speed", f"on {evaluation.device}, fixed shape", figure)
    figure = draw.size_figure(evaluation)
    yield Drawing("size", "Size", "experts that a token is not sent to do not count", figure)
    reliability = reliability_figure(evaluation)
    if reliability is not None:
        yield Drawing(
            "reliability",
            "Reliability",
            "on the diagonal a model is as often right as it is sure; below, it is too sure",
            reliability,
        )
