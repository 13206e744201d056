"""Loading models and tokenizers: directories, hub repositories and the embedded pair.

Weights come from safetensors only, code of a repository runs only when the setting names that repository and
revision, and whatever is missing is one line that names the setting.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from distillation.config import ModelReference, ModelSettings
from distillation.errors import InputError, ModelError, one_line, shorten
from distillation.fingerprint import digest_of, digest_of_files
from distillation.models import files as model_files
from distillation.models.finite import nonfinite_tensor
from distillation.reading import read_json, reading_by_libraries
from distillation.tokenizers.plain_text import cut_the_same_always, cuts_at_random

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

logger = logging.getLogger(__name__)
Role = Literal["teacher", "student"]
EMBEDDED = "sample"
SAMPLE = Path(__file__).absolute().parents[1] / EMBEDDED
NEVER_READ = (
    *(".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".gguf", ".tflite", ".ot"),
    *(".md", ".png", ".jpg", ".jpeg", ".gif", ".svg", ".pdf", ".log"),
)
"""Ends of files that lie beside a model: weights in other formats than safetensors, pages, pictures."""
START_TOKENS = ("<|endoftext|>", "<s>", "[CLS]")


def resolve_path(reference: ModelReference, role: Role) -> str:
    """Return the directory or hub repository that `reference` means for this role."""
    if reference.path == EMBEDDED:
        return str(SAMPLE / role)
    return reference.path


def located(models: ModelSettings) -> ModelSettings:
    """Return the settings with absolute paths in place of relative ones, which mean another folder elsewhere.

    Names of the hub and of the embedded models stay as they are.
    """
    changed = {}
    for role, reference in (("teacher", models.teacher), ("student", models.student)):
        if reference.path == EMBEDDED or not os.path.isdir(reference.path):
            continue
        path = str(Path(reference.path).absolute())
        update: dict[str, Any] = {"path": path}
        if reference.trust_remote_code_of is not None:
            update["trust_remote_code_of"] = f"{path}@{reference.revision}"
        changed[role] = reference.model_copy(update=update)
    return models.model_copy(update=changed)


def model_digest(reference: ModelReference, role: Role) -> str:
    """Return the content hash of a model: of every file of a directory that may be loaded, wherever the
    directory lies; of name and revision on the hub.
    """
    path = resolve_path(reference, role)
    if os.path.isdir(path):
        return digest_of_files(Path(path), _loadable(Path(path), reference))
    return digest_of([path, reference.revision])


def _loadable(root: Path, reference: ModelReference) -> list[Path]:
    """Return the files of a model's directory less those that nothing reads, and what its indices name."""
    files = {
        file
        for file in root.rglob("*")
        if not any(part.startswith(".") or part == "__pycache__" for part in file.relative_to(root).parts)
        # Code of a repository may read anything.
        and (reference.trust_remote_code_of is not None or not file.name.lower().endswith(NEVER_READ))
    }
    for index in sorted(root.glob("*.index.json")):
        try:
            names = read_json(index).get("weight_map")
        except InputError:  # loading says what is wrong with it
            continue
        if isinstance(names, dict):
            files |= {root / name for name in names.values() if isinstance(name, str) and "\0" not in name}
    return sorted(file for file in files if os.path.isfile(file))


def load_tokenizer(reference: ModelReference, role: Role) -> PreTrainedTokenizerFast:
    """Load the tokenizer; dropout that its file keeps from its training is taken off.

    Raises:
        ModelError: the directory or the tokenizer is missing, or it is not a fast tokenizer.
    """
    from transformers import AutoTokenizer

    from distillation.quiet import listening

    path = _existing(reference, role)
    check_model_files(reference, role)

    def refusal(reason: str) -> ModelError:
        # Where one way of reading a file fails, transformers warns and tries another; its error is the last.
        causes = shorten("; ".join([*map(str, heard[-1:]), reason]), 300)
        return ModelError(
            f"models.{role}.path = {path}: no tokenizer can be loaded ({causes}); "
            "put tokenizer.json and tokenizer_config.json beside the weights"
        )

    with listening() as heard, reading_by_libraries(refusal):
        tokenizer: Any = AutoTokenizer.from_pretrained(path, **_hub_arguments(reference))
        tokenizer("Some values are looked at only when a text is encoded.")
    if not tokenizer.is_fast:
        raise ModelError(
            f"models.{role}.path = {path}: only a slow tokenizer; convert it to a tokenizer.json"
        )
    tokenizer = _as_its_file_says(tokenizer, path, reference, role)
    if cuts_at_random(tokenizer.backend_tokenizer):
        logger.warning(
            "models.%s.path = %s: its tokenizer.json has dropout, which cuts one text differently each time; "
            "it is taken off",
            role,
            path,
        )
        cut_the_same_always(tokenizer.backend_tokenizer)
    return tokenizer


