"""Whether a checkpoint's weights fit its configuration, without loading a single weight.

A safetensors file opens with an eight-byte length and a JSON header that names every tensor with its shape.
Empty tensors of these shapes are put through transformers' own loader on the meta device: so every
renaming, every merging of experts and every tied weight counts exactly as it will when the model is really
loaded.
Source: https://huggingface.co/docs/safetensors (format).

Invariant: what `save_pretrained` writes passes, and no weight's bytes are read.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillation.errors import ModelError
from distillation.probing.architecture import build_on_meta
from distillation.probing.quiet import quiet_libraries

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedConfig, PreTrainedModel

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_LARGEST_HEADER = 100_000_000

Shapes = dict[str, tuple[int, ...]]


def weight_files(directory: Path, setting: str) -> list[Path]:
    """Return the safetensors files of the checkpoint in `directory`.

    Raises:
        ModelError: there are none, one that the index names is absent, or the weights are only there as
            pickle.
    """
    index = directory / INDEX_NAME
    if (directory / SINGLE_NAME).is_file():
        return [directory / SINGLE_NAME]
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError):
            raise ModelError(f"{setting}: {INDEX_NAME} is damaged; download the checkpoint again") from None
        absent = [name for name in names if not (directory / name).is_file()]
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
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else _LARGEST_HEADER + 1
        if length > min(_LARGEST_HEADER, size):
            is_pointer = prefix.startswith(b"version")
            hint = "a git-lfs pointer; run git lfs pull" if is_pointer else "download the checkpoint again"
            raise ModelError(f"{setting}: {path.name} is not a safetensors file; {hint}")
        raw = file.read(length)
    try:
        header = json.loads(raw)
        header.pop("__metadata__", None)
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        shapes = {name: tuple(int(side) for side in entry["shape"]) for name, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ModelError(
            f"{setting}: {path.name} has a damaged header; download the checkpoint again"
        ) from None
    if 8 + length + end > size:
        raise ModelError(
            f"{setting}: {path.name} is cut off, {size} of {8 + length + end} bytes; "
            "download the checkpoint again"
        )
    return shapes


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
    try:
        model = build_on_meta(config, trust_remote_code=trust_remote_code)
    except ModelError as error:
        raise ModelError(f"{setting}: {error}; check config.json") from error
    if getattr(config, "quantization_config", None):
        return model, [f"{setting}: the weights are quantised, so their shapes were not checked"]
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
        except RuntimeError:  # A conversion, such as stacking experts, failed on these shapes.
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

    tied = set(getattr(model, "all_tied_weights_keys", None) or {})
    state = {name: tensor for name, tensor in model.state_dict().items() if name not in tied}
    with quiet_libraries():
        try:
            state = revert_weight_conversion(model, state)
        except Exception:  # Only the wording is at stake: without the file's names the model's own are used.
            return {}
    return {name: tuple(tensor.shape) for name, tensor in state.items()}
