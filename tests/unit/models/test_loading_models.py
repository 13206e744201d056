"""Loading models: what is missing or does not fit is one line naming the setting."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from distillation.config import ModelReference
from distillation.errors import ModelError
from distillation.models.load import (
    configured_output_rows,
    load_model,
    load_tokenizer,
    model_digest,
    start_token_id,
)


def reference(path: Path) -> ModelReference:
    return ModelReference(path=str(path))


def test_a_whole_model_loads(tiny_student_dir: Path) -> None:
    model = load_model(reference(tiny_student_dir), "student", dtype="float32")
    assert not model.training
    assert configured_output_rows(reference(tiny_student_dir), "student") == 400
    assert start_token_id(load_tokenizer(reference(tiny_student_dir), "student")) == 0


def test_a_missing_directory(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"models\.teacher\.path = .*no such directory"):
        load_model(reference(tmp_path / "nowhere"), "teacher")


def test_a_directory_without_a_tokenizer(tmp_path: Path, tiny_student_dir: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        shutil.copy(tiny_student_dir / name, tmp_path / name)
    with pytest.raises(ModelError, match=r"models\.student\.path = .*tokenizer") as caught:
        load_tokenizer(reference(tmp_path), "student")
    assert "\n" not in str(caught.value)


def test_dropout_of_a_tokenizer_is_taken_off(
    tmp_path: Path, tiny_student_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = tmp_path / "student"
    shutil.copytree(tiny_student_dir, directory)
    content = json.loads((directory / "tokenizer.json").read_text())
    content["model"]["dropout"] = 0.5
    (directory / "tokenizer.json").write_text(json.dumps(content))
    text = "Return a new list containing all items from the iterable."
    tokenizer = load_tokenizer(reference(directory), "student")
    expected = load_tokenizer(reference(tiny_student_dir), "student")(text)["input_ids"]
    assert [tokenizer(text)["input_ids"] for _ in range(10)] == [expected] * 10
    assert "dropout" in caplog.text
    tokenizer.save_pretrained(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "tokenizer.json").read_text())["model"]["dropout"] is None


def test_weights_that_do_not_fit(tmp_path: Path, tiny_student_dir: Path) -> None:
    directory = tmp_path / "student"
    shutil.copytree(tiny_student_dir, directory)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(ModelError, match=r"models\.student\.path = .*do not fit config\.json"):
        load_model(reference(directory), "student")


def test_pickled_weights_are_not_read(tmp_path: Path, tiny_student_dir: Path) -> None:
    import torch

    directory = tmp_path / "student"
    shutil.copytree(tiny_student_dir, directory, ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save({"model.embed_tokens.weight": torch.zeros(400, 24)}, directory / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"models\.student\.path"):
        load_model(reference(directory), "student")


def test_the_digest_follows_the_content(tmp_path: Path, tiny_student_dir: Path) -> None:
    directory = tmp_path / "student"
    shutil.copytree(tiny_student_dir, directory)
    first = model_digest(reference(directory), "student")
    assert first == model_digest(reference(tiny_student_dir), "student")
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"rope_theta": 1.0}))
    assert model_digest(reference(directory), "student") != first


def test_a_tokenizer_class_that_ignores_its_file_is_not_followed(
    tiny_student_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """SmolLM names GPT2Tokenizer, which forgets that SmolLM splits digits."""
    folder = shutil.copytree(tiny_student_dir, tmp_path / "student")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "tokenizer_class": "GPT2Tokenizer"}))
    text = "item 12345 of 678\n"
    expected = load_tokenizer(ModelReference(path=str(tiny_student_dir)), "student")
    wrong = AutoTokenizer.from_pretrained(folder)
    assert wrong.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text) != (
        expected.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)
    ), "the library follows the file now: the remedy can go"
    found = load_tokenizer(ModelReference(path=str(folder)), "student")
    assert "does not cut text as tokenizer.json says" in caplog.text
    assert found(text).input_ids == expected(text).input_ids
    found.save_pretrained(tmp_path / "saved")
    assert AutoTokenizer.from_pretrained(tmp_path / "saved")(text).input_ids == expected(text).input_ids
    assert (found.bos_token, found.eos_token) == (expected.bos_token, expected.eos_token)


def sentencepiece_file(kind: int) -> bytes:
    """A model of unigrams (1) or pairs (2) with one token a letter."""
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()
    tokens = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)]
    tokens += [(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)] if kind == 2 else []
    tokens += [(letter, -float(n), 1) for n, letter in enumerate("\u2581abcdefghijklmnopqrstuvwxyz")]
    for piece, score, type_ in tokens:
        model.pieces.add(piece=piece, score=score, type=type_)
    model.trainer_spec.model_type = kind
    model.trainer_spec.byte_fallback = kind == 2
    model.normalizer_spec.name = "identity"
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("name", "tokenizer_class", "kind"),
    [
        ("tokenizer.model", "LlamaTokenizer", 2),
        ("spiece.model", "T5Tokenizer", 1),
    ],
)
def test_a_sentencepiece_file_alone_is_a_tokenizer(
    tmp_path: Path, tiny_student_dir: Path, name: str, tokenizer_class: str, kind: int
) -> None:
    shutil.copy(tiny_student_dir / "config.json", tmp_path / "config.json")
    settings = {"tokenizer_class": tokenizer_class, "bos_token": "<s>", "eos_token": "</s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings | {"unk_token": "<unk>"}))
    (tmp_path / name).write_bytes(sentencepiece_file(kind))
    tokenizer = load_tokenizer(reference(tmp_path), "student")
    ids = tokenizer("ab c", add_special_tokens=False).input_ids
    assert "".join(tokenizer.convert_ids_to_tokens(ids)).strip("\u2581") == "ab\u2581c"
    (tmp_path / name).write_bytes(b"no such model")
    with pytest.raises(ModelError, match="SentencePiece") as caught:
        load_tokenizer(reference(tmp_path), "student")
    assert "\n" not in str(caught.value)


def test_the_digest_covers_every_file_that_may_be_loaded_and_no_place(
    tmp_path: Path, tiny_student_dir: Path
) -> None:
    folder = Path(shutil.copytree(tiny_student_dir, tmp_path / "model"))
    digest = model_digest(reference(folder), "student")
    assert digest == model_digest(reference(tiny_student_dir), "student")
    (folder / "README.md").write_text("new")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "stamp.json").write_text("{}")
    os.mkfifo(folder / "pipe.json")
    assert model_digest(reference(folder), "student") == digest
    (tmp_path / "outside.safetensors").write_bytes(b"1")
    found = {digest}
    for name, content in (
        ("model.safetensors.index.json", json.dumps({"weight_map": {"a": "../outside.safetensors", "b": 5}})),
        ("vocab.tiktoken", "a"),
        ("modeling.py", "1"),
        ("deep/nested/shard.safetensors", "a"),
        ("../outside.safetensors", "2"),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
        found.add(model_digest(reference(folder), "student"))
    assert len(found) == 6
