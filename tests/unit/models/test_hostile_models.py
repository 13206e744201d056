"""Models that were made to hurt: each is one line that names the setting, in seconds and little memory."""

from __future__ import annotations

import json
import os
import resource
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from distillation.config import ModelReference
from distillation.errors import InputError, ModelError
from distillation.models.files import MAX_TOKENS, check_numbers, try_tokenizer, weight_names
from distillation.models.inspect.checkpoint import read_shapes
from distillation.models.inspect.preflight import check_model
from distillation.models.load import load_model, load_tokenizer

DEEP = "[" * 100_000


@pytest.fixture
def model(tiny_student_dir: Path, tmp_path: Path) -> Path:
    """A copy of a sound model, to be broken."""
    return Path(shutil.copytree(tiny_student_dir, tmp_path / "model"))


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refusal(directory: Path) -> str:
    with pytest.raises(ModelError) as caught:
        check_model(ModelReference(path=str(directory)), "student")
    message = str(caught.value)
    assert message.startswith(f"models.student.path = '{directory}'") or message.startswith(
        f"models.student.path = {directory}"
    )
    assert "\n" not in message
    assert len(message) < 700
    return message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers = 1000000000: more than 1,000"),
        ({"num_hidden_layers": 10**5}, "num_hidden_layers = 100000: more than 1,000"),
        ({"num_hidden_layers": 0}, "num_hidden_layers = 0: must be a positive whole number"),
        ({"num_experts": 10**6}, "num_experts = 1000000: more than 4,096"),
        ({"text_config": {"n_routed_experts": 10**6}}, "n_routed_experts = 1000000: more than 4,096"),
        ({"num_labels": 10**9}, "num_labels = 1000000000: more than 100,000"),
        ({"vocab_size": 10**9}, "vocab_size = 1000000000: more than 2,097,152"),
        ({"hidden_size": -1}, "hidden_size = -1: must be a positive whole number"),
        ({"hidden_size": 10**30}, "more than 16,777,216"),
        ({"max_position_embeddings": 10**30}, "more than 9,223,372,036,854,775,807"),
        ({"hidden_size": 25, "head_dim": None}, "hidden size (25) is not a multiple"),
        ({"num_key_value_heads": 7}, "num_attention_heads = 2: no multiple of num_key_value_heads = 7"),
        ({"num_attention_heads": 0}, "num_attention_heads"),
        ({"num_attention_heads": "8"}, "num_attention_heads"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps = nan: must be a finite number"),
        ({"rope_parameters": {"rope_theta": float("nan")}}, "rope_theta = nan: must be a finite number"),
        ({"rms_norm_eps": float("inf")}, "rms_norm_eps = inf: must be a finite number"),
        ({"time_step_limit": [0.0, float("nan")]}, "time_step_limit = nan: must be a finite number"),
        ({"layer_types": 5}, "config.json"),
        ({"model_type": "x" * 5000}, "config.json"),
        ({"model_type": None}, "config.json"),
        ({"hidden_act": "no such function"}, "no such function"),
    ],
)
def test_configurations(model: Path, changes: dict[str, Any], words: str) -> None:
    edit(model / "config.json", **changes)
    assert words in refusal(model)


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer_config.json", "tokenizer.json", "generation_config.json"]
)
@pytest.mark.parametrize("content", ['{"a":' + DEEP, "[1]", '{"a"', "\xff", " " * (16 * 2**20) + "{}"])
def test_files_that_are_no_json_object(model: Path, name: str, content: str) -> None:
    (model / name).write_text(content, encoding="latin-1")
    if name == "tokenizer.json" and content.endswith("{}"):
        os.truncate(model / name, 129 * 2**20)
    assert name in refusal(model)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_pipes_and_devices(model: Path, name: str) -> None:
    (model / name).unlink()
    os.mkfifo(model / name)
    refusal(model)
    (model / name).unlink()
    (model / name).symlink_to("/dev/zero")
    refusal(model)


def test_infinity_as_the_end_of_a_range_is_sound() -> None:
    check_numbers(
        {"time_step_limit": [0.0, float("inf")], "rope": {"factors": [1.0, 2.5]}, "pad_token_id": -1}
    )


