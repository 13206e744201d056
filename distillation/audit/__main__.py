"""The command line of the tokenizer audit: `python -m distillation.audit`.

It reads only `tokenizer.json`, `tokenizer_config.json` and `config.json` of each model, from a directory or
from the hub: no weights, and no PyTorch, whose import alone would take longer than the audit of a small
corpus. A tokenizer without `tokenizer.json` is converted by transformers, which does import it.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from distillation.commands import Command, exit_code
from distillation.config import ModelReference
from distillation.errors import AlignmentError, DistillationError, InputError, ModelError, one_line, shorten
from distillation.hub import model_on_hub
from distillation.models.files import check_files
from distillation.models.load import Role, load_tokenizer, resolve_path
from distillation.reading import parse_json, printable, read_json, reading_by_libraries

if TYPE_CHECKING:
    from distillation.audit.audit import TokenizerAudit

TOKENIZER, TOKENIZER_CONFIG, CONFIG = FILES = ("tokenizer.json", "tokenizer_config.json", "config.json")
HUB_TIMEOUT = 5.0
"""Seconds within which the hub must say what a repository holds; its client would retry for far longer."""
DOCUMENT_CHARACTERS = 8_000
"""Text files are audited in pieces of about this length, cut at line ends."""
MAX_MEGABYTES = 10.0
"""Text beyond this is left out, evenly over the files, unless more is asked for: shares hardly change."""
TEXT_SUFFIXES = {
    *(
        ".parquet",
        ".txt",
        ".md",
        ".rst",
        ".tex",
        ".html",
        ".xml",
        ".json",
        ".jsonl",
        ".csv",
        ".yaml",
        ".yml",
        ".toml",
    ),
    *(".py", ".pyi", ".c", ".h", ".cc", ".cpp", ".hpp", ".cs", ".java", ".kt", ".js", ".jsx", ".ts", ".tsx"),
    *(".go", ".rs", ".rb", ".php", ".pl", ".lua", ".r", ".jl", ".hs", ".scala", ".sh", ".sql", ".css"),
}
"""Files of a folder that are read, also packed as corpora are; a file that is named may have any suffix."""
_READABLE = "give UTF-8 text, .jsonl with texts or conversations, .parquet, or one of the first two packed"
_UNPACKED = 3
"""Bytes of text in a byte of a compressed file, about."""
_LONGEST_LINE = 2**26
"""Characters; a longer line is taken in parts."""


@click.command(cls=Command)
@click.argument("teacher")
@click.argument("student")
@click.argument("texts", nargs=-1, metavar="[TEXT]...", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON in place of tables.")
@click.option(
    "--html", type=click.Path(path_type=Path), metavar="PAGE", help="Write a page with figures as well."
)
@click.option(
    "--window-length",
    type=click.IntRange(min=2),
    metavar="TOKENS",
    help="Cut texts into windows as training does (training.max_length); default: no cuts.",
)
@click.option(
    "--max-megabytes",
    type=click.FloatRange(min=0),
    default=MAX_MEGABYTES,
    metavar="MB",
    show_default=True,
    help="Read no more text than this.",
)
def command(
    teacher: str,
    student: str,
    texts: tuple[Path, ...],
    as_json: bool,
    html: Path | None,
    window_length: int | None,
    max_megabytes: float,
) -> None:
    """Say what two tokenizers have in common, before anything is trained.

    How many ids mean the same on both sides, how many strings both have, what the student cannot write, and
    on texts what each aligner can use. It needs no weights, and no PyTorch.

    TEACHER and STUDENT are each a directory or a hub repository of a tokenizer, or `sample`.

    TEXT is a UTF-8 text file, .jsonl or .parquet (field `text`, else a conversation, else all texts of a
    row), one packed as .gz, .bz2, .xz or .zst, or a folder of such files.
    """
    audit = _audit(teacher, student, texts, window_length, int(max_megabytes * 1_000_000))
    if html is not None:
        _write_page(audit, html)
    if as_json:
        print(audit.model_dump_json(indent=2))
        return
    from rich.console import Console

    from distillation.audit.table import audit_tables

    console = Console()
    for part in audit_tables(audit):
        console.print(part)
    console.print(audit.advice, highlight=False, markup=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    return exit_code(command, arguments, "python -m distillation.audit")


def _audit(
    teacher_path: str, student_path: str, texts: Sequence[Path], window_length: int | None, max_bytes: int
) -> TokenizerAudit:
    from distillation.audit.audit import audit_tokenizers

    teacher, num_teacher_rows = load_for_audit(teacher_path, "teacher")
    student, num_student_rows = load_for_audit(student_path, "student")
    audit = audit_tokenizers(
        teacher,
        student,
        read_texts(texts, max_bytes),
        num_teacher_rows=num_teacher_rows,
        num_student_rows=num_student_rows,
        window_length=window_length,
    )
    if texts and audit.corpus is None:
        raise AlignmentError(f"texts {', '.join(map(str, texts))}: all empty; give other files")
    return audit


def _write_page(audit: TokenizerAudit, path: Path) -> None:
    from distillation.audit.page import audit_page

    try:
        path.write_text(audit_page(audit), encoding="utf-8")
    except OSError as error:
        raise AlignmentError(f"--html {path}: {error.strerror}; name a file in an existing folder") from None


def load_for_audit(path: str, role: Role) -> tuple[Any, int | None]:
    """Return the tokenizer of a directory or hub repository and, where config.json says so, its output rows.

    Raises:
        ModelError: there is no such directory or repository, the hub does not answer, or a file is damaged.
    """
    place = resolve_path(ModelReference(path=path), role)
    if os.path.isdir(place):
        files = {name: Path(place) / name for name in FILES if os.path.isfile(Path(place) / name)}
    else:
        files = _from_hub(place, role)

    def refusal(reason: str) -> ModelError:
        return ModelError(f"models.{role}.path = {path}: {reason}; get the files again")

    try:
        check_files(files)
        num_rows = _output_rows(read_json(files[CONFIG]) if CONFIG in files else {})
        settings = read_json(files[TOKENIZER_CONFIG]) if TOKENIZER_CONFIG in files else {}
    except InputError as error:
        raise refusal(one_line(error)) from error
    if TOKENIZER not in files:
        return load_tokenizer(ModelReference(path=place), role), num_rows
    from tokenizers import Tokenizer

    with reading_by_libraries(lambda reason: refusal(f"{TOKENIZER}: {reason}")):
        tokenizer = Tokenizer.from_file(str(files[TOKENIZER]))
    _add_special_tokens(tokenizer, settings)
    return tokenizer, num_rows


def _add_special_tokens(tokenizer: Any, settings: dict[str, Any]) -> None:
    """Make those tokens of a tokenizer special that its `tokenizer_config.json` calls so."""
    from tokenizers import AddedToken

    named = [value for key, value in settings.items() if key.endswith("_token") and value]
    named += [one for one in (settings.get("added_tokens_decoder") or {}).values() if one.get("special")]
    contents = (value.get("content") if isinstance(value, dict) else value for value in named)
    strings = {text for text in contents if isinstance(text, str)}
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
    # A name without an id would become a new token, beyond the model's rows.
    missing = [text for text in sorted(strings - special) if tokenizer.token_to_id(text) is not None]
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in missing])


def _output_rows(config: dict[str, Any]) -> int | None:
    """Return the rows of the output layer that `config` states; of the language model, if it has parts."""
    for part in (config.get("text_config"), config):
        if isinstance(part, dict) and isinstance(part.get("vocab_size"), int):
            return int(part["vocab_size"])
    return None


def _from_hub(repository: str, role: Role) -> dict[str, Path]:
    """Download the small files of a repository, or find them in the cache if the hub is out of reach."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    setting = f"models.{role}.path = {repository}"
    files = {}
    try:
        answer = model_on_hub(repository, None, HUB_TIMEOUT)
        problem = answer if isinstance(answer, str) else None
        for name in FILES:
            try:
                files[name] = Path(hf_hub_download(repository, name, local_files_only=bool(problem)))
            except EntryNotFoundError:  # also: not in the cache
                continue
    except HFValidationError:
        raise ModelError(
            f"{setting}: neither a directory nor a name on the hub; give a model directory or a hub name"
        ) from None
    except Exception as error:  # whatever the network and the client come up with
        raise ModelError(f"{setting}: the hub refuses it ({shorten(one_line(error))}); try again") from None
    if problem and TOKENIZER not in files:
        raise ModelError(
            f"{setting}: no such directory, and {problem}; give a model directory or check HF_ENDPOINT"
        )
    return files


