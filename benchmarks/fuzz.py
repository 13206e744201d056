"""Mutated inputs of every kind: each is accepted, or refused by an error of this project, and in time.

    python -m benchmarks.fuzz [--only settings corpus ...] [--cases 10000] [--seed 0] [--keep outputs/fuzz]

A worker takes case after case in a process of its own, where none may take more than 1 GiB of memory; one
that says nothing for 20 s is killed, and one that dies is started anew. A case is made from its kind, the
seed and its number alone. Those that end otherwise are kept: one folder each, with what was said of it.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import gzip
import json
import os
import random
import select
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
SECONDS = 20.0
ROOM = 2**30
"""Bytes of memory that a case may take."""
WARM = 8
"""Sound inputs that a worker reads first."""
MOST_KEPT = 5
"""Cases that are kept of each fault."""

# ------------------------------------------------------------------------------------------ mutations

NUMBERS = (
    0,
    -1,
    1,
    2,
    7,
    255,
    65_536,
    2**31 - 1,
    2**31,
    2**32 - 2,
    2**63,
    10**9,
    10**30,
    1e308,
    -0.5,
    1e-320,
)
TEXTS = (
    "",
    " ",
    "\x00",
    "\n",
    "null",
    "NaN",
    "../../etc/passwd",
    "/dev/zero",
    "~",
    "${x}",
    "{{ x }}",
    "é" * 300,
    "x" * 5000,
    "\ud800",
    "‮",
    "[",
    "(a+)+$",
    "1e400",
    "true",
    "-1",
)
BYTES = (
    b"\x00",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"[" * 50_000,
    b'{"a":' * 20_000,
    b"9" * 400,
    b"\r",
    b"\xed\xa0\x80",
)


def nested(depth: int) -> Any:
    """Return lists in lists."""
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


def odd_value(chance: random.Random, old: Any = None) -> Any:
    """Return a value of any type; often one beside the old one."""
    if isinstance(old, bool):
        old = None
    if isinstance(old, int) and chance.random() < 0.4:
        return old + chance.choice((-1, 1, 1000, -1000))
    if isinstance(old, float) and chance.random() < 0.4:
        return old * chance.choice((-1.0, 0.0, 1e10, 1e-10))
    if isinstance(old, str) and old and chance.random() < 0.4:
        place = chance.randrange(len(old))
        return old[:place] + chance.choice(TEXTS) + old[place + chance.randint(0, 2) :]
    return chance.choice(
        (
            None,
            True,
            False,
            chance.choice(NUMBERS),
            chance.choice(NUMBERS),
            -chance.choice(NUMBERS),
            float("nan"),
            float("inf"),
            chance.choice(TEXTS),
            chance.choice(TEXTS),
            [],
            {},
            [0] * chance.choice((1, 3, 100)),
            {"a": 1},
            nested(chance.choice((2, 50, 900))),
        )
    )


def places(value: Any, chance: random.Random) -> list[tuple[Any, Any]]:
    """Walk down to a random place; return the containers and keys on the way."""
    way: list[tuple[Any, Any]] = []
    while isinstance(value, dict | list) and value and (not way or chance.random() < 0.8):
        key = chance.choice(list(value)) if isinstance(value, dict) else chance.randrange(len(value))
        way.append((value, key))
        value = value[key]
    return way


def mutate_data(data: Any, chance: random.Random) -> Any:
    """Return plain data with one to four changes: values, keys, parts that are lost, doubled or moved."""
    data = copy.deepcopy(data)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        way = places(data, chance)
        if not way:
            return odd_value(chance, data)
        place, key = way[-1]
        kind = chance.random()
        if kind < 0.6:
            place[key] = odd_value(chance, place[key])
        elif kind < 0.75:
            del place[key]
        elif kind < 0.85 and isinstance(place, dict):
            place[odd_key(chance, key)] = place.pop(key)
        elif kind < 0.95:
            other = places(data, chance)
            place[key] = copy.deepcopy(other[-1][0][other[-1][1]]) if other else None
        elif isinstance(place, list):
            place.insert(key, copy.deepcopy(place[key]))
        else:
            place[odd_key(chance, key)] = copy.deepcopy(place[key])
    return data


def odd_key(chance: random.Random, key: Any) -> str:
    """Return another key, often like the old one."""
    return (
        str(key) + chance.choice(("", "x", " ", ".", "\x00"))
        if chance.random() < 0.5
        else chance.choice(TEXTS)
    )


def mutate_bytes(content: bytes, chance: random.Random) -> bytes:
    """Return bytes with one to four changes: bits, cuts, insertions, parts twice."""
    for _ in range(chance.choice((1, 1, 2, 4))):
        begin = chance.randrange(len(content) + 1)
        end = min(len(content), begin + chance.choice((1, 1, 8, 100, 4096)))
        kind = chance.randrange(6)
        if kind == 0 and begin < len(content):
            content = (
                content[:begin] + bytes([content[begin] ^ 1 << chance.randrange(8)]) + content[begin + 1 :]
            )
        elif kind == 1:
            content = content[:begin] + content[end:]
        elif kind == 2:
            content = content[:begin] + chance.choice(BYTES) + content[begin:]
        elif kind == 3:
            content = content[:begin] + content[begin:end] * 2 + content[end:]
        elif kind == 4:
            content = content[:begin]
        else:
            content = content[:begin] + chance.randbytes(end - begin) + content[end:]
    return content


def mutate_json(path: Path, chance: random.Random) -> None:
    """Change a JSON file: mostly its data, sometimes its bytes."""
    content = path.read_bytes()
    if chance.random() < 0.8:
        try:
            content = json.dumps(mutate_data(json.loads(content), chance)).encode("utf-8", "surrogatepass")
        except (ValueError, RecursionError):
            content = mutate_bytes(content, chance)
    else:
        content = mutate_bytes(content, chance)
    path.unlink()
    path.write_bytes(content)


def mutate_file(path: Path, chance: random.Random) -> None:
    """Change any file by its kind."""
    if path.suffix == ".safetensors" and chance.random() < 0.7:
        mutate_header(path, chance)
    elif path.suffix == ".json":
        mutate_json(path, chance)
    else:
        content = mutate_bytes(path.read_bytes(), chance)
        path.unlink()
        path.write_bytes(content)


def mutate_header(path: Path, chance: random.Random) -> None:
    """Change the header of a safetensors file: its data, its length or its bytes."""
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header, rest = content[8 : 8 + size], content[8 + size :]
    kind = chance.random()
    if kind < 0.7:
        header = json.dumps(mutate_data(json.loads(header), chance)).encode("utf-8", "surrogatepass")
    elif kind < 0.85:
        header = mutate_bytes(header, chance)
    length = (
        len(header)
        if chance.random() < 0.85
        else chance.choice((0, 1, 7, 2**31, 2**63, 2**64 - 1, len(header) + 1))
    )
    path.unlink()
    path.write_bytes(length.to_bytes(8, "little") + header + rest)


# ---------------------------------------------------------------------------------------------- kinds


class Kind:
    """One kind of input: makes a case in a folder, and gives it to the code that reads it."""

    def __init__(self, base: Path) -> None:
        self.base = base

    def copy(self, folder: Path, chance: random.Random) -> Path:
        """Write a sound input and return the file of it that a case changes."""
        raise NotImplementedError

    def change(self, path: Path, chance: random.Random) -> None:
        """Change the file."""
        mutate_file(path, chance)

    def read(self, folder: Path) -> None:
        """Read the case; a refusal is a `DistillationError`."""
        raise NotImplementedError


class SettingsKind(Kind):
    """Files of the three pipelines, as data and as text, and an override."""

    def copy(self, folder: Path, chance: random.Random) -> Path:
        """Write a sound file."""
        source = chance.choice(sorted((REPOSITORY / "configs").glob("*.yaml")))
        (folder / "override.txt").write_bytes(self._override(chance).encode("utf-8", "surrogatepass"))
        return Path(shutil.copyfile(source, folder / "settings.yaml"))

    def change(self, path: Path, chance: random.Random) -> None:
        """Change data or text."""
        import yaml

        content = path.read_bytes()
        if chance.random() < 0.8:
            data = mutate_data(yaml.safe_load(content), chance)
            content = yaml.safe_dump(data, allow_unicode=True).encode("utf-8", "surrogatepass")
        else:
            content = mutate_bytes(content, chance)
        path.write_bytes(content)

    def _override(self, chance: random.Random) -> str:
        name = chance.choice(
            ("training.batch_size", "corpus.sources", "seed", "a.b", "", "evaluation.prompts.0")
        )
        return name + chance.choice(("=", "=", "=", "")) + str(odd_value(chance))[:300]

    def read(self, folder: Path) -> None:
        """Read the case."""
        from distillation.config import ComparisonSettings, PromotionSettings, Settings, parse_settings
        from distillation.errors import SettingsError
        from pipelines.command import merge_overrides
        from pipelines.parameters import read_parameters

        content = read_parameters(str(folder / "settings.yaml"))
        parameters = content.get("parameters")
        raw = parameters.get("settings") if isinstance(parameters, dict) else None
        if not isinstance(raw, dict):  # the command says so
            return
        with contextlib.suppress(SettingsError):
            text = (folder / "override.txt").read_bytes().decode("utf-8", "surrogatepass")
            raw = merge_overrides(raw, [text])
        kind: Any = ComparisonSettings if "comparison" in raw else Settings
        kind = PromotionSettings if "model_name" in raw else kind
        checked = parse_settings(raw, kind)
        assert parse_settings(checked.model_dump(), kind) == checked, "another meaning after a round"


class CorpusKind(Kind):
    """Text, JSON lines, Parquet, conversations, some of them in a folder."""

    def copy(self, folder: Path, chance: random.Random) -> Path:
        """Write a sound file."""
        source = chance.choice(sorted((self.base / "corpora").iterdir()))
        return Path(shutil.copyfile(source, folder / source.name))

    def change(self, path: Path, chance: random.Random) -> None:
        """Change a line or bytes."""
        if path.suffix != ".jsonl" or chance.random() < 0.3:
            path.write_bytes(mutate_bytes(path.read_bytes(), chance))
            return
        lines = path.read_text().splitlines()
        place = chance.randrange(len(lines))
        lines[place] = json.dumps(mutate_data(json.loads(lines[place]), chance))
        path.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))

    def read(self, folder: Path) -> None:
        """Read the case."""
        from distillation.config import CorpusSettings
        from distillation.corpus.sources.base import iterate_source

        column = "messages_column" if any(folder.glob("chat*")) else "text_column"
        raw = {"kind": "file", "path": str(folder), column: column.removesuffix("_column")}
        settings = CorpusSettings.model_validate({"sources": [raw]})
        for document in iterate_source(settings.sources[0], settings):
            assert document.with_plain_line_ends().document_id


class ModelKind(Kind):
    """A small model in a folder, one of whose files is changed."""

    files: tuple[str, ...] = ()

    def copy(self, folder: Path, chance: random.Random) -> Path:
        """Write a sound model."""
        shutil.copytree(self.base / "student", folder / "model")
        return folder / "model" / chance.choice(self.files)

    def read(self, folder: Path) -> None:
        """Read the case."""
        from distillation.config import ModelReference
        from distillation.models.inspect.preflight import check_model
        from distillation.models.load import load_model, load_tokenizer

        reference = ModelReference(path=str(folder / "model"))
        check_model(reference, "student")
        if "tokenizer.json" in self.files:
            self._use(load_tokenizer(reference, "student"))
        else:
            load_model(reference, "student", device="cpu", dtype="float32")

    def _use(self, tokenizer: Any) -> None:
        from distillation.aligners.build import build_aligner
        from distillation.tokenizers.pairs import PairEncoder

        rows = {"teacher_rows": 3072, "student_rows": 3072}
        pair = (self._teacher(), tokenizer)
        encoder = PairEncoder(*pair)
        list(encoder.encode(["Return a new list containing the items.\n\n    déjà vu <s> 漢字\n", ""]))
        with contextlib.suppress(TypeError):
            build_aligner("prefix", *pair, **rows)

    def _teacher(self) -> Any:
        from distillation.config import ModelReference
        from distillation.models.load import load_tokenizer

        if not hasattr(self, "_loaded"):
            self._loaded = load_tokenizer(ModelReference(path=str(self.base / "teacher")), "teacher")
        return self._loaded


class TokenizerKind(ModelKind):
    """The tokenizer's two files."""

    files = ("tokenizer.json", "tokenizer.json", "tokenizer.json", "tokenizer_config.json")


