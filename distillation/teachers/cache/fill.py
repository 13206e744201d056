"""Filling a teacher cache: the teacher runs once over the windows of a corpus.

    python -m distillation.teachers.cache.fill REQUEST_DIR

`prepare_cache` writes a request: settings, corpus, aligner, how the teacher is run. `fill_cache` does what
of it is not done, in this process; any number of others may run the command on the same request at the same
time, one for each accelerator, on every machine that shares the folder and can run the teacher in that way.
They share the shards out among themselves. A killed one is started again.

Targets are the live teacher's own: the same collator, the same aligner, the same code (`TargetSource`). Draws
depend on the cache's seed, the window and the position, and a shard always runs in the same batches, so that
the number of processes and their order change nothing.
"""

from __future__ import annotations

import functools
import logging
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from distillation.commands import Command, exit_code
from distillation.config import DIVERGENCES, ModelReference
from distillation.corpus.inputs import check_inputs, check_model
from distillation.errors import JobError
from distillation.files import storing, write_json
from distillation.fingerprint import digest_of
from distillation.models.load import model_digest
from distillation.sources import digest_of_sources
from distillation.stopping import working_on
from distillation.teachers.cache.entries import window_key
from distillation.teachers.cache.request import (
    REQUEST,
    SETTINGS_FILE,
    prepare_cache,
    read_request,
    request_name,
)
from distillation.teachers.cache.store import CacheReader, CacheStore, TeacherCache, shard_name

if TYPE_CHECKING:
    from distillation.teachers.cache.targets import TargetWriter
    from distillation.tokenizers.pairs import EncodedPair

__all__ = ["fill_cache", "prepare_cache"]
logger = logging.getLogger(__name__)


def fill_cache(request: str | Path, *, on_estimate: Callable[[str], None] = print) -> TeacherCache:
    """Make every shard of the request that is missing or damaged.

    Args:
        request: as `prepare_cache` writes it.
        on_estimate: told one line with size and expected duration before the long work starts.

    Raises:
        JobError: the request is damaged, or this machine cannot run the teacher as it says.
        ModelError: the teacher cannot be loaded.
        CorpusError: no window can be made of the corpus.
    """
    from distillation.quiet import quiet_libraries

    with storing(_root(Path(request)), "cache.output_dir"), quiet_libraries() as messages:
        cache = _Filling(Path(request)).run(on_estimate)
    for message in dict.fromkeys(messages):
        logger.debug("%s", message)
    return cache


def _root(request: Path) -> Path:
    """Return the folder of the caches: beside that of the requests, wherever it has been moved."""
    return request.resolve().parents[1]