def read_texts(paths: Sequence[Path], max_bytes: int) -> Iterator[str]:
    """Yield the texts of files and folders in pieces that end with a line, about `max_bytes` at most.

    Raises:
        AlignmentError: a path is missing, or a file that was named cannot be read.
    """
    files = [(file, os.path.isdir(path)) for path in paths for file in _files_of(path)]
    sizes = {file: os.path.getsize(file) for file, _ in files if os.path.isfile(file)}
    num_bytes = sum(sizes.values())
    # Too much text is cut in every file alike, so that each keeps its weight.
    kept_share = min(1.0, max_bytes / num_bytes) if num_bytes else 1.0
    if kept_share < 1:
        print(f"reading {kept_share:.0%} of {num_bytes / 1e6:,.1f} MB; see --max-megabytes", file=sys.stderr)
    for file, is_found in files:
        left = sizes.get(file, 0) * kept_share * (_UNPACKED if _is_packed(file) else 1)
        try:
            for text in _texts_of(file):
                if left <= 0:
                    break
                left -= len(text.encode("utf-8", "replace"))
                yield text
        except DistillationError as error:
            reason = one_line(error).removeprefix(f"{printable(file)}: ")
            if not is_found:
                raise AlignmentError(f"text file {printable(file)}: {reason}; {_READABLE}") from None
            print(f"left out {printable(file)}: {shorten(reason, 120)}", file=sys.stderr)