def check_model_files(reference: ModelReference, role: Role) -> None:
    """Check a model's configuration and its tokenizer's files before a library builds anything of them.

    Raises:
        ModelError: one of them is damaged, too large, or asks for what no real model has.
    """
    path = resolve_path(reference, role)
    if Path(path).absolute().parent == SAMPLE:
        return
    try:
        files = _files_of(reference, path, model_files.FILES)
        model_files.check_files(files)
    except InputError as error:
        raise ModelError(
            f"models.{role}.path = {path}: {one_line(error)}; use the files that belong to the model"
        ) from error


def _files_of(reference: ModelReference, path: str, names: Iterable[str]) -> dict[str, Path]:
    """Return those of the files that are there; those of the hub are taken from its cache, or downloaded."""
    if os.path.isdir(path):
        return {name: Path(path) / name for name in names if os.path.isfile(os.path.join(path, name))}
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    files: dict[str, Path] = {}
    is_out_of_reach = False
    for name in names:
        try:
            found = hf_hub_download(path, name, revision=reference.revision, local_files_only=is_out_of_reach)
        except LocalEntryNotFoundError:  # neither in the cache nor within reach
            is_out_of_reach = True
        except EntryNotFoundError:
            continue
        except Exception:  # a hub that refuses shows again in what comes next, with a message of its own
            is_out_of_reach = True
        else:
            files[name] = Path(found)
    return files


def read_config(reference: ModelReference, role: Role) -> PreTrainedConfig:
    """Load the configuration after its numbers were checked.

    Raises:
        ModelError: it is missing, damaged, contradicts itself, or describes what no real model is.
    """
    from transformers import AutoConfig

    path = _existing(reference, role)

    def refusal(reason: str) -> ModelError:
        return ModelError(
            f"models.{role}.path = {path}: config.json cannot be read ({reason}); "
            "restore the one that belongs to the model"
        )

    check_model_files(reference, role)
    with reading_by_libraries(refusal):
        config: PreTrainedConfig = AutoConfig.from_pretrained(path, **_hub_arguments(reference))
    try:
        model_files.check_sizes(config)
    except InputError as error:
        raise refusal(one_line(error)) from error
    return config


def _as_its_file_says(
    tokenizer: PreTrainedTokenizerFast, path: str, reference: ModelReference, role: Role
) -> PreTrainedTokenizerFast:
    """Return the tokenizer that tokenizer.json defines, where the class that was loaded is another one.

    A class that is named after a model builds its own parts: `GPT2Tokenizer`, which SmolLM names, drops the
    splitting of digits from SmolLM's own file, and texts get ids that the model was never trained on.
    """
    from transformers import PreTrainedTokenizerFast

    try:
        with reading_by_libraries(ModelError):
            as_file = PreTrainedTokenizerFast.from_pretrained(path, **_hub_arguments(reference))
    except ModelError:  # no tokenizer.json of its own: there is nothing to compare with
        return tokenizer
    if all(
        _state(getattr(tokenizer.backend_tokenizer, part)) == _state(getattr(as_file.backend_tokenizer, part))
        for part in ("normalizer", "pre_tokenizer")
    ):
        return tokenizer
    logger.warning(
        "models.%s.path = %s: %s does not cut text as tokenizer.json says; the file is followed",
        role,
        path,
        type(tokenizer).__name__,
    )
    return as_file


def _state(part: Any) -> Any:
    return None if part is None else json.loads(part.__getstate__())