class ConfigurationKind(ModelKind):
    """The model's configuration."""

    files = ("config.json", "config.json", "config.json", "generation_config.json")


class HeaderKind(ModelKind):
    """The header of the weights."""

    files = ("model.safetensors",)


class JobKind(Kind):
    """A job on its way or a finished one, one of whose files is changed: the same student, or a line."""

    def copy(self, folder: Path, chance: random.Random) -> Path:
        """Write a sound job."""
        job = next((self.base / ("half" if chance.random() < 0.2 else "finished")).iterdir())
        shutil.copytree(job, folder / job.name)
        return chance.choice(files_of(folder))

    def read(self, folder: Path) -> None:
        """Read the case."""
        from distillation.training.run import run_job

        job = next(path for path in folder.iterdir() if path.is_dir())
        result = run_job(job, on_estimate=lambda _: None)
        wanted = next((self.base / "finished").iterdir()) / "student" / "model.safetensors"
        same = (result.student_dir / "model.safetensors").read_bytes() == wanted.read_bytes()
        assert same, "another student"


class CacheKind(Kind):
    """A teacher cache, one of whose files is changed."""

    def copy(self, folder: Path, chance: random.Random) -> Path:
        """Write a sound cache."""
        shutil.copytree(self.base / "cache", folder / "cache")
        return chance.choice([path for path in files_of(folder) if "requests" not in path.parts])

    def read(self, folder: Path) -> None:
        """Read the case."""
        from distillation.teachers.cache.store import CacheReader, CacheStore

        place = next((folder / "cache").glob("*/shards")).parent
        CacheStore(place).planned()
        reader = CacheReader(place)
        reader.check()
        for key in reader.places:
            reader.read(key)