@pytest.mark.parametrize(
    "sizes",
    [
        {"vocab_size": 151_936, "hidden_size": 8192, "num_hidden_layers": 80, "intermediate_size": 29_568},
        {"vocab_size": 262_208, "num_hidden_layers": 126, "max_position_embeddings": 10_485_760},
        {"num_hidden_layers": 61, "n_routed_experts": 256, "num_experts_per_tok": 8, "vocab_size": 129_280},
        {"num_experts": 512, "moe_intermediate_size": 512, "shared_expert_intermediate_size": 20_480},
        {"vocab_size": 901_629, "layer_types": ["full_attention"] * 126, "mlp_only_layers": [0, 1, 2]},
    ],
)
def test_the_largest_models_are_within_the_bounds(sizes: dict[str, Any]) -> None:
    check_numbers({"text_config": sizes})


# ------------------------------------------------------------------------------------------------ weights


def header_of(
    *entries: tuple[str, dict[str, Any]], raw: str | None = None, length: int | None = None
) -> bytes:
    text = (json.dumps(dict(entries)) if raw is None else raw).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text


def tensor(**changes: Any) -> tuple[str, dict[str, Any]]:
    return "weight", {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]} | changes


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (header_of(tensor(shape=[10**30])), "weight has no shape and place in whole numbers"),
        (header_of(tensor(shape=[-2, -3])), "weight has no shape and place in whole numbers"),
        (header_of(tensor(shape=[float("inf")])), "weight has no shape and place in whole numbers"),
        (header_of(tensor(shape=["2", 3])), "weight has no shape and place in whole numbers"),
        (header_of(tensor(shape=[1] * 100)), "weight has no shape and place in whole numbers"),
        (header_of(tensor(data_offsets=["0", "24"])), "weight has no shape and place in whole numbers"),
        (header_of(tensor(data_offsets=[24, 0])), "has -24 bytes"),
        (header_of(tensor(shape=[2**40, 2**40])), "has 24 bytes"),
        (header_of(tensor(dtype="X")), "unknown type 'X'"),
        (header_of(("weight", 5)), "weight is not described"),  # type: ignore[arg-type]
        (header_of(raw="[1]"), "no JSON object"),
        (header_of(raw='{"a":' + DEEP), "nested too deep"),
        (header_of(raw="{"), "not JSON"),
        (header_of(raw="{}", length=2**63), "is not a safetensors file"),
        (header_of(raw="{}", length=2**30), "is not a safetensors file"),
        (b"version https://git-lfs", "git lfs pull"),
        (b"\xff" * 24, "is not a safetensors file"),
    ],
)
def test_headers(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content + b"\0" * 24)
    with pytest.raises(ModelError, match=r"models\.student\.path = X: ") as caught:
        read_shapes(path, "models.student.path = X")
    assert words in str(caught.value)


def test_tensors_without_a_place_are_counted_before_they_are_loaded(model: Path) -> None:
    entry = {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}
    (model / "model.safetensors").write_bytes(
        header_of(*((f"t{n}", entry) for n in range(5_000))) + b"\0" * 4
    )
    assert "5,000 tensors, config.json's model a place for 2" in refusal(model)


@pytest.mark.parametrize(
    "name",
    [5, None, "x" * 5000, "../outside.safetensors", "/etc/x.safetensors", "a/../../x.safetensors", "x.bin",
     "..\\x.safetensors", "C:x.safetensors", "x\0.safetensors", ["x.safetensors"]],
)  # fmt: skip
def test_names_in_an_index_stay_in_the_directory(model: Path, name: Any) -> None:
    (model / "model.safetensors").rename(model.parent / "outside.safetensors")
    index = model / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"model.norm.weight": name}}))
    assert "model.safetensors.index.json is damaged (names " in refusal(model)
    with pytest.raises(ModelError, match="the model cannot be loaded") as caught:
        load_model(ModelReference(path=str(model)), "student")
    assert "names " in str(caught.value)


def test_an_index_that_is_nested_too_deep(model: Path) -> None:
    (model / "model.safetensors").unlink()
    (model / "model.safetensors.index.json").write_text('{"weight_map":' + DEEP)
    assert "nested too deep" in refusal(model)


