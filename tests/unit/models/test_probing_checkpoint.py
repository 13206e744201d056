"""Checkpoints against their configurations, by headers alone."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from distillation.errors import ModelError
from distillation.models.inspect.checkpoint import check_checkpoint, read_shapes

ARCHITECTURES = ["Llama", "Qwen3Moe", "GPT2", "GPTNeoX", "Gemma2"]


def check(directory: Path, **changes):
    config = AutoConfig.from_pretrained(directory)
    for name, value in changes.items():
        setattr(config, name, value)
    return check_checkpoint(directory, config, "models.student.path = 'X'")[1]


def copy_of(directory: Path, target: Path) -> Path:
    shutil.copytree(directory, target)
    return target


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_save_pretrained_wrote_fits(saved_models, name) -> None:
    assert check(saved_models[name]) == []


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_other_vocabulary_names_parameter_and_both_shapes(saved_models, name) -> None:
    with pytest.raises(ModelError) as caught:
        check(saved_models[name], vocab_size=310)
    message = str(caught.value)
    assert message.startswith("models.student.path = 'X': parameter ")
    assert "[300, 32] in the file and [310, 32] by config.json" in message
    assert "\n" not in message
    on_disk = read_shapes(saved_models[name] / "model.safetensors", "X")
    assert message.split("parameter ")[1].split()[0] in on_disk


def test_files_hold_one_tensor_an_expert_and_the_model_one_of_all(saved_models) -> None:
    directory = saved_models["Qwen3Moe"]
    on_disk = read_shapes(directory / "model.safetensors", "X")
    assert on_disk["model.layers.0.mlp.experts.3.up_proj.weight"] == (16, 32)
    with pytest.raises(ModelError, match=r"experts\.0\.down_proj\.weight has shape \[32, 16\] .* \[32, 24\]"):
        check(directory, moe_intermediate_size=24)


def test_a_file_with_fused_experts_fits_too(saved_models, tmp_path) -> None:
    """The layout of the model in memory, which tools that bypass `save_pretrained` write."""
    directory = copy_of(saved_models["Qwen3Moe"], tmp_path / "fused")
    model = AutoModelForCausalLM.from_pretrained(directory)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    assert state["model.layers.0.mlp.experts.gate_up_proj"].shape == (4, 32, 32)
    save_file(state, directory / "model.safetensors", metadata={"format": "pt"})
    assert check(directory) == []


@pytest.mark.parametrize(
    "removed",
    ["model.layers.0.mlp.experts.2.up_proj.weight", "model.norm.weight", "model.embed_tokens.weight"],
)
def test_a_missing_tensor_is_named(saved_models, tmp_path, removed) -> None:
    directory = copy_of(saved_models["Qwen3Moe"], tmp_path / "short")
    state = load_file(directory / "model.safetensors")
    del state[removed]
    save_file(state, directory / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="have no weights, first") as caught:
        check(directory)
    assert removed in str(caught.value)


def test_an_untied_output_layer_is_missing_from_a_tied_checkpoint(saved_models) -> None:
    with pytest.raises(ModelError, match=r"lm_head\.weight"):
        check(saved_models["Qwen3Moe"], tie_word_embeddings=False)


def test_more_layers_than_weights_and_fewer(saved_models) -> None:
    with pytest.raises(ModelError, match=r"model\.layers\.3\."):
        check(saved_models["Llama"], num_hidden_layers=4)
    (warning,) = check(saved_models["Llama"], num_hidden_layers=2)
    assert "9 tensors of the checkpoint have no place" in warning


def test_a_base_model_without_the_head_prefix_fits(saved_models, tmp_path) -> None:
    directory = tmp_path / "base"
    AutoModelForCausalLM.from_pretrained(saved_models["Gemma2"]).model.save_pretrained(directory)
    assert "embed_tokens.weight" in read_shapes(directory / "model.safetensors", "X")
    assert check(directory) == []


def test_shards_are_read_and_a_missing_one_is_named(saved_models, tmp_path) -> None:
    directory = tmp_path / "sharded"
    AutoModelForCausalLM.from_pretrained(saved_models["Llama"]).save_pretrained(
        directory, max_shard_size="40KB"
    )
    shards = sorted(directory.glob("model-*.safetensors"))
    assert len(shards) > 1
    assert check(directory) == []
    shards[1].unlink()
    with pytest.raises(
        ModelError, match=f"1 of {len(shards)} weight files are missing, first {shards[1].name}"
    ):
        check(directory)


def test_damaged_files_are_refused(saved_models, tmp_path) -> None:
    directory = copy_of(saved_models["Llama"], tmp_path / "damaged")
    path = directory / "model.safetensors"
    whole = path.read_bytes()
    for content, reason in (
        (whole[:-100], "is cut off"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs pointer"),
        (b"abc", "is not a safetensors file"),
        (struct.pack("<Q", 6) + b"{wrong" + whole, "damaged header"),
        (struct.pack("<Q", 10) + json.dumps({"a": 12345}).encode() + whole, "damaged header"),
    ):
        path.write_bytes(content)
        with pytest.raises(ModelError, match=reason) as caught:
            check(directory)
        assert "\n" not in str(caught.value)


def test_pickle_only_is_refused_without_opening_it(saved_models, tmp_path) -> None:
    directory = copy_of(saved_models["Llama"], tmp_path / "pickle")
    torch.save(load_file(directory / "model.safetensors"), directory / "pytorch_model.bin")
    assert check(directory) == []  # The safetensors file beside it is what counts.
    (directory / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"only as pickle \(pytorch_model\.bin\).*convert them"):
        check(directory)
    (directory / "pytorch_model.bin").unlink()
    with pytest.raises(ModelError, match=r"no model\.safetensors in this directory"):
        check(directory)


def test_no_weight_is_read(saved_models, tmp_path) -> None:
    """A header over a hole of two gigabytes: reading it would take seconds and the memory."""
    directory = copy_of(saved_models["Llama"], tmp_path / "sparse")
    big = {"weight": {"dtype": "F32", "shape": [2**15, 2**14], "data_offsets": [0, 2**31]}}
    header = json.dumps(big).encode()
    with (directory / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + 2**31)
    assert read_shapes(directory / "model.safetensors", "X") == {"weight": (2**15, 2**14)}