def files_of(folder: Path) -> list[Path]:
    """Return the files below a folder that are read back."""
    found = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size]
    return [path for path in found if not path.name.startswith(".") and path.name != "locks"]


KINDS: dict[str, type[Kind]] = {
    "settings": SettingsKind,
    "corpus": CorpusKind,
    "tokenizer": TokenizerKind,
    "configuration": ConfigurationKind,
    "header": HeaderKind,
    "job": JobKind,
    "cache": CacheKind,
}


# ---------------------------------------------------------------------------------------- the bases


def make_bases(base: Path, kinds: Sequence[str]) -> None:
    """Make the sound inputs that cases are mutated from: small random models of the embedded pair's kind."""
    _make_models(base)
    if "corpus" in kinds:
        make_corpora(base / "corpora")
    if {"job", "cache"} & set(kinds):
        _make_job_and_cache(base)


def _make_models(base: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    small: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "dtype": "float32",
    }
    for role in ("teacher", "student"):
        source = REPOSITORY / "distillation" / "sample" / role
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(source, **small))
        model.save_pretrained(base / role)
        AutoTokenizer.from_pretrained(source).save_pretrained(base / role)


def make_corpora(folder: Path) -> None:
    """Write sound corpora of every form."""
    import itertools

    import pyarrow as pa
    import pyarrow.parquet as pq

    from distillation.corpus.sources.documentation import iterate_documentation

    folder.mkdir()
    texts = [document.text[:600] for document in itertools.islice(iterate_documentation(), 12)]
    (folder / "plain.txt").write_text("\n\n".join(texts))
    (folder / "rows.jsonl").write_text("".join(json.dumps({"text": text, "id": 1}) + "\n" for text in texts))
    talks = [[{"role": "user", "content": "Say"}, {"role": "assistant", "content": text}] for text in texts]
    (folder / "chat.jsonl").write_text("".join(json.dumps({"messages": talk}) + "\n" for talk in talks))
    pq.write_table(pa.table({"text": texts}), folder / "rows.parquet")
    (folder / "packed.jsonl.gz").write_bytes(gzip.compress((folder / "rows.jsonl").read_bytes()))
    packed = pa.Codec("zstd").compress("\n\n".join(texts).encode(), asbytes=True)
    (folder / "packed.txt.zst").write_bytes(packed)
    pq.write_table(pa.table({"messages": talks}), folder / "chat.parquet")


