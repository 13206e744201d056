"""Whether a checkpoint's weights fit its configuration, without loading a single weight.

A safetensors file opens with an eight-byte length and a JSON header that names every tensor with its shape.
Empty tensors of these shapes are put through transformers' own loader on the meta device: so every
renaming, every merging of experts and every tied weight counts exactly as it will when the model is really
loaded.
Source: https://huggingface.co/docs/safetensors (format).

Invariant: what `save_pretrained` writes passes, and no weight's bytes are read.
"""

from __future__ import annotations

import math
import os
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

from distillation.errors import InputError, ModelError, one_line, shorten
from distillation.models.files import INDEX as INDEX_NAME
from distillation.models.files import weight_names
from distillation.models.inspect.architecture import build_on_meta
from distillation.quiet import quiet_libraries
from distillation.reading import open_regular, parse_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedConfig, PreTrainedModel

SINGLE_NAME = "model.safetensors"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_LARGEST_HEADER = 32 * 2**20
"""Bytes; a header of 100,000 tensors has about twelve million."""
_MOST_TENSORS = 300_000
"""Of all files; the largest models with one tensor an expert have about 150,000."""
_MOST_SIDES = 16
_BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0"), 8),
    **dict.fromkeys(("F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}
"""Bits of a number by the name that a header gives its type."""

Shapes = dict[str, tuple[int, ...]]


def weight_files(directory: Path, setting: str) -> list[Path]:
    """Return the safetensors files of the checkpoint in `directory`.

    Raises:
        ModelError: there are none, one that the index names is absent, or the weights are only there as
            pickle.
    """
    index = directory / INDEX_NAME
    if os.path.isfile(directory / SINGLE_NAME):
        return [directory / SINGLE_NAME]
    if os.path.isfile(index):
        try:
            names = weight_names(index)
        except InputError as error:
            reason = one_line(error).removeprefix(f"{index}: ")
            raise ModelError(
                f"{setting}: {INDEX_NAME} is damaged ({reason}); download the checkpoint again"
            ) from error
        absent = [name for name in names if not os.path.isfile(directory / name)]
        if absent:
            raise ModelError(
                f"{setting}: {len(absent)} of {len(names)} weight files are missing, first {absent[0]}; "
                "download the checkpoint again"
            )
        return [directory / name for name in names]
    pickles = sorted(path.name for pattern in _PICKLES for path in directory.glob(pattern))
    if pickles:
        raise ModelError(
            f"{setting}: weights only as pickle ({pickles[0]}), which can run code when opened; convert them "
            "with save_pretrained on a machine you can spare, or choose a safetensors checkpoint"
        )
    others = sorted(path.name for path in directory.glob("*.safetensors")) + sorted(
        path.name for path in directory.glob("*.gguf")
    )
    hint = f" (only {others[0]})" if others else ""
    raise ModelError(
        f"{setting}: no {SINGLE_NAME} in this directory{hint}; choose a directory that save_pretrained wrote"
    )


def read_shapes(path: Path, setting: str) -> Shapes:
    """Return the shape of each tensor in the safetensors file `path`, from its header alone.

    Raises:
        ModelError: the file is no safetensors file, or shorter than its header says.
    """
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            prefix = file.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else _LARGEST_HEADER + 1
            if length > min(_LARGEST_HEADER, size):
                is_pointer = prefix.startswith(b"version")
                hint = (
                    "a git-lfs pointer; run git lfs pull" if is_pointer else "download the checkpoint again"
                )
                raise ModelError(f"{setting}: {path.name} is not a safetensors file; {hint}")
            header = parse_json(file.read(length), path.name)
        tensors = _tensors_of(header)
    except InputError as error:
        raise ModelError(
            f"{setting}: {path.name} has a damaged header ({one_line(error)}); download the checkpoint again"
        ) from error
    end = max((tensor.end for tensor in tensors.values()), default=0)
    if 8 + length + end > size:
        raise ModelError(
            f"{setting}: {path.name} is cut off, {size} of {8 + length + end} bytes; "
            "download the checkpoint again"
        )
    return {name: tensor.shape for name, tensor in tensors.items()}


class _Tensor(NamedTuple):
    shape: tuple[int, ...]
    end: int
    """Where its bytes end, counted from the end of the header."""


def _tensors_of(header: Any) -> dict[str, _Tensor]:
    """Return the tensors of a header whose numbers agree with each other.

    Raises:
        InputError: they do not, or are no numbers.
    """
    if not isinstance(header, dict):
        raise InputError("it is no JSON object")
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if not isinstance(entry, dict):
            raise InputError(f"tensor {shorten(name)} is not described")
        shape, span, kind = entry.get("shape"), entry.get("data_offsets"), entry.get("dtype")
        if not _are_counts(shape) or not _are_counts(span) or len(span) != 2 or len(shape) > _MOST_SIDES:
            raise InputError(f"tensor {shorten(name)} has no shape and place in whole numbers")
        bits = _BITS.get(str(kind))
        if bits is None:
            raise InputError(f"tensor {shorten(name)} has the unknown type {shorten(repr(kind), 40)}")
        if math.prod(shape) * bits != 8 * (span[1] - span[0]):
            raise InputError(
                f"tensor {shorten(name)} of shape {shorten(str(shape))} has {span[1] - span[0]} bytes"
            )
        tensors[name] = _Tensor(tuple(shape), span[1])
    return tensors


def _are_counts(values: Any) -> TypeGuard[list[int]]:
    """Tell whether `values` is a list of whole numbers that a file can be as large as."""
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**53 for value in values)


def check_checkpoint(
    directory: Path, config: PreTrainedConfig, setting: str, *, trust_remote_code: bool = False
) -> tuple[PreTrainedModel, list[str]]:
    """Return the model of `config` on the meta device and warnings, after its weights proved to fit.

    `setting` is the setting's name and value, which opens every message.

    Raises:
        ModelError: a weight is missing or has another shape; the message names the parameter and both shapes.
    """
    shapes: Shapes = {}
    for path in weight_files(directory, setting):
        shapes |= read_shapes(path, setting)
        if len(shapes) > _MOST_TENSORS:
            raise ModelError(f"{setting}: more than {_MOST_TENSORS:,} tensors; choose another checkpoint")
    try:
        model = build_on_meta(config, trust_remote_code=trust_remote_code)
    except ModelError as error:
        raise ModelError(f"{setting}: {error}; check config.json") from error
    if getattr(config, "quantization_config", None):
        return model, [f"{setting}: the weights are quantised, so their shapes were not checked"]
    # The loader takes its time over each tensor, also over those that it has no place for.
    num_places = _num_places(model)
    if len(shapes) > 4 * num_places + 1_000:
        raise ModelError(
            f"{setting}: the checkpoint has {len(shapes):,} tensors, config.json's model a place for "
            f"{num_places:,}; restore the config.json of these weights"
        )
    info = _load_shapes(model, config, shapes)
    if info is None or info["mismatched_keys"] or info["missing_keys"]:
        raise ModelError(
            f"{setting}: {_explain(model, shapes, info)}; restore the config.json of these weights"
        )
    unused = sorted(info["unexpected_keys"])
    if unused:
        return model, [
            f"{setting}: {len(unused)} tensors of the checkpoint have no place in config.json's model "
            f"and stay unused, first {unused[0]}"
        ]
    return model, []


def _num_places(model: Any) -> int:
    """Return about how many tensors of a file `model` can take: fused experts are often apart there."""
    return sum(2 * weight.shape[0] if weight.dim() == 3 else 1 for weight in model.parameters())


def _load_shapes(model: Any, config: Any, shapes: Shapes) -> Mapping[str, Any] | None:
    """Return the loader's findings for empty tensors of `shapes`; None when they cannot even be converted."""
    import torch

    tensors = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    with quiet_libraries():
        try:
            _, info = type(model).from_pretrained(
                None,
                config=config,
                state_dict=tensors,
                device_map={"": "meta"},
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
        except Exception:  # A conversion, such as stacking experts, failed on these shapes.
            return None
    return info


def _explain(model: Any, shapes: Shapes, info: Mapping[str, Any] | None) -> str:
    """Return which parameter does not fit, by the name it has in the file where that is known."""
    expected = _expected_on_disk(model)
    different = sorted(name for name, shape in shapes.items() if expected.get(name, shape) != shape)
    if different:
        name = different[0]
        return _shape_message(name, shapes[name], expected[name], len(different))
    if info is not None and info["mismatched_keys"]:
        name, found, wanted = min(info["mismatched_keys"])
        return _shape_message(name, tuple(found), tuple(wanted), len(info["mismatched_keys"]))
    missing = sorted(set(expected) - set(shapes))
    if missing and len(missing) < len(expected):
        shape = list(expected[missing[0]])
        return f"{len(missing)} parameters have no weights, first {missing[0]} of shape {shape}"
    names = sorted(info["missing_keys"]) if info is not None else sorted(expected)
    return f"{len(names)} parameters have no weights, first {names[0]}"


def _shape_message(name: str, found: tuple[int, ...], wanted: tuple[int, ...], num: int) -> str:
    others = f" (and {num - 1} more parameters)" if num > 1 else ""
    return f"parameter {name} has shape {list(found)} in the file and {list(wanted)} by config.json{others}"


def _expected_on_disk(model: Any) -> Shapes:
    """Return the names and shapes that `save_pretrained` would write for `model`."""
    from transformers.core_model_loading import revert_weight_conversion

    if _num_places(model) > _MOST_TENSORS:  # as many tensors would be made
        return {}
    tied = set(getattr(model, "all_tied_weights_keys", None) or {})
    state = {name: tensor for name, tensor in model.state_dict().items() if name not in tied}
    with quiet_libraries():
        try:
            state = revert_weight_conversion(model, state)
        except Exception:  # Only the wording is at stake: without the file's names the model's own are used.
            return {}
    return {name: tuple(tensor.shape) for name, tensor in state.items()}
