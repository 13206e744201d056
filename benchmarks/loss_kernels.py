"""What the loss costs beside the matrix products that no method can do without.

    python -m benchmarks.loss_kernels [--teacher DIR --student DIR TEXT...] [--positions 2048] [--json]

Hidden states and output layers are random, of the given widths; tokenizers, texts and the alignment are real.
Each variant turns the same hidden states into a loss and its gradients with respect to the student's hidden
states and output weights:

    products     the teacher's output layer forward, the student's forward and its two backward products
    ours         the default objective, 0.1 cross-entropy + 0.9 forward KL under `prefix`
    naive        the same sum written densely: all logits, softmax, scatter_add, autograd; all positions are
                 taken for shared boundaries, which spares it the work inside of teacher tokens
    sorted L1    cross-entropy + the difference of sorted probabilities (ULD), written densely

Time is the fastest of some rounds in which the variants take turns. Memory is what the peak of a fresh
process (of the device, on one) rises by over what the models and states take. Utilisation is the speed of the
products beside that of one large product. Every ratio is within one run.
"""

# ruff: noqa: N802, N815 - the shape suffixes stand in names of fields too.

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.alignment import read_texts
from benchmarks.device import product_rate, seconds_of

TEXTS = ("LICENSE", "docs/benchmarks.md")
VARIANTS = ("products", "ours", "naive", "sorted L1")


@dataclass
class Case:
    """Tensors that all variants start from; letters as in `distillation.losses`."""

    batch: Any
    objective: Any
    teacher_MD: Any
    row_R: Any
    """The teacher's rows that any method reads."""
    teacher_row_N: Any
    first_token_U: Any
    student: Any
    used_BT: Any
    labels_N: Any

    @property
    def teacher_weight_UD(self) -> Any:
        """The teacher's output layer."""
        return self.objective.teacher.reader.head.weight

    @property
    def gradient_bytes(self) -> int:
        """Of the gradients that any method returns, in the shapes of what came in, padding included."""
        return int(self.student.hidden_BTD.nbytes + self.student.weight_VD.nbytes)

    @property
    def gigaflops(self) -> float:
        """Of the products, 2 a multiplication and addition."""
        teacher = len(self.row_R) * self.teacher_weight_UD.numel()
        return 2e-9 * (teacher + 3 * len(self.labels_N) * self.student.weight_VD.numel())


def make_case(options: argparse.Namespace) -> Case:
    """Return the case of the command line."""
    import torch
    from transformers import AutoTokenizer

    from distillation.aligners.build import build_aligner
    from distillation.aligners.targets import tail_rows
    from distillation.config import ObjectiveSettings
    from distillation.corpus.windows import WindowCollator, make_windows
    from distillation.kernels.batch import BatchView, StudentOutput
    from distillation.losses.objective import DistillationObjective
    from distillation.models.load import start_token_id
    from distillation.tokenizers.pairs import PairEncoder

    torch.manual_seed(0)
    tokenizers = [AutoTokenizer.from_pretrained(name) for name in (options.teacher, options.student)]
    sizes = {"num_teacher_rows": options.rows[0], "num_student_rows": options.rows[1]}
    aligner = build_aligner("prefix", *tokenizers, **sizes)
    windows = make_windows(PairEncoder(*tokenizers), read_texts(options.texts), options.window)
    starts = [start_token_id(tokenizer) or 0 for tokenizer in tokenizers]
    pairs, num_positions = [], 0
    for pair in itertools.cycle(windows.pairs):  # a short text is read again
        pairs.append(pair)
        num_positions += len(pair.student.ids)
        if num_positions >= options.positions:
            break
    batch = WindowCollator(starts[1], starts[0], aligner)(pairs)
    used = (batch["shift_labels"] >= 0).flatten().cumsum(0).view_as(batch["shift_labels"])
    batch["shift_labels"][used > options.positions] = -100
    batch = {name: tensor.to(options.device) for name, tensor in batch.items()}
    teacher = _teacher(batch["teacher_labels"], options)
    dtype = teacher.reader.head.weight.dtype
    weight_VD = torch.randn(options.rows[1], options.widths[1], device=options.device, dtype=dtype) / 8
    hidden_BTD = torch.randn(*used.shape, options.widths[1], device=options.device, dtype=dtype)
    student = StudentOutput(hidden_BTD.requires_grad_(), weight_VD.requires_grad_(), None, options.rows[1])
    aligner = aligner.to(options.device)
    objective = DistillationObjective(ObjectiveSettings(), aligner, teacher)
    view = BatchView(batch, student, teacher)
    row_N = view.teacher_rows(batch["teacher_position"])
    _, tail_row_R = tail_rows(row_N, batch["num_tail"][view.used_BT])
    return Case(
        batch=batch,
        objective=objective,
        teacher_MD=view.teacher_states_MD,
        row_R=torch.cat([row_N[row_N >= 0], tail_row_R]).unique(),
        teacher_row_N=row_N.clamp_min(0),
        first_token_U=aligner.tables["first_token"],
        student=student,
        used_BT=view.used_BT,
        labels_N=view.labels_N,
    )