def test_the_hubs_cache_keeps_its_links(model: Path) -> None:
    """A snapshot there is a folder of links to `../../blobs`."""
    blobs = model.parent / "blobs"
    blobs.mkdir()
    weights = model / "model.safetensors"
    weights.rename(blobs / "digest")
    (model / "a.safetensors").symlink_to("../blobs/digest")
    names = read_shapes(model / "a.safetensors", "X")
    index = model / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(names, "a.safetensors")}))
    assert weight_names(index) == ["a.safetensors"]
    assert check_model(ModelReference(path=str(model)), "student")[1] == []


# ---------------------------------------------------------------------------------------------- tokenizers


def _id(content: dict[str, Any]) -> None:
    content["added_tokens"].append({**content["added_tokens"][0], "content": "<far>", "id": 2**32 - 2})


def _twice(content: dict[str, Any]) -> None:
    content["model"]["vocab"]["far"] = 5


def _vocabulary_id(content: dict[str, Any]) -> None:
    content["model"]["vocab"]["far"] = 2**32 - 2


def _negative_id(content: dict[str, Any]) -> None:
    content["model"]["vocab"]["far"] = -1


def _empty_pattern(content: dict[str, Any]) -> None:
    content["normalizer"] = {"type": "Replace", "pattern": {"String": ""}, "content": "x"}


def _padding(content: dict[str, Any]) -> None:
    content["padding"] = {
        "strategy": {"Fixed": 10**12}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
        "pad_type_id": 0, "pad_token": "x",
    }  # fmt: skip


def _no_model(content: dict[str, Any]) -> None:
    content["model"] = None


def _endless(content: dict[str, Any]) -> None:
    # Each a becomes a thousand a, three times over: 500 of them are more than any memory.
    once = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 1000}
    content["normalizer"] = {"type": "Sequence", "normalizers": [once] * 3}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_id, "id 4294967294; ids up to 2,097,152 are taken"),
        (_twice, "two of its tokens have one id"),
        (_vocabulary_id, "id 4294967294; ids up to 2,097,152 are taken"),
        (_negative_id, "id -1"),
        (_empty_pattern, "tokenizer.json: "),
        (_padding, "more than 1 GiB"),
        (_endless, "more than 1 GiB"),
        (_no_model, "has no model"),
    ],
)
def test_tokenizers(model: Path, change: Any, words: str) -> None:
    content = json.loads((model / "tokenizer.json").read_text())
    change(content)
    (model / "tokenizer.json").write_text(json.dumps(content))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    message = refusal(model)
    assert words in message
    assert "tokenizer.json: " in message
    assert (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20
    )  # kilobytes: it was the child's


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_max_length": "x"}, "model_max_length = 'x': must be a number"),
        ({"added_tokens_decoder": {str(2**32 - 2): {"content": "x"}}}, f"no id below {MAX_TOKENS:,}"),
        ({"added_tokens_decoder": {"9" * 10_000: {"content": "x"}}}, f"no id below {MAX_TOKENS:,}"),
        ({"added_tokens_decoder": {"0": {"special": True}}}, "the token of id 0 has no content"),
        ({"added_tokens_decoder": [1]}, "must be a mapping of ids"),
        ({"eos_token": {"a": 1}}, "no tokenizer can be loaded"),
    ],
)
def test_settings_of_tokenizers(model: Path, changes: dict[str, Any], words: str) -> None:
    edit(model / "tokenizer_config.json", **changes)
    assert words in refusal(model)


def test_one_content_is_tried_once(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_tokenizer(ModelReference(path=str(model)), "student")
    monkeypatch.setattr(subprocess, "run", None)
    try_tokenizer(model / "tokenizer.json")


def test_a_library_that_never_returns_is_ended(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distillation.models.files.TRIAL_SECONDS", 0.01)
    (model / "tokenizer.json").write_text((model / "tokenizer.json").read_text() + "\n")  # not tried yet
    with pytest.raises(InputError, match=r"takes more than 0\.01 s"):
        try_tokenizer(model / "tokenizer.json")


def test_a_hostile_pair_ends_the_command_in_time(model: Path) -> None:
    """What a user sees, from the outside: one line, in seconds, through the audit."""
    content = json.loads((model / "tokenizer.json").read_text())
    _empty_pattern(content)
    (model / "tokenizer.json").write_text(json.dumps(content))
    done = subprocess.run(
        [sys.executable, "-m", "distillation.audit", "sample", str(model)],
        capture_output=True, text=True, timeout=20, check=False, cwd=Path(__file__).resolve().parents[3],
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "tokenizer.json: " in done.stderr
