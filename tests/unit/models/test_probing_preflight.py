"""The preflight check, and whole probes, on saved pairs."""

from __future__ import annotations

import http.server
import json
import shutil
import socket
import threading
import time
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from distillation.config import ModelReference, Settings, parse_settings
from distillation.errors import CorpusError, DistillationError, ModelError, SettingsError
from distillation.models.inspect.preflight import check_hub, check_pair
from distillation.models.inspect.probe import probe_model, probe_page, probe_table


def settings_for(teacher: Path, student: Path, tmp_path: Path, **changes) -> Settings:
    raw = {
        "models": {"teacher": {"path": str(teacher)}, "student": {"path": str(student)}, "device": "cpu"},
        "training": {"output_dir": str(tmp_path / "jobs")},
    }
    return parse_settings(raw | changes)


@pytest.fixture
def broken(tiny_student_dir, tmp_path) -> Path:
    """A copy of the student to be damaged."""
    return Path(shutil.copytree(tiny_student_dir, tmp_path / "broken"))


def refusal(settings: Settings) -> str:
    with pytest.raises(DistillationError) as caught:
        check_pair(settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_sound_pair_passes_and_leaves_nothing_behind(
    tiny_teacher_dir, tiny_student_dir, tmp_path, capfd
) -> None:
    assert check_pair(settings_for(tiny_teacher_dir, tiny_student_dir, tmp_path)) == []
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_conversations_need_both_chat_templates(tiny_teacher_dir, broken, tmp_path) -> None:
    talks = tmp_path / "talks.jsonl"
    talks.write_text("")
    corpus = {
        "sources": [{"kind": "file", "path": str(talks), "messages_column": "messages"}, "documentation"]
    }
    message = refusal(settings_for(broken, tiny_teacher_dir, tmp_path, corpus=corpus))
    assert "models.teacher.path" in message
    assert "chat_template.jinja" in message
    (broken / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    assert check_pair(settings_for(broken, broken, tmp_path, corpus=corpus)) == []
    assert "models.student.path" in refusal(settings_for(broken, tiny_teacher_dir, tmp_path, corpus=corpus))


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_a_model_that_reads_ahead_is_refused(tiny_teacher_dir, broken, tmp_path, role) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    num_rows = json.loads((broken / "config.json").read_text())["vocab_size"]
    (broken / "model.safetensors").unlink()
    pair = {"teacher": tiny_teacher_dir, "student": tiny_teacher_dir, role: broken}
    for is_decoder in (True, False):
        config = AutoConfig.for_model("bert", vocab_size=num_rows, is_decoder=is_decoder, **sizes)
        AutoModelForCausalLM.from_config(config).save_pretrained(broken)
        settings = settings_for(pair["teacher"], pair["student"], tmp_path, evaluation={"max_length": 256})
        if is_decoder:
            check_pair(settings)
    message = refusal(settings)
    assert message.startswith(
        f"models.{role}.path = {str(broken)!r}: BertLMHeadModel reads the tokens that it"
    )
    assert "is_decoder" in message


def test_swapped_models_are_warned_about(tiny_teacher_dir, tiny_student_dir, tmp_path) -> None:
    (warning,) = check_pair(settings_for(tiny_student_dir, tiny_teacher_dir, tmp_path))
    assert "models.student.path" in warning
    assert "are the two swapped?" in warning


def test_too_large_a_batch_is_warned_about(tiny_teacher_dir, tiny_student_dir, tmp_path) -> None:
    training = {"output_dir": str(tmp_path), "batch_size": 10_000_000}
    (warning,) = check_pair(settings_for(tiny_teacher_dir, tiny_student_dir, tmp_path, training=training))
    assert warning.startswith("training.batch_size = 10000000 needs about")


@pytest.mark.parametrize("section", ["training", "evaluation"])
def test_a_window_longer_than_a_model_reads_is_refused(
    tiny_teacher_dir, tiny_student_dir, tmp_path, section
) -> None:
    settings = settings_for(tiny_teacher_dir, tiny_student_dir, tmp_path)
    section_settings = getattr(settings, section).model_copy(update={"max_length": 257})
    with pytest.raises(SettingsError, match=rf"{section}.max_length = 257: the teacher holds 256 positions"):
        check_pair(settings.model_copy(update={section: section_settings}))


def test_missing_directory(tiny_teacher_dir, tmp_path) -> None:
    message = refusal(settings_for(tiny_teacher_dir, tmp_path / "nowhere", tmp_path))
    assert message.startswith(f"models.student.path = '{tmp_path}/nowhere': no such directory")


@pytest.mark.parametrize(
    ("removed", "reason"),
    [
        ("config.json", "no config.json"),
        ("model.safetensors", "no model.safetensors"),
        ("tokenizer.json", "no tokenizer"),
    ],
)
def test_missing_files(tiny_teacher_dir, broken, tmp_path, removed, reason) -> None:
    (broken / removed).unlink()
    message = refusal(settings_for(tiny_teacher_dir, broken, tmp_path))
    assert "models.student.path = " in message
    assert reason in message


@pytest.mark.parametrize("content", ["{", "[]", '{"model_type": "no_such_type"}', "{}"])
def test_unreadable_configurations(tiny_teacher_dir, broken, tmp_path, content) -> None:
    (broken / "config.json").write_text(content)
    message = refusal(settings_for(tiny_teacher_dir, broken, tmp_path))
    assert "models.student.path = " in message
    assert "config.json" in message


def test_unreadable_tokenizer(tiny_teacher_dir, broken, tmp_path) -> None:
    (broken / "tokenizer.json").write_text("{}")
    assert "tokenizer" in refusal(settings_for(tiny_teacher_dir, broken, tmp_path))


def test_weights_of_another_configuration(tiny_teacher_dir, broken, tmp_path) -> None:
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(config | {"intermediate_size": 96}))
    message = refusal(settings_for(tiny_teacher_dir, broken, tmp_path))
    assert "model.layers.0.mlp.down_proj.weight has shape [24, 48] in the file and [24, 96]" in message


def test_a_tokenizer_of_another_model(tiny_teacher_dir, tiny_student_dir, broken, tmp_path) -> None:
    shutil.copy(tiny_teacher_dir / "tokenizer.json", broken / "tokenizer.json")
    message = refusal(settings_for(tiny_teacher_dir, broken, tmp_path))
    assert "200 of its tokenizer's 600 tokens have ids beyond the 400 rows of its output layer" in message


def test_unwritable_output(tiny_teacher_dir, tiny_student_dir, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    training = {"output_dir": str(tmp_path / "file" / "jobs")}
    with pytest.raises(SettingsError, match=r"training\.output_dir = .*is no folder"):
        check_pair(settings_for(tiny_teacher_dir, tiny_student_dir, tmp_path, training=training))
    if Path("/proc").is_dir():
        training = {"output_dir": "/proc/jobs"}
        with pytest.raises(SettingsError, match=r"training\.output_dir = '/proc/jobs': cannot write"):
            check_pair(settings_for(tiny_teacher_dir, tiny_student_dir, tmp_path, training=training))


def test_absent_sources(tiny_teacher_dir, tiny_student_dir, tmp_path) -> None:
    absent = {"kind": "file", "path": str(tmp_path / "absent.txt")}
    settings = settings_for(tiny_teacher_dir, tiny_student_dir, tmp_path, corpus={"sources": [absent]})
    with pytest.raises(CorpusError, match=r"corpus\.sources\.0\.path = .*absent\.txt' does not exist"):
        check_pair(settings)
    corpus = {"sources": [absent, "documentation"]}
    (warning,) = check_pair(settings_for(tiny_teacher_dir, tiny_student_dir, tmp_path, corpus=corpus))
    assert warning.endswith("does not exist: the next source will be used")


# --------------------------------------------------------------------------------------------- the hub


@pytest.fixture
def hub(monkeypatch):
    """Point the hub's client at a local server that knows two models; yields the function that starts it."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    files = {
        "a/safe": ["config.json", "model.safetensors", "tokenizer.json"],
        "a/pickle": ["pytorch_model.bin"],
    }

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            name = self.path.removeprefix("/api/models/").split("/revision")[0]
            known = name in files
            self.send_response(200 if known else 404)
            if not known:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.end_headers()
            siblings = [{"rfilename": file} for file in files.get(name, [])]
            self.wfile.write(json.dumps({"id": name, "siblings": siblings, "tags": []}).encode())

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield monkeypatch
    server.shutdown()
    server.server_close()


def test_hub_models(hub) -> None:
    (warning,) = check_hub(ModelReference(path="a/safe"), "teacher")
    assert "still on the hub" in warning
    with pytest.raises(ModelError, match=r"models\.teacher\.path = 'a/pickle': the hub has no safetensors"):
        check_hub(ModelReference(path="a/pickle"), "teacher")
    with pytest.raises(ModelError, match="no public model of this name"):
        check_hub(ModelReference(path="a/unknown"), "teacher")


def test_a_silent_hub_costs_a_second(hub) -> None:
    from huggingface_hub import constants

    with socket.create_server(("127.0.0.1", 0)) as silent:
        hub.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        begin = time.monotonic()
        with pytest.raises(ModelError, match=r"hub .*give a local directory or sample"):
            check_hub(ModelReference(path="a/safe"), "student", timeout=0.5)
        assert time.monotonic() - begin < 3.0


def test_offline_is_said(monkeypatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE"):
        check_hub(ModelReference(path="a/safe"), "student")


# ----------------------------------------------------------------------------------------- whole probes


def test_probes_of_the_pair(tiny_teacher_dir, tiny_student_dir, capfd) -> None:
    teacher = probe_model(ModelReference(path=str(tiny_teacher_dir)), "teacher", device="cpu")
    student = probe_model(ModelReference(path=str(tiny_student_dir)), "student", device="cpu")
    assert capfd.readouterr() == ("", "")
    assert (teacher.vocabulary.size, teacher.vocabulary.num_rows_without_token) == (600, 8)
    assert (student.vocabulary.digit_group, student.vocabulary.family) == (1, "byte_level_bpe")
    assert teacher.experts.sparse_layers == (1,)
    assert student.experts is None
    assert teacher.attention_chosen == student.attention_chosen == "sdpa"
    assert teacher.fits
    assert type(teacher).model_validate_json(teacher.model_dump_json()) == teacher
    table = probe_table([teacher, student])
    assert (len(table.columns), table.row_count) == (3, 18)
    page = probe_page([teacher, student])
    assert '<th scope="row">experts</th><td>2 of 4 in 1 of 2 layers</td><td>none</td>' in page


def test_the_page_escapes_what_users_name(tiny_student_dir, tmp_path) -> None:
    directory = shutil.copytree(tiny_student_dir, tmp_path / "<b>")
    probe = probe_model(ModelReference(path=str(directory)), "student", device="cpu")
    assert "<b>" not in probe_page([probe])
    assert "&lt;b&gt;" in probe_page([probe])


def test_an_attention_that_does_not_work_is_refused(tiny_student_dir) -> None:
    reference = ModelReference(path=str(tiny_student_dir), attention="flash_attention_2")
    with pytest.raises(
        ModelError, match=r"models\.student\.attention = 'flash_attention_2' does not work here"
    ):
        probe_model(reference, "student", device="cpu")


def test_a_probe_reads_no_weights(tiny_student_dir, tmp_path) -> None:
    directory = Path(shutil.copytree(tiny_student_dir, tmp_path / "light"))
    (directory / "model.safetensors").unlink()
    assert (
        probe_model(ModelReference(path=str(directory)), "student", device="cpu").architecture.num_layers == 2
    )


def test_a_tokenizer_wider_than_needed_only_warns(tiny_teacher_dir, tiny_student_dir, tmp_path) -> None:
    """An added token without a row: nothing in ordinary text produces it."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_student_dir)
    tokenizer.add_special_tokens({"pad_token": "<|padding|>"})
    directory = tmp_path / "wider"
    LlamaForCausalLM(LlamaConfig.from_pretrained(tiny_student_dir)).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    (warning,) = check_pair(settings_for(tiny_teacher_dir, directory, tmp_path))
    assert "1 added tokens have no row" in warning


def test_a_start_token_without_a_row_is_an_error(tiny_teacher_dir, tiny_student_dir, tmp_path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_student_dir)
    tokenizer.add_special_tokens({"bos_token": "<begin>"})
    directory = tmp_path / "wider"
    LlamaForCausalLM(LlamaConfig.from_pretrained(tiny_student_dir)).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    with pytest.raises(ModelError, match=r"start token '<begin>' has id 400, its output layer 400 rows"):
        check_pair(settings_for(tiny_teacher_dir, directory, tmp_path))
