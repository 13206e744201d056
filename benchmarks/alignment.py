"""What aligning costs: building an aligner, and aligning a batch beside tokenising it.

    python -m benchmarks.alignment --teacher DIR --student DIR TEXT... [--strategy prefix] [--json]

An aligner is built and read from its cache with freshly loaded tokenizers each time, so that nothing is warm
in them. A batch of texts is tokenised by both tokenizers (a plain call of the Rust side, ids as lists, on the
threads that TOKENIZERS_PARALLELISM allows), and then, on one thread, brought to what training reads: byte
ends and the check that both sides give the text back (`pairing`), the teacher's row of every student position
(`spans`), and the padded tensors of both models with the spans and the groups (`collating`). Every batch is
repeated, and of each part its fastest run counts.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

BATCH_SIZE = 32
TEXT_CHARACTERS = 2_000
"""About five hundred tokens: a window of usual length."""
SHARE_LIMIT = 0.2


def measure(
    teacher: str, student: str, texts: Sequence[str], *, strategy: str = "prefix", repeats: int = 5
) -> dict[str, Any]:
    """Return seconds by part, the fastest of `repeats`, and what they were measured on."""
    # Imported before any clock runs.
    import safetensors.torch  # noqa: F401
    import torch
    import transformers

    from distillation.aligners.build import build_aligner
    from distillation.tokenizers.pairs import PairEncoder
    from distillation.tokenizers.token_bytes import tokens_as_bytes

    def load() -> tuple[Any, Any]:
        return (
            transformers.AutoTokenizer.from_pretrained(teacher),
            transformers.AutoTokenizer.from_pretrained(student),
        )

    pair = load()
    sizes: dict[str, Any] = {
        f"num_{role}_rows": len(tokens_as_bytes(tokenizer).table)
        for role, tokenizer in zip(("teacher", "student"), pair, strict=True)
    }
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="aligners-") as folder:
        for name, cache_dir, number in (
            ("build", None, repeats),
            ("build and keep", folder, 1),
            ("build from cache", folder, repeats),
        ):
            seconds[name] = min(
                _clock(functools.partial(build_aligner, strategy, *load(), **sizes, cache_dir=cache_dir))
                for _ in range(max(1, number))
            )
        aligner = build_aligner(strategy, *pair, **sizes, cache_dir=folder)
    encoder = PairEncoder(*pair)
    accepted = [text for text, pair in zip(texts, encoder.encode(texts), strict=True) if pair is not None]
    parts, facts = _batches(encoder, aligner, [encoder.normalise(text) or "" for text in accepted], repeats)
    aligning = parts["pairing"] + parts["spans"]
    return {
        "strategy": strategy,
        **sizes,
        "num_refused": len(texts) - len(accepted),
        **facts,
        "threads": {
            "TOKENIZERS_PARALLELISM": os.environ.get("TOKENIZERS_PARALLELISM", "not set"),
            "processors": len(os.sched_getaffinity(0)),
            "torch": torch.get_num_threads(),
        },
        "seconds": seconds | parts,
        "aligning_share": aligning / parts["tokenising"],
        "aligning_and_collating_share": (parts["pairing"] + parts["collating"]) / parts["tokenising"],
    }


def _batches(
    encoder: Any, aligner: Any, texts: Sequence[str], repeats: int
) -> tuple[dict[str, float], dict[str, int]]:
    """Return seconds of each part, the fastest run of every batch added up, and counts."""
    from distillation.corpus.windows import WindowCollator
    from distillation.tokenizers.pairs import EncodedPair
    from distillation.tokenizers.plain_text import PlainText

    teacher, student = map(PlainText, encoder.tokenizers)
    collate = WindowCollator(0, 0, aligner)
    total = dict.fromkeys(("tokenising", "pairing", "spans", "collating"), 0.0)
    pairs: list[EncodedPair] = []
    for begin in range(0, len(texts), BATCH_SIZE):
        batch = texts[begin : begin + BATCH_SIZE]
        best = dict.fromkeys(total, float("inf"))
        for _ in range(max(1, repeats)):
            clock = [time.perf_counter()]
            ids = teacher.ids(batch), student.ids(batch)
            clock.append(time.perf_counter())
            outcomes = list(map(encoder._pair, batch, *ids))
            clock.append(time.perf_counter())
            kept = [outcome for outcome in outcomes if isinstance(outcome, EncodedPair)]
            aligner.align(kept)
            clock.append(time.perf_counter())
            collate(kept)
            clock.append(time.perf_counter())
            parts = zip(best, clock, clock[1:], strict=False)
            best = {name: min(best[name], after - before) for name, before, after in parts}
        total = {name: seconds + best[name] for name, seconds in total.items()}
        pairs += kept
    facts = {
        "num_texts": len(texts),
        "num_bytes": sum(pair.num_bytes for pair in pairs),
        "num_teacher_tokens": sum(len(pair.teacher.ids) for pair in pairs),
        "num_student_tokens": sum(len(pair.student.ids) for pair in pairs),
    }
    return total, facts


def _clock(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def read_texts(paths: Sequence[str]) -> list[str]:
    """Return the files' texts in pieces of about `TEXT_CHARACTERS`, cut at line ends."""
    pieces: list[str] = []
    for path in paths:
        piece = ""
        for line in Path(path).read_text(encoding="utf-8").splitlines(keepends=True):
            piece += line
            if len(piece) >= TEXT_CHARACTERS:
                pieces.append(piece)
                piece = ""
        pieces += [piece] if piece else []
    return pieces


def markdown(result: dict[str, Any]) -> str:
    """Return the result as a table."""
    seconds, threads = result["seconds"], result["threads"]
    share = result["aligning_share"]
    verdict = "within" if share <= SHARE_LIMIT else "above"
    rows = [
        ("build the aligner", seconds["build"]),
        ("the same from the cache", seconds["build from cache"]),
        ("tokenise with both tokenizers", seconds["tokenising"]),
        ("pair: byte ends, check of the bytes", seconds["pairing"]),
        ("spans: the teacher's row of each position", seconds["spans"]),
        ("collate: all tensors of a batch, spans included", seconds["collating"]),
    ]
    table = ["| part | seconds |", "|---|--:|", *(f"| {name} | {value:.4f} |" for name, value in rows)]
    return "\n".join(
        [
            f"Aligner `{result['strategy']}`, {result['num_teacher_rows']:,} to "
            f"{result['num_student_rows']:,} rows; "
            f"{result['num_texts']:,} texts, {result['num_bytes']:,} bytes, "
            f"{result['num_teacher_tokens']:,} and {result['num_student_tokens']:,} tokens, "
            f"{result['num_refused']} refused; {threads['processors']} processors, "
            f"TOKENIZERS_PARALLELISM {threads['TOKENIZERS_PARALLELISM']}; fastest runs.",
            "",
            *table,
            "",
            f"Aligning (pair and spans) takes {share:.1%} of tokenising, {verdict} the limit of "
            f"{SHARE_LIMIT:.0%}; with all tensors of the batch {result['aligning_and_collating_share']:.1%}.",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, or JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.alignment", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--teacher", required=True, help="folder with the teacher's tokenizer")
    parser.add_argument("--student", required=True, help="folder with the student's tokenizer")
    parser.add_argument("texts", nargs="+", help="UTF-8 text files")
    parser.add_argument("--strategy", default="prefix")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    texts = read_texts(options.texts)
    result = measure(
        options.teacher, options.student, texts, strategy=options.strategy, repeats=options.repeats
    )
    print(json.dumps(result, indent=2) if options.json else markdown(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