def load_model(
    reference: ModelReference,
    role: Role,
    *,
    device: str = "cpu",
    dtype: str = "auto",
    attention: str = "auto",
) -> PreTrainedModel:
    """Load the causal language model in evaluation mode onto `device`.

    `dtype` and `attention` are the choices of the probes; `auto` keeps the checkpoint's and the library's.

    Raises:
        ModelError: weights are missing, are not safetensors, are not finite, or do not fit the configuration;
            or the model reads later tokens.
    """
    from transformers import AutoModelForCausalLM

    from distillation.models.lm_head import READS_AHEAD, reads_later_tokens

    path = _existing(reference, role)
    arguments: dict[str, Any] = {"dtype": dtype, "use_safetensors": True, **_hub_arguments(reference)}
    if attention != "auto":
        arguments["attn_implementation"] = attention

    def refusal(reason: str) -> ModelError:
        return ModelError(
            f"models.{role}.path = {path}: the model cannot be loaded ({reason}); "
            "check config.json and the safetensors files"
        )

    read_config(reference, role)
    try:
        for index in _files_of(reference, path, (model_files.INDEX,)).values():
            model_files.weight_names(index)
    except InputError as error:
        raise refusal(f"{model_files.INDEX}: {one_line(error)}") from error
    with reading_by_libraries(refusal):
        loaded: Any = AutoModelForCausalLM.from_pretrained(path, output_loading_info=True, **arguments)
        model, loading = loaded
    faults = sorted(map(str, loading.get("missing_keys", ()))) + [
        str(key) for key in loading.get("mismatched_keys", ())
    ]
    if faults:
        raise ModelError(
            f"models.{role}.path = {path}: weights do not fit config.json ({', '.join(faults[:3])}"
            f"{', ...' if len(faults) > 3 else ''}); use the configuration that the weights were saved with"
        )
    model = model.to(device).eval()
    name = nonfinite_tensor(model.named_parameters())
    if name is not None:
        raise ModelError(
            f"models.{role}.path = {path}: {name} holds numbers that are not finite as "
            f"{str(model.dtype).removeprefix('torch.')}; take sound weights, or models.{role}.dtype: float32"
        )
    with reading_by_libraries(refusal):
        is_causal = not reads_later_tokens(model)
    if not is_causal:
        raise ModelError(f"models.{role}.path = {path}: {type(model).__name__} {READS_AHEAD}")
    return model


def start_token_id(tokenizer: PreTrainedTokenizerFast) -> int | None:
    """Return the token that is put before a text, so that its first token has a prediction.

    The tokenizer's BOS, else a token that separates documents in pre-training, else its EOS, else None.
    """
    # Several tokenizers have no BOS and an EOS that ends chat turns: there the document separator is right.
    vocabulary = tokenizer.get_vocab()
    if tokenizer.bos_token_id is not None:
        return int(tokenizer.bos_token_id)
    for token in START_TOKENS:
        if token in vocabulary:
            return int(vocabulary[token])
    return None if tokenizer.eos_token_id is None else int(tokenizer.eos_token_id)


def need_start_token_id(tokenizer: PreTrainedTokenizerFast, role: Role) -> int:
    """Return the start token of a model that is going to be trained or learned from.

    Raises:
        ModelError: the tokenizer has none.
    """
    start = start_token_id(tokenizer)
    if start is None:
        raise ModelError(
            f"models.{role}.path: its tokenizer has neither a BOS nor an EOS token, so nothing can stand "
            "before a window; set bos_token in tokenizer_config.json"
        )
    return start


def load_pair(models: ModelSettings) -> tuple[dict[Role, PreTrainedTokenizerFast], dict[str, Any]]:
    """Return both tokenizers by role, and the rows of both output layers as `build_aligner` takes them.

    Raises:
        ModelError: as `load_tokenizer`.
    """
    references: dict[Role, ModelReference] = {"teacher": models.teacher, "student": models.student}
    tokenizers = {role: load_tokenizer(reference, role) for role, reference in references.items()}
    return tokenizers, rows_of_pair(models)


def rows_of_pair(models: ModelSettings) -> dict[str, int]:
    """Return the rows of both output layers as `build_aligner` and `PairEncoder` take them."""
    references: dict[Role, ModelReference] = {"teacher": models.teacher, "student": models.student}
    return {
        f"num_{role}_rows": configured_output_rows(reference, role) for role, reference in references.items()
    }


def configured_output_rows(reference: ModelReference, role: Role) -> int:
    """Return the rows of the output layer as the configuration states them, without loading weights."""
    return int(read_config(reference, role).get_text_config().vocab_size)


def _existing(reference: ModelReference, role: Role) -> str:
    """Return the resolved path after checking that a local one is there."""
    path = resolve_path(reference, role)
    looks_like_hub = re.fullmatch(r"[\w.-]+(/[\w.-]+)?", path) is not None
    if os.path.exists(path) or (looks_like_hub and not path.startswith(".")):
        return path
    raise ModelError(
        f"models.{role}.path = {path}: there is no such directory; give a model directory or a hub name"
    )


def _hub_arguments(reference: ModelReference) -> dict[str, Any]:
    """Return what goes to `from_pretrained`; the settings check has matched the name that is trusted."""
    trusted = reference.trust_remote_code_of is not None
    return {"revision": reference.revision or "main", "trust_remote_code": trusted}