def _teacher(labels_BS: Any, options: argparse.Namespace) -> Any:
    """Return a live teacher whose body is left out: its states are random."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from distillation.kernels.batch import TeacherOutput
    from distillation.teachers.live import LiveTeacher

    num_rows, width = options.rows[0], options.widths[0]
    config = LlamaConfig(
        vocab_size=num_rows, hidden_size=width, num_hidden_layers=1, intermediate_size=64,
        num_attention_heads=8, tie_word_embeddings=True,
    )  # fmt: skip
    dtype = getattr(torch, options.dtype)
    with torch.device(options.device):
        model = LlamaForCausalLM(config).to(dtype)
        output = TeacherOutput(torch.randn(*labels_BS.shape, width, dtype=dtype))
    with torch.no_grad():
        model.lm_head.weight.normal_(std=3 * width**-0.5)
    teacher = LiveTeacher(model)
    teacher.run = lambda *args: output  # type: ignore[method-assign]
    return teacher


def products(case: Case) -> None:
    """The products alone, each whole and let go at once."""
    import torch

    with torch.no_grad():
        hidden_ND, weight_VD = case.student.hidden_BTD[case.used_BT], case.student.weight_VD
        states_RD = case.teacher_MD[case.row_R]
        torch.nn.functional.linear(states_RD, case.teacher_weight_UD)
        logits_NV = torch.nn.functional.linear(hidden_ND, weight_VD)
        _ = logits_NV @ weight_VD
        _ = logits_NV.T @ hidden_ND


def ours(case: Case) -> None:
    """The product's own loss, as training calls it."""
    loss, _ = case.objective(case.student, case.batch)
    loss.backward()


def naive(case: Case) -> None:
    """Forward KL and cross-entropy over all positions at once."""
    import torch

    functional = torch.nn.functional
    with torch.no_grad():
        states_ND = case.teacher_MD[case.teacher_row_N]
        probs_NU = functional.linear(states_ND, case.teacher_weight_UD).float().softmax(-1)
        target_NV = probs_NU.new_zeros(len(probs_NU), case.student.num_rows + 1)
        target_NV.scatter_add_(1, case.first_token_U.expand(len(probs_NU), -1), probs_NU)
        del probs_NU
        target_NV = target_NV[:, :-1]
    hidden_ND = case.student.hidden_BTD[case.used_BT]
    log_probs_NV = functional.linear(hidden_ND, case.student.weight_VD).float().log_softmax(-1)
    loss = 0.1 * functional.nll_loss(log_probs_NV, case.labels_N)
    loss = loss + 0.9 * functional.kl_div(log_probs_NV, target_NV, reduction="batchmean")
    loss.backward()


def sorted_difference(case: Case) -> None:
    """Cross-entropy and sorted probabilities over all positions at once."""
    import torch

    functional = torch.nn.functional
    with torch.no_grad():
        states_ND = case.teacher_MD[case.teacher_row_N]
        probs_NU = functional.linear(states_ND, case.teacher_weight_UD).float().softmax(-1)
        probs_NU = probs_NU.sort(-1, descending=True).values
    hidden_ND = case.student.hidden_BTD[case.used_BT]
    logits_NV = functional.linear(hidden_ND, case.student.weight_VD).float()
    sorted_NV = logits_NV.softmax(-1).sort(-1, descending=True).values
    missing = probs_NU.shape[1] - sorted_NV.shape[1]
    difference = (functional.pad(sorted_NV, (0, missing)) - probs_NU).abs().sum(-1).mean()
    (functional.cross_entropy(logits_NV, case.labels_N) + 1.5 * difference).backward()


RUN: dict[str, Callable[[Case], None]] = {
    "products": products,
    "ours": ours,
    "naive": naive,
    "sorted L1": sorted_difference,
}