def _make_job_and_cache(base: Path) -> None:
    from distillation.aligners.build import build_aligner
    from distillation.config import parse_settings
    from distillation.corpus.loading import load_corpus
    from distillation.models.load import load_pair
    from distillation.teachers.cache.fill import fill_cache, prepare_cache
    from distillation.training.job import prepare_job
    from distillation.training.run import run_job

    raw: dict[str, Any] = {
        "corpus": {"sources": ["documentation"], "max_train_bytes": 120_000, "max_held_out_bytes": 8_000},
        "models": {
            "teacher": {"path": str(base / "teacher"), "dtype": "float32"},
            "student": {"path": str(base / "student")},
            "device": "cpu",
        },
        "objective": {"gradient_shares": 0},
        "training": {"max_steps": 4, "batch_size": 1, "max_length": 32, "evaluations": 2},
    }
    settings = parse_settings(raw)
    tokenizers, rows = load_pair(settings.models)
    corpus = load_corpus(settings.corpus, tokenizers)
    aligner = build_aligner("prefix", *tokenizers.values(), **rows)
    job = prepare_job(corpus, settings=settings, aligner=aligner, output_dir=base / "finished")
    run_job(job, on_estimate=lambda _: None)
    half = base / "half" / job.name
    shutil.copytree(job, half)
    shutil.rmtree(half / "student")
    newest = max((half / "checkpoints").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    shutil.rmtree(newest)
    (half / "status.json").unlink()
    settings = parse_settings(raw | {"cache": {"windows_per_shard": 64}})
    fill_cache(
        prepare_cache(corpus, settings=settings, aligner=aligner, output_dir=base / "cache"),
        on_estimate=lambda _: None,
    )


# ---------------------------------------------------------------------------------------- the worker


def chance_of(kind: str, seed: int, number: int) -> random.Random:
    """Return the chance that makes a case."""
    return random.Random(f"{kind} {seed} {number}")


def work(kind: str, base: Path, scratch: Path, seed: int) -> int:
    """Take numbers of cases from standard input; answer each with a line of JSON."""
    import resource

    from distillation.errors import DistillationError
    from distillation.training import run  # noqa: F401 - what all kinds load counts as theirs

    answers = os.fdopen(os.dup(1), "w")
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)  # libraries write there what they like
    os.dup2(nothing, 2)
    reader = KINDS[kind](base)
    for number in range(WARM):  # sound inputs, so that what is loaded once counts for no case
        folder, chance = new_folder(scratch, "warm"), chance_of(kind, seed, number)
        reader.copy(folder, chance)
        with contextlib.suppress(DistillationError):
            reader.read(folder)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + 2 * ROOM, taken + 2 * ROOM))  # the net below the measure
    for line in sys.stdin:
        number = int(line)
        folder, chance = new_folder(scratch, str(number)), chance_of(kind, seed, number)
        sys.setrecursionlimit(20_000)  # to write what is nested deeper than a reader may go
        path = reader.copy(folder, chance)
        reader.change(path, chance)
        sys.setrecursionlimit(1000)
        before = memory_of_this_process(restart=True)
        begin, verdict, said = time.monotonic(), "accepted", ""
        try:
            reader.read(folder)
        except DistillationError as error:
            verdict, said = "refused", str(error)[:300]
            if len(str(error)) > 4000 or "\n" in str(error):
                verdict, said = "fault", f"a refusal that is no short line: {said[:80]!r}"
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:  # a panic of Rust is no Exception
            verdict, said = "fault", describe(error)
        taken = memory_of_this_process() - before
        if taken > ROOM:
            verdict, said = "fault", f"memory: over 1 GiB\n{taken / 2**30:.1f} GiB, then: {said}"
        if verdict == "fault":
            said += f"\nchanged: {path.relative_to(folder)}"
        answers.write(
            json.dumps({"verdict": verdict, "said": said, "seconds": time.monotonic() - begin}) + "\n"
        )
        answers.flush()
    return 0