def _files_of(path: Path) -> list[Path]:
    """Return the file itself, or the files of text in a folder by name, without hidden ones."""
    if not os.path.isdir(path):
        return [path]
    found = [file for file in path.rglob("*") if _form_of(file) in TEXT_SUFFIXES and os.path.isfile(file)]
    found = [file for file in found if not any(part.startswith(".") for part in file.relative_to(path).parts)]
    if not found:
        raise AlignmentError(f"text folder {path}: no file of text in it; give .txt, .jsonl, .py or the like")
    return sorted(found)


def _form_of(file: Path) -> str:
    """Return the suffix that says what a file holds, whether it is packed or not."""
    from distillation.corpus.sources.unpacking import split_suffixes

    return split_suffixes(file.name)[0]


def _is_packed(file: Path) -> bool:
    from distillation.corpus.sources.unpacking import split_suffixes

    content, packing = split_suffixes(file.name)
    return bool(packing) or content == ".parquet"


def _texts_of(file: Path) -> Iterator[str]:
    """Yield the texts of a file: its lines in pieces, or a text a row.

    Raises:
        InputError: it cannot be read, or is not what its name says.
    """
    from distillation.corpus.sources.unpacking import open_unpacked

    form = _form_of(file)
    with open_unpacked(file) as opened:

        def refusal(reason: str) -> InputError:
            return InputError(f"{printable(file)}: {reason}")

        # The block takes what the libraries raise while a piece is made, not what is done with the piece.
        pieces = _rows_of_parquet(opened) if form == ".parquet" else _pieces_of(opened, form)
        while True:
            with reading_by_libraries(refusal):
                piece = next(pieces, None)
            if piece is None:
                return
            yield piece


def _pieces_of(opened: BinaryIO, form: str) -> Iterator[str]:
    # As the corpus is read for training: no byte order mark, every line end is one character.
    lines = io.TextIOWrapper(opened, encoding="utf-8-sig")
    piece: list[str] = []
    size = 0
    for number, line in enumerate(iter(lambda: lines.readline(_LONGEST_LINE), ""), start=1):
        if form == ".jsonl":
            if line.strip():
                yield _text_of_row(parse_json(line, f"line {number}"), number)
            continue
        piece.append(line)
        size += len(line)
        if size >= DOCUMENT_CHARACTERS:
            yield "".join(piece)
            piece, size = [], 0
    if piece:
        yield "".join(piece)


def _rows_of_parquet(opened: BinaryIO) -> Iterator[str]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(opened) as table:
        number = 0
        for batch in table.iter_batches(batch_size=256):
            for row in batch.to_pylist():
                number += 1
                yield _text_of_row(row, number)


def _text_of_row(row: Any, number: int) -> str:
    """Return the field `text` of a row, else what is said in its conversation, else all its texts."""
    if isinstance(row, dict):
        if isinstance(row.get("text"), str):
            return str(row["text"])
        for value in row.values():
            if isinstance(value, list) and value and all(map(_is_message, value)):
                from distillation.corpus.documents import conversation_of

                return conversation_of(value, "").text
        texts = [value for value in row.values() if isinstance(value, str)]
        if texts:
            return "\n".join(texts)
    raise InputError(f"line {number} has no text")


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(key), str) for key in ("role", "content"))


if __name__ == "__main__":
    sys.exit(main())
