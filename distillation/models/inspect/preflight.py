"""Everything about a pair that can be known before any work, checked in seconds.

A run that would fail after an hour because a checkpoint does not fit its configuration fails here, with one
line. Nothing is downloaded and no weight is read: configurations, tokenizers, file headers, paths.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from distillation.config import CorpusSettings, FileSource, ModelReference, Settings
from distillation.errors import CorpusError, ModelError, SettingsError, one_line, shorten
from distillation.hub import model_on_hub
from distillation.quiet import quiet_libraries

if TYPE_CHECKING:
    from distillation.models.inspect.architecture import ArchitectureProbe

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "tekken.json",
)
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


def check_pair(settings: Settings) -> list[str]:
    """Check paths, models and tokenizers of `settings`; return warnings, one line each.

    Raises:
        ModelError: a model or tokenizer is missing, damaged, or does not fit its configuration.
        SettingsError: the job directory cannot be written, the device or number format is not to be had, or
            a window is longer than a model can read.
        CorpusError: no source can be read because each one is a path that does not exist.
    """
    from distillation.models.device import choose_device

    check_writable(settings.training.output_dir)
    warnings = check_sources(settings.corpus)
    device = choose_device(settings.models.device)
    sizes: dict[str, ArchitectureProbe] = {}
    roles: tuple[Literal["teacher", "student"], ...] = ("teacher", "student")
    for role in roles:
        reference = getattr(settings.models, role)
        probe, more = check_model(
            reference,
            role,
            hub_timeout=settings.corpus.hub_timeout,
            needs_chat_template=any(
                getattr(source, "messages_column", None) is not None for source in settings.corpus.sources
            ),
        )
        warnings += more
        if probe is not None:
            sizes[role] = probe
    check_windows(settings, sizes)
    if len(sizes) == 2:
        warnings += _compare(settings, sizes["teacher"], sizes["student"], device)
    return warnings


def check_writable(output_dir: str) -> None:
    """Check that job directories can be made in `output_dir`, without leaving anything behind.

    Raises:
        SettingsError: a file stands in the way, or nothing can be written there.
    """
    name = f"training.output_dir = {output_dir!r}"
    path = Path(output_dir).absolute()
    while not os.path.lexists(path):
        path = path.parent
    if not os.path.isdir(path):
        raise SettingsError(f"{name}: {path} is no folder; choose another output_dir")
    try:
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        reason = error.strerror or one_line(error)
        raise SettingsError(
            f"{name}: cannot write in {path} ({reason}); choose another output_dir"
        ) from error


def check_sources(corpus: CorpusSettings) -> list[str]:
    """Return a warning for each file source whose path does not exist, as long as another source is left.

    Raises:
        CorpusError: every source is such a path; all are listed.
    """
    absent = [
        (index, source.path)
        for index, source in enumerate(corpus.sources)
        if isinstance(source, FileSource) and not os.path.exists(source.path)
    ]
    lines = [f"corpus.sources.{index}.path = {path!r} does not exist" for index, path in absent]
    if lines and len(lines) == len(corpus.sources):
        raise CorpusError(f"{'; '.join(lines)}: name an existing file or folder")
    return [f"{line}: the next source will be used" for line in lines]


def check_model(
    reference: ModelReference,
    role: Literal["teacher", "student"],
    *,
    hub_timeout: float = 4.0,
    needs_chat_template: bool = False,
) -> tuple[ArchitectureProbe | None, list[str]]:
    """Check one model of the pair; return its sizes and warnings. Sizes are None for a model that is still
    on the hub.

    Raises:
        ModelError: directory, config.json, tokenizer or weights are missing, or do not fit each other; the
            model reads later tokens; or a source holds conversations and the tokenizer has no chat template.
    """
    from distillation.models.inspect.architecture import probe_architecture
    from distillation.models.inspect.checkpoint import check_checkpoint
    from distillation.models.inspect.direction import reads_ahead
    from distillation.models.lm_head import READS_AHEAD
    from distillation.models.load import EMBEDDED, read_config, resolve_path
    from distillation.tokenizers.chat_template import has_chat_template

    setting = f"models.{role}.path = {reference.path!r}"
    directory = Path(resolve_path(reference, role))
    if not os.path.isdir(directory):
        if reference.path == EMBEDDED:
            raise ModelError(f"{setting}: the embedded model is missing; install the package again")
        cached = _cached_directory(reference)
        if cached is None:
            return None, check_hub(reference, role, timeout=hub_timeout)
        directory = cached
    if not os.path.isfile(directory / "config.json"):
        raise ModelError(
            f"{setting}: no config.json in this directory; choose one that save_pretrained wrote"
        )
    trust = reference.trust_remote_code_of is not None
    found = reference.model_copy(update={"path": str(directory)})
    with quiet_libraries():
        config = read_config(found, role)
    tokenizer = _check_tokenizer(directory, found, role, setting)
    if needs_chat_template and not has_chat_template(tokenizer):
        raise ModelError(
            f"{setting}: its tokenizer has no chat template, which corpus.sources with messages_column need; "
            "put a chat_template.jinja beside its tokenizer.json, or take messages_column out"
        )
    model, warnings = check_checkpoint(directory, config, setting, trust_remote_code=trust)
    sizes = probe_architecture(model)
    if reads_ahead(config, trust_remote_code=trust):
        raise ModelError(f"{setting}: {sizes.class_name} {READS_AHEAD}")
    return sizes, warnings + _check_rows(tokenizer, sizes.num_output_rows, setting)


def _check_tokenizer(
    directory: Path, reference: ModelReference, role: Literal["teacher", "student"], setting: str
) -> Any:
    from distillation.models.load import load_tokenizer

    if not any(os.path.isfile(directory / name) for name in TOKENIZER_FILES):
        raise ModelError(
            f"{setting}: no tokenizer in this directory; copy the model's tokenizer.json and "
            "tokenizer_config.json into it"
        )
    with quiet_libraries():
        return load_tokenizer(reference, role)


def _check_rows(tokenizer: Any, num_output_rows: int, setting: str) -> list[str]:
    """Return a warning for added tokens beyond the output layer; ordinary ones there are an error."""
    from distillation.models.inspect.vocabulary import probe_vocabulary
    from distillation.models.load import start_token_id

    found = probe_vocabulary(tokenizer, num_output_rows)
    if found.num_ordinary_tokens_without_row:
        raise ModelError(
            f"{setting}: {found.num_ordinary_tokens_without_row} of its tokenizer's {found.size} tokens have "
            f"ids beyond the {num_output_rows} rows of its output layer; put the tokenizer that this model "
            "was trained with into the directory"
        )
    start = start_token_id(tokenizer)
    if start is not None and start >= num_output_rows:
        name = shorten(str(tokenizer.convert_ids_to_tokens(start)))
        raise ModelError(
            f"{setting}: its start token {name!r} has id {start}, its output layer {num_output_rows} rows; "
            "name another bos_token in tokenizer_config.json"
        )
    if found.num_tokens_without_row:
        return [
            f"{setting}: {found.num_tokens_without_row} added tokens have no row in the output layer and are "
            "left out"
        ]
    return []


def check_windows(settings: Settings, sizes: Mapping[str, ArchitectureProbe]) -> None:
    """Check that the windows of training and evaluation fit both models.

    Raises:
        SettingsError: a window is longer than a model can read; it would show after the training only.
    """
    for role, probe in sizes.items():
        for section in ("training", "evaluation"):
            length = getattr(settings, section).max_length
            if probe.max_positions and length > probe.max_positions:
                raise SettingsError(
                    f"setting {section}.max_length = {length}: the {role} holds {probe.max_positions} "
                    "positions; lower it"
                )


def _compare(
    settings: Settings, teacher: ArchitectureProbe, student: ArchitectureProbe, device: str
) -> list[str]:
    from distillation.models.device import choose_dtype, choose_products, free_memory
    from distillation.models.memory_estimate import estimate_memory, readable_bytes

    warnings = []
    if student.num_parameters > teacher.num_parameters:
        warnings.append(
            f"models.student.path = {settings.models.student.path!r} has {student.num_parameters:,} "
            f"parameters, more than the teacher's {teacher.num_parameters:,}: are the two swapped?"
        )
    training, dtype = settings.training, settings.models.student.dtype
    choose_products(training.autocast, device)  # refuses what the device lacks
    free, memory = free_memory(device)
    runs_beside = settings.objective.uses_teacher and settings.cache is None
    need = estimate_memory(
        teacher if runs_beside else None,
        student,
        free=free,
        memory=memory,
        teacher_dtype=choose_dtype(settings.models.teacher.dtype, device, name="models.teacher.dtype"),
        student_dtype=choose_dtype(dtype, device, training=True, name="models.student.dtype"),
        batch_size=training.batch_size,
        max_length=training.max_length,
        chunk_size=settings.objective.chunk_size,
        device=device.partition(":")[0],
        gradient_checkpointing=training.gradient_checkpointing,
    )
    if not need.fits:
        warnings.append(
            f"training.batch_size = {training.batch_size} needs about {readable_bytes(need.total)} "
            f"on {device}, {readable_bytes(need.free)} are free (most for "
            f"{need.largest().replace('_', ' ')}): "
            "lower training.batch_size or set training.gradient_checkpointing"
        )
    return warnings


# --------------------------------------------------------------------------------------------- the hub


def check_hub(reference: ModelReference, role: str, *, timeout: float = 4.0) -> list[str]:
    """Check that the hub has the model `reference` in a usable form, within `timeout` seconds.

    Raises:
        ModelError: it is no hub name, the hub is out of reach or does not know it, or holds its weights
            only as pickle.
    """
    setting = f"models.{role}.path = {reference.path!r}"
    if not _HUB_NAME.fullmatch(reference.path):
        raise ModelError(f"{setting}: no such directory; give one that save_pretrained wrote")
    answer = model_on_hub(reference.path, reference.revision, timeout)
    if isinstance(answer, str):
        raise ModelError(f"{setting}: no such directory, and {answer}; give a local directory or sample")
    files = [entry.rfilename for entry in answer.siblings or ()]
    if not any(name.endswith(".safetensors") for name in files):
        raise ModelError(f"{setting}: the hub has no safetensors weights of it; choose another model")
    if not any(name in TOKENIZER_FILES for name in files):
        raise ModelError(f"{setting}: the hub has no tokenizer of it; choose another model")
    return [f"{setting}: still on the hub, so its weights' shapes were not checked"]


def _cached_directory(reference: ModelReference) -> Path | None:
    """Return the directory of an earlier download of `reference`, if its configuration and weights are
    there."""
    from huggingface_hub import try_to_load_from_cache

    if not _HUB_NAME.fullmatch(reference.path):
        return None
    found = try_to_load_from_cache(reference.path, "config.json", revision=reference.revision)
    if not isinstance(found, str):
        return None
    directory = Path(found).parent
    return directory if any(directory.glob("*.safetensors")) else None