def new_folder(scratch: Path, name: str) -> Path:
    """Return an empty folder."""
    folder = scratch / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def memory_of_this_process(*, restart: bool = False) -> int:
    """Return the peak of the memory in use; with `restart`, let the peak begin anew from what is in use."""
    if restart:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def describe(error: BaseException) -> str:
    """Return type and the innermost function of this project, which tell faults apart, then the message."""
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if "/distillation/" in frame.filename
    ]
    where = f"{Path(frames[-1].filename).name}:{frames[-1].name}" if frames else "?"
    about = f": {error}" if isinstance(error, AssertionError) else ""
    return f"{type(error).__name__} in {where}{about}\n{' '.join(str(error).split())[:300]}"


# ---------------------------------------------------------------------------------------- the watch


@dataclass
class Tally:
    """How the cases of one kind ended."""

    kind: str
    counts: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0


class Worker:
    """A worker process and the watch over it."""

    def __init__(self, kind: str, base: Path, scratch: Path, seed: int) -> None:
        self.kind, self.seed, self.scratch = kind, seed, scratch
        self.command = [
            *(sys.executable, "-m", "benchmarks.fuzz", "--worker", kind, "--base", str(base)),
            *("--scratch", str(scratch), "--seed", str(seed)),
        ]
        self.process: subprocess.Popen[bytes] | None = None

    def ask(self, number: int) -> tuple[str, str, float]:
        """Return how a case ended, what was said, and the seconds."""
        is_new = self.process is None
        if self.process is None:
            environment = os.environ | {
                "OMP_NUM_THREADS": "1",
                "TOKENIZERS_PARALLELISM": "false",
                "HF_HUB_OFFLINE": "1",
                "MALLOC_ARENA_MAX": "2",
                "ARROW_DEFAULT_MEMORY_POOL": "system",
            }
            self.process = subprocess.Popen(
                self.command, cwd=REPOSITORY, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        begin = time.monotonic()
        self.process.stdin.write(f"{number}\n".encode())
        self.process.stdin.flush()
        limit = SECONDS + (120.0 if is_new else 2.0)  # a new one has to load the libraries
        ready, _, _ = select.select([self.process.stdout], [], [], limit)
        line = self.process.stdout.readline() if ready else b""
        if line:
            answer = json.loads(line)
            if answer["seconds"] > SECONDS:
                said = f"time: over {SECONDS:.0f} s\n{answer['seconds']:.0f} s, then: {answer['said'][:200]}"
                return "fault", said, answer["seconds"]
            return answer["verdict"], answer["said"], answer["seconds"]
        if ready:  # it is about to be gone, by a signal or an exit of its own
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(10.0)
        self.process.kill()
        code = self.process.wait()
        self.process = None
        said = (
            f"hang: no answer within {SECONDS:.0f} s"
            if not ready
            else f"abort: the process ended with {code}"
        )
        return "fault", said, time.monotonic() - begin

    def close(self) -> None:
        """Let the worker end."""
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.close()
            self.process.wait()


def fuzz(kind: str, base: Path, options: argparse.Namespace) -> Tally:
    """Run all cases of a kind, shared out among the workers."""
    tally, lock, numbers = Tally(kind), threading.Lock(), iter(range(options.first, options.cases))

    def run(index: int) -> None:
        scratch = Path(tempfile.mkdtemp(prefix=f"fuzz-{kind}-"))
        worker = Worker(kind, base, scratch, options.seed)
        try:
            while True:
                with lock:
                    number = next(numbers, None)
                if number is None:
                    return
                verdict, said, seconds = worker.ask(number)
                with lock:
                    tally.counts[verdict] += 1
                    tally.slowest = max(tally.slowest, seconds if verdict != "fault" else 0.0)
                    if verdict == "fault":
                        fault = said.partition("\n")[0]
                        tally.faults[fault] += 1
                        if tally.faults[fault] <= MOST_KEPT:
                            keep(
                                options.keep / f"{kind}-{options.seed}-{number}", scratch / str(number), said
                            )
                shutil.rmtree(scratch / str(number), ignore_errors=True)
        finally:
            worker.close()
            shutil.rmtree(scratch, ignore_errors=True)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(options.workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return tally


def keep(place: Path, case: Path, said: str) -> None:
    """Keep a case and what was said of it."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(case, place)
    (place / "said.txt").write_text(said + "\n", encoding="utf-8", errors="backslashreplace")


def table(tallies: Sequence[Tally]) -> str:
    """Return the tallies as a Markdown table, and below it the faults."""
    lines = ["| kind | cases | accepted | refused | faults | slowest, s |", "| --- " * 6 + "|"]
    for tally in tallies:
        counts = tally.counts
        cells = (tally.kind, counts.total(), counts["accepted"], counts["refused"], counts["fault"])
        lines.append("| " + " | ".join(map(str, cells)) + f" | {tally.slowest:.1f} |")
    for tally in tallies:
        lines += [f"- {tally.kind}: {said} ({count} times)" for said, count in tally.faults.most_common()]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; exit code 1 if any case ended otherwise than by acceptance or a refusal."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(KINDS), metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--cases", type=int, default=10_000, help="of each kind (default 10,000)")
    parser.add_argument("--first", type=int, default=0, metavar="NUMBER", help="case to begin with")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes at once")
    parser.add_argument("--keep", type=Path, default=Path("outputs/fuzz"), help="folder of the faults' cases")
    for name in ("--worker", "--base", "--scratch"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker:
        return work(options.worker, Path(options.base), Path(options.scratch), options.seed)
    kinds = options.only or list(KINDS)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        make_bases(Path(folder), kinds)
        tallies = []
        for kind in kinds:
            tallies.append(fuzz(kind, Path(folder), options))
            print(table(tallies[-1:]), file=sys.stderr)
    print(table(tallies))
    return 0 if not any(tally.faults for tally in tallies) else 1


if __name__ == "__main__":
    sys.exit(main())