def _clock(case: Case, variant: str) -> float:
    case.student.hidden_BTD.grad = case.student.weight_VD.grad = None
    return seconds_of(lambda: RUN[variant](case), is_cuda=case.labels_N.is_cuda)


def peaks(variants: Sequence[str], own_arguments: Sequence[str]) -> dict[str, int]:
    """Return the bytes of each variant, each from a process of its own."""
    module = "benchmarks.loss_kernels"
    commands = {
        variant: [sys.executable, "-m", module, "--memory-of", variant, *own_arguments]
        for variant in variants
    }
    return {
        variant: int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])
        for variant, command in commands.items()
    }


def fastest(cases: Sequence[Case], variants: Sequence[str], rounds: int) -> list[dict[str, float]]:
    """Return the seconds of each variant for each case; all of them take turns in every round."""
    seconds = [dict.fromkeys(variants, float("inf")) for _ in cases]
    for _ in range(rounds):
        for case, found in zip(cases, seconds, strict=True):
            for variant in variants:
                found[variant] = min(found[variant], _clock(case, variant))
    return seconds


def describe(options: argparse.Namespace, case: Case) -> dict[str, Any]:
    """Return what a case is, and what it runs on."""
    import torch

    device = torch.cuda.get_device_name() if case.labels_N.is_cuda else f"{torch.get_num_threads()} threads"
    return {
        "device": device,
        "dtype": options.dtype,
        "num_positions": len(case.labels_N),
        "num_teacher_rows_read": len(case.row_R),
        "rows": options.rows,
        "widths": options.widths,
        "gigaflops": case.gigaflops,
        "gradient_bytes": case.gradient_bytes,
    }


def measure(options: argparse.Namespace, own_arguments: Sequence[str]) -> dict[str, Any]:
    """Return seconds and bytes of every variant, and what they were measured on."""
    memory = peaks(options.variants, own_arguments)
    case = make_case(options)
    (seconds,) = fastest([case], options.variants, options.rounds)
    peak = 1e-9 * product_rate(options.device, options.dtype)
    return describe(options, case) | {"seconds": seconds, "memory": memory, "peak_gigaflops": peak}


def markdown(result: dict[str, Any]) -> str:
    """Return the result as a table."""
    (teacher_rows, student_rows), (teacher_width, student_width) = result["rows"], result["widths"]
    lines = [
        f"{result['num_positions']:,} positions, {result['num_teacher_rows_read']:,} rows of the teacher; "
        f"{teacher_rows:,} to {student_rows:,} rows, widths {teacher_width:,} and {student_width:,}; "
        f"{result['dtype']}, {result['device']}.",
        "",
        "| variant | seconds | of the products | GFLOP/s | utilisation | extra memory | of naive |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    seconds, memory = result["seconds"], result["memory"]
    for variant in seconds:
        ratio = f"{seconds[variant] / seconds['products']:.2f} ×" if "products" in seconds else ""
        share = f"{memory[variant] / memory['naive']:.1%}" if "naive" in memory else ""
        rate = result["gigaflops"] / seconds[variant]
        lines.append(
            f"| {variant} | {seconds[variant]:.3f} | {ratio} | {rate:,.0f} "
            f"| {rate / result['peak_gigaflops']:.0%} | {memory[variant] / 2**20:,.0f} MiB | {share} |"
        )
    return "\n".join(lines)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options of the command line."""
    sample = "distillation/sample"
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.loss_kernels", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--teacher", default=f"{sample}/teacher", help="folder with the teacher's tokenizer")
    parser.add_argument("--student", default=f"{sample}/student", help="folder with the student's tokenizer")
    parser.add_argument("texts", nargs="*", default=list(TEXTS), help="UTF-8 text files")
    parser.add_argument("--rows", type=int, nargs=2, default=[151_936, 49_152], help="output rows of both")
    parser.add_argument("--widths", type=int, nargs=2, default=[1024, 576])
    parser.add_argument("--positions", type=int, default=2048)
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--memory-of", choices=VARIANTS, help=argparse.SUPPRESS)
    return parser.parse_intermixed_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, or JSON."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parse(given)
    if options.memory_of:
        from distillation.models.peak_memory import peak_growth

        case = make_case(options)
        # Once: a second run would find the gradients of the first.
        print(peak_growth(lambda: RUN[options.memory_of](case), case.labels_N.device, num_runs=1))
        return 0
    result = measure(options, given)
    print(json.dumps(result, indent=2) if options.json else markdown(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