class _Filling:
    """One process at work on a request."""

    def __init__(self, request: Path) -> None:
        from distillation.aligners.build import load_aligner
        from distillation.corpus.corpus import read_corpus
        from distillation.corpus.windows import make_windows
        from distillation.models.load import load_tokenizer
        from distillation.tokenizers.pairs import PairEncoder

        settings, decision = read_request(request)
        models = check_inputs(request, REQUEST)["models"]
        assert settings.cache is not None
        self.settings, self.cache = settings, settings.cache
        self.decision = decision
        decision.obey(f"cache request {request}", "prepare the cache here, which makes one for this machine")
        for role in ("teacher", "student"):
            reference: ModelReference = getattr(settings.models, role)
            check_model(reference, role, models[role], request / SETTINGS_FILE, REQUEST)  # type: ignore[arg-type]
        self.tokenizers = (
            load_tokenizer(settings.models.teacher, "teacher"),
            load_tokenizer(settings.models.student, "student"),
        )
        self.aligner = load_aligner(request / "aligner")
        corpus = read_corpus(request / "corpus")
        name = request_name(settings, decision, models, corpus.report.train_fingerprint, self.aligner)
        if request.resolve().name != name:
            raise JobError(
                f"{REQUEST} {request}: its content is that of {name}; it was changed, or the folder renamed: "
                "undo that, or prepare it again"
            )
        encoder = PairEncoder(
            *self.tokenizers,
            num_teacher_rows=self.aligner.num_teacher_rows,
            num_student_rows=self.aligner.num_student_rows,
        )
        windows = make_windows(encoder, corpus.train, settings.training.max_length)
        found = {window_key(pair): pair for pair in windows.pairs}
        # Windows that are alike in length for the teacher share a batch, and hence little padding; the key
        # makes the order unique.
        order = sorted(found, key=lambda key: (len(found[key].teacher.ids), key))
        self.pairs: dict[bytes, EncodedPair] = {key: found[key] for key in order}
        identity = self._identity()
        folder = _root(request) / f"{self.cache.kind}-{digest_of(identity)}"
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "identity.json", identity)
        self.store = CacheStore(folder)

    def run(self, on_estimate: Callable[[str], None]) -> TeacherCache:
        """Do what is to be done and measure the result."""
        plan = self.store.plan(list(self.pairs), self.cache.windows_per_shard)
        mine = [(index, keys) for index, keys in enumerate(plan) if any(key in self.pairs for key in keys)]
        missing = [(index, keys) for index, keys in mine if not self.store.is_whole(shard_name(keys))]
        names = [shard_name(keys) for _, keys in mine]
        started, num_made = time.perf_counter(), 0
        if missing:
            with working_on(position=lambda: self._position(names)):
                num_made = self._make(missing, on_estimate)
        seconds = time.perf_counter() - started
        self._make_dense()
        records = {name: self.store.record(name) for name in names}
        if None in records.values():
            raise JobError(
                f"teacher cache {self.store.directory}: a shard was removed meanwhile; run it again"
            )
        metrics = self._metrics([record for record in records.values() if record is not None])
        metrics |= {"seconds": seconds, "shards_made": float(num_made)}
        return TeacherCache(
            directory=self.store.directory.resolve(),
            settings=self.cache,
            shards={name: record["sha256"] for name, record in records.items() if record is not None},
            metrics=metrics,
        )

    @functools.cached_property
    def writer(self) -> TargetWriter:
        """Runs the teacher; loaded when the first shard is made."""
        from distillation.teachers.cache.targets import TargetWriter

        return TargetWriter(self.settings, self.aligner, self.tokenizers, self.decision)

    def _make(
        self, missing: Sequence[tuple[int, tuple[bytes, ...]]], on_estimate: Callable[[str], None]
    ) -> int:
        """Make shards that nobody else is making, then wait for those that somebody was."""
        from tqdm import tqdm

        on_estimate(self._estimate([keys for _, keys in missing]))
        num_made = 0
        busy: list[tuple[int, tuple[bytes, ...]]] = []
        total = sum(len(keys) for _, keys in missing)
        with tqdm(total=total, desc="teacher cache", unit="window", disable=None) as bar:
            for wait, shards in ((False, missing), (True, busy)):
                for index, keys in shards:
                    with self.store.claim(index, wait) as is_mine:
                        if not is_mine:
                            busy.append((index, keys))
                            continue
                        if not self.store.is_whole(shard_name(keys)):
                            self.store.write(keys, self.writer.entries(keys, self._known(keys)))
                            num_made += 1
                    bar.update(len(keys))
        return num_made

    def _position(self, names: Sequence[str]) -> str:
        """Return where the filling goes on after a stop."""
        num_kept = sum(self.store.record(name) is not None for name in names)
        return f"shard {min(num_kept + 1, len(names))} of {len(names)}"

    def _known(self, keys: Sequence[bytes]) -> list[EncodedPair]:
        """Return the windows of a shard.

        Raises:
            JobError: the shard holds windows of another corpus, and is damaged.
        """
        unknown = [key for key in keys if key not in self.pairs]
        if unknown:
            raise JobError(
                f"teacher cache {self.store.directory}: shard {shard_name(keys)} is damaged and holds "
                f"{len(unknown)} windows of another corpus; remove the folder, and it is made anew"
            )
        return [self.pairs[key] for key in keys]

    def _estimate(self, missing: Sequence[Sequence[bytes]]) -> str:
        """Time the teacher on one batch and say what the cache will cost."""
        pairs = [self.pairs[key] for keys in missing for key in keys if key in self.pairs]
        keys = [window_key(pair) for pair in pairs[len(pairs) // 2 :][: self.writer.BATCH]]
        batch = [self.pairs[key] for key in keys]
        self.writer.entries(keys, batch)  # the first one warms up
        begin = time.perf_counter()
        entries = self.writer.entries(keys, batch)
        seconds = time.perf_counter() - begin
        num_tokens = sum(len(pair.student.ids) for pair in pairs)
        share = num_tokens / sum(len(pair.student.ids) for pair in batch)
        num_bytes = sum(
            getattr(one, name).nbytes for one in entries for name in type(one).__dataclass_fields__
        )
        return (
            f"teacher cache: {len(missing)} shards, {num_tokens:,} tokens on {self.decision.summary}; "
            f"about {share * num_bytes / 2**20:,.1f} MiB, {share * seconds / 60:.1f} min"
        )

    def _make_dense(self) -> None:
        """Keep whole targets of a few positions, once for the life of the cache."""
        from distillation.teachers.cache.targets import has_dense, write_dense

        if not has_dense(self.store.directory):
            keys = sorted(self.pairs)
            write_dense(self.store.directory, keys, [self.pairs[key] for key in keys[:64]], self.writer)

    def _metrics(self, records: Sequence[dict[str, Any]]) -> dict[str, float]:
        from distillation.teachers.cache.targets import compare_with_dense

        sums = {
            name: float(sum(record[name] for record in records)) for name in records[0] if name != "sha256"
        }
        sizes = {
            "bytes_per_token": sums["num_bytes"] / sums["num_tokens"],
            "target_share": sums["num_targets"] / sums["num_tokens"],
            "entries_per_target": sums["num_entries"] / max(sums["num_targets"], 1.0),
        }
        reader = CacheReader(self.store.directory)
        return sums | sizes | compare_with_dense(self.store.directory, reader, self.cache)

    def _identity(self) -> dict[str, Any]:
        """Return what determines the content. Windows stand for themselves, by their hash."""
        from distillation.models.load import start_token_id

        settings, cache = self.settings, self.cache
        terms = settings.objective.terms.active
        return {
            "kind": cache.description,
            "seed": cache.seed if cache.kind == "sampling" or cache.num_tail_samples else 0,
            "temperature": settings.objective.temperature,
            "has_targets": bool(terms.keys() & set(DIVERGENCES)),
            "has_log_probs": "likelihood" in terms,
            "teacher": model_digest(settings.models.teacher, "teacher"),
            "decision": self.decision.identity,
            "aligner": self.aligner.content_digest(),
            "tokenizers": [digest_of(one.backend_tokenizer.to_str()) for one in self.tokenizers],
            "starts": [start_token_id(one) for one in self.tokenizers],
            "sources": digest_of_sources("distillation.teachers.cache.fill"),
        }


@click.command(cls=Command)
@click.argument("request", type=click.Path(path_type=Path))
def command(request: Path) -> None:
    """Fill the cache that the directory REQUEST asks for, or go on with it, and print its figures."""
    cache = fill_cache(request)
    print(f"teacher cache: {cache.directory}")
    for name, value in cache.metrics.items():
        print(f"  {name} = {value:.6g}")


def main(arguments: list[str] | None = None) -> int:
    """Fill a cache and return the exit code."""
    return exit_code(command, arguments, "python -m distillation.teachers.cache.fill")


if __name__ == "__main__":
    sys.exit(main())
