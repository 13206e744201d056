"""How the loss grows with positions, vocabularies and widths.

    python -m benchmarks.scaling [--teacher DIR --student DIR TEXT...] [--json]

The cases of `benchmarks.loss_kernels`, with one size changed at a time. Time is per position, and beside the
bare matrix products of the same sizes, both the fastest of some rounds in which all cases of a sweep take
turns, as a machine's speed wanders. Memory is what the peak of a fresh process rises by, less the gradients
themselves, which any method returns: the output layer's, and the hidden states', of padding too.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks import loss_kernels

SWEEPS: dict[str, tuple[tuple[str, ...], ...]] = {
    "positions": tuple(("--positions", str(number << 10)) for number in (1, 2, 4, 8, 16)),
    # The others' smallest or middle case is the one of 2,048 positions. Rows beyond a tokenizer's own cost
    # what all others do.
    "teacher's rows": tuple(("--rows", str(rows), "49152") for rows in (201_088, 262_144)),
    "student's rows": tuple(("--rows", "151936", str(rows)) for rows in (100_352, 151_936)),
    "widths": tuple(("--widths", *widths) for widths in (("512", "256"), ("2048", "1024"))),
}


def measure(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield what `loss_kernels.describe` says of each case, with its sweep, seconds and bytes."""
    shared = ["--teacher", options.teacher, "--student", options.student, "--device", options.device]
    shared += ["--dtype", options.dtype]
    for sweep in options.sweeps:
        commands = [[*shared, *changed, "--", *options.texts] for changed in SWEEPS[sweep]]
        memory = [loss_kernels.peaks(["ours"], command) for command in commands]
        parsed = [loss_kernels.parse(command) for command in commands]
        cases = [loss_kernels.make_case(one) for one in parsed]
        seconds = loss_kernels.fastest(cases, ["products", "ours"], options.rounds)
        for one, case, found, taken in zip(parsed, cases, seconds, memory, strict=True):
            result = {"sweep": sweep, "seconds": found, "memory": taken}
            result |= loss_kernels.describe(one, case)
            print(row(result), file=sys.stderr, flush=True)
            yield result


def table(results: Sequence[dict[str, Any]]) -> str:
    """Return the results as a table."""
    lines = [
        f"{results[0]['dtype']}, {results[0]['device']}.",
        "",
        "| sweep | positions | output rows | widths | ms/position | of the products | memory |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    return "\n".join([*lines, *map(row, results)])


def row(result: dict[str, Any]) -> str:
    """Return one result as a row of the table."""
    seconds, number = result["seconds"], result["num_positions"]
    (teacher_rows, student_rows), (teacher_width, student_width) = result["rows"], result["widths"]
    return (
        f"| {result['sweep']} | {number:,} | {teacher_rows:,} → {student_rows:,} "
        f"| {teacher_width:,}, {student_width:,} | {1000 * seconds['ours'] / number:.2f} "
        f"| {seconds['ours'] / seconds['products']:.2f} × "
        f"| {(result['memory']['ours'] - result['gradient_bytes']) / 2**20:,.0f} MiB |"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, or JSON."""
    sample = "distillation/sample"
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__.split("\n")[0])
    parser.add_argument("--teacher", default=f"{sample}/teacher", help="folder with the teacher's tokenizer")
    parser.add_argument("--student", default=f"{sample}/student", help="folder with the student's tokenizer")
    parser.add_argument("texts", nargs="*", default=list(loss_kernels.TEXTS), help="UTF-8 text files")
    parser.add_argument("--sweeps", nargs="+", default=list(SWEEPS), choices=SWEEPS)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_intermixed_args(arguments)
    results = list(measure(options))
    print(json.dumps(results, indent=2) if options.json else table(results))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
