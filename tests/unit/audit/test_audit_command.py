"""The audit's command line: directories, folders, the hub as served from loopback, and users' mistakes."""

from __future__ import annotations

import gzip
import importlib.util
import json
import lzma
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from alignment_reference import END, SENTENCES, trained_byte_level
from transformers import PreTrainedTokenizerFast

from distillation.audit.__main__ import load_for_audit, main, read_texts
from distillation.audit.audit import TokenizerAudit
from distillation.errors import AlignmentError, ModelError
from distillation.tokenizers.token_bytes import tokens_as_bytes

ROOT = Path(__file__).resolve().parents[3]
HUB_SERVER = ROOT / "tests" / "unit" / "corpus" / "hub_server.py"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Directories of two tokenizers; the teacher's has a config.json, and weights that cannot be read."""
    paths = []
    for name, size in (("teacher", 420), ("student", 310)):
        folder = tmp_path_factory.mktemp(name)
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=trained_byte_level(size), eos_token=END)
        tokenizer.save_pretrained(folder)
        paths.append(str(folder))
    Path(paths[0], "config.json").write_text(json.dumps({"vocab_size": 448}), encoding="utf-8")
    Path(paths[0], "model.safetensors").write_bytes(b"no weights")
    return paths[0], paths[1]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "text.txt"
    file.write_text("\n".join(SENTENCES * 200), encoding="utf-8")
    return file


def run(*arguments: str, program: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the audit as a user does, in a process of its own."""
    start = ["-c", program] if program else ["-m", "distillation.audit"]
    return subprocess.run(
        [sys.executable, *start, *arguments], cwd=ROOT, env=os.environ | environment, capture_output=True,
        text=True, timeout=120, check=False,
    )  # fmt: skip


def parsed(output: str) -> TokenizerAudit:
    return TokenizerAudit.model_validate_json(output)


def test_json(saved: tuple[str, str], text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*saved, str(text), "--json"]) == 0
    audit = parsed(capsys.readouterr().out)
    assert audit.corpus is not None
    assert audit.corpus.num_texts > 1
    assert audit.corpus.num_bytes == len(text.read_bytes())
    assert audit.corpus.window_length is None
    assert (audit.teacher.num_rows, audit.teacher.num_rows_without_token) == (448, 28)  # from config.json
    assert (audit.student.num_rows, audit.student.num_rows_without_token) == (310, 0)
    assert main([*saved, str(text), "--json", "--window-length", "3"]) == 0
    windows = parsed(capsys.readouterr().out).corpus
    assert windows is not None
    assert windows.window_length == 3
    assert windows.coverage["prefix"].share_with_target < audit.corpus.coverage["prefix"].share_with_target


def test_tables_fit_eighty_columns(
    saved: tuple[str, str], text: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main([*saved, str(text)]) == 0
    output = capsys.readouterr().out
    assert max(map(len, output.split("\n"))) <= 80
    for words in ("ids that mean the same", "white space", "Latin", "begins inside a teacher token", "Use `"):
        assert words in output
    row = next(line for line in output.split("\n") if line.strip().startswith("all "))
    assert len(re.findall(r"[\d.]+ %", row)) == 4  # no column was squeezed out
    assert "…" not in output.replace(SENTENCES[3], "")
    assert main([*saved]) == 0
    assert "give texts" in capsys.readouterr().out


def test_no_pytorch(saved: tuple[str, str], text: Path) -> None:
    program = (
        "import sys; from distillation.audit.__main__ import main; code = main(sys.argv[1:]);"
        "heavy = {'torch', 'transformers', 'matplotlib', 'datasets'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else code)"
    )
    for more in (["--json"], []):
        done = run(*saved, str(text), *more, program=program)
        assert done.returncode == 0, done.stderr


def test_page(saved: tuple[str, str], text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "audit.html"
    assert main([*saved, str(text), "--json", "--html", str(page)]) == 0
    audit = parsed(capsys.readouterr().out)
    content = page.read_text(encoding="utf-8")
    assert audit.advice.replace("`", "").replace("'", "&#39;") in content
    assert content.count("<svg") == 6
    assert main([*saved, str(text), "--html", str(tmp_path / "no" / "audit.html")]) == 1
    assert "name a file in an existing folder" in capsys.readouterr().err


def test_folders_and_lines_of_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "folder"
    (folder / "inner" / ".hidden").mkdir(parents=True)
    (folder / "b.py").write_text("def f():\n    pass\n")
    (folder / "inner" / "a.txt").write_bytes("\ufeffone\r\ntwo\n".encode())
    (folder / "inner" / ".hidden" / "c.txt").write_text("not this")
    (folder / "weights.safetensors").write_text("not this")
    (folder / "broken.txt").write_bytes(b"\xff\xfe\x00")
    lines = [{"text": "the text", "other": "not this"}, {"question": "Why?", "answer": "So.", "id": 3}]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    expected = ["def f():\n    pass\n", "one\ntwo\n", "the text", "Why?\nSo."]
    assert list(read_texts([folder], 1 << 20)) == expected
    captured = capsys.readouterr().err
    assert captured.startswith(f"left out {folder / 'broken.txt'}")
    assert captured.count("\n") == 1


def test_what_trains_can_be_audited(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Conversations, parquet, compressed files: the forms that a corpus may have."""
    talk = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Why?"},
            {"role": "assistant", "content": "So."}]  # fmt: skip
    (tmp_path / "a.jsonl").write_text(json.dumps({"id": 1, "messages": talk}) + "\n")
    pq.write_table(pa.table({"text": ["one", "two"], "n": [1, 2]}), tmp_path / "b.parquet")
    pq.write_table(pa.table({"talk": [talk]}), tmp_path / "c.parquet")
    (tmp_path / "d.jsonl.gz").write_bytes(gzip.compress(b'{"text": "packed row"}\n'))
    (tmp_path / "e.txt.gz").write_bytes(gzip.compress("packed naïve".encode()))
    (tmp_path / "f.md.xz").write_bytes(lzma.compress(b"packed more"))
    expected = ["Why?\n\nSo.", "one", "two", "Why?\n\nSo.", "packed row", "packed naïve", "packed more"]
    assert list(read_texts([tmp_path], 1 << 20)) == expected
    assert list(read_texts(sorted(tmp_path.iterdir()), 1 << 20)) == expected
    assert capsys.readouterr().err == ""


def _nested(file: Path) -> None:
    file.write_text("[" * 100_000)


def _no_parquet(file: Path) -> None:
    file.write_bytes(b"PAR1")


def _cut_off(file: Path) -> None:
    file.write_bytes(gzip.compress(b"text" * 1000)[:-9])


def _bomb(file: Path) -> None:
    """A line without an end: 100 MB of it in 100 kB."""
    file.write_bytes(gzip.compress(b"a" * 100_000_000))


def _device(file: Path) -> None:
    file.symlink_to("/dev/zero")


@pytest.mark.parametrize(
    ("name", "make"),
    [("a.jsonl", _nested), ("a.parquet", _no_parquet), ("a.txt.gz", _cut_off), ("a.txt.gz", _bomb),
     ("a.txt", os.mkfifo), ("a.txt", _device)],
)  # fmt: skip
def test_hostile_texts_are_left_out_or_one_line(
    tmp_path: Path, name: str, make: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / name)
    (tmp_path / "good.txt").write_text("fine")
    assert "fine" in list(read_texts([tmp_path], 1 << 20))
    assert capsys.readouterr().err.count("\n") <= 1
    with pytest.raises(AlignmentError, match=re.escape(f"text file {tmp_path / name}: ")) as caught:
        list(read_texts([tmp_path / name], 1 << 20))
    assert "\n" not in str(caught.value)


def test_hostile_settings_of_a_tokenizer(saved: tuple[str, str], tmp_path: Path) -> None:
    shutil.copy(Path(saved[1], "tokenizer.json"), tmp_path)
    for wrong in ({"added_tokens_decoder": {"0": {"special": True}}}, {"added_tokens_decoder": [1]}):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(wrong))
        with pytest.raises(ModelError, match=r"tokenizer_config\.json: "):
            load_for_audit(str(tmp_path), "student")
    for odd in ({"eos_token": {"a": 1}}, {"eos_token": [1]}, {"eos_token": {"content": 5}}):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(odd))
        load_for_audit(str(tmp_path), "student")


def test_too_much_text_is_cut_in_every_file_alike(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {"a": 400_000, "b": 100_000, "c": 20_000}
    for name, size in sizes.items():
        (tmp_path / f"{name}.txt").write_text((name * 99 + "\n") * (size // 100))
    kept = "".join(read_texts([tmp_path], 260_000))
    assert len(kept) == pytest.approx(260_000, abs=3 * 8_100)
    for name, size in sizes.items():
        assert kept.count(name) == pytest.approx(0.99 * size / 2, abs=8_100)
    assert "reading 50% of 0.5 MB" in capsys.readouterr().err
    assert len("".join(read_texts([tmp_path], 520_000))) == 520_000


def test_it_reads_tokenizers_as_transformers_does(shared_dir: Path) -> None:
    from transformers import AutoTokenizer

    for name in ("qwen2", "smollm", "gpt2", "gpt-neox-20b"):
        folder = str(shared_dir / "tokenizers" / name)
        ours, num_rows = load_for_audit(folder, "teacher")
        theirs = AutoTokenizer.from_pretrained(folder)
        assert num_rows is None
        one, other = tokens_as_bytes(ours), tokens_as_bytes(theirs)
        assert (one.table, one.special_ids) == (other.table, other.special_ids)
        assert ours.encode("a  b 123\n\n").ids == theirs.encode("a  b 123\n\n", add_special_tokens=False)


def test_special_tokens_of_the_settings_are_special(saved: tuple[str, str], tmp_path: Path) -> None:
    """Some tokenizer.json files leave it to tokenizer_config.json to say what is special."""
    content = json.loads(Path(saved[1], "tokenizer.json").read_text(encoding="utf-8"))
    content["added_tokens"][0]["special"] = False
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    settings = {"eos_token": END, "pad_token": {"content": "<absent>"}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    tokens = tokens_as_bytes(load_for_audit(str(tmp_path), "student")[0])
    assert tokens.special_strings == {END: 0}
    assert len(tokens.table) == 310  # a name without an id adds no row
    (tmp_path / "tokenizer_config.json").unlink()
    assert tokens_as_bytes(load_for_audit(str(tmp_path), "student")[0]).special_strings == {}


def test_the_embedded_pair(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sample", "sample", "--json"]) == 0
    audit = parsed(capsys.readouterr().out)
    assert audit.teacher.num_rows > audit.student.num_rows


def test_mistakes_are_one_line(
    saved: tuple[str, str], tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    binary = tmp_path / "binary.txt"
    binary.write_bytes(b"\xff\xfe\x00")
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "a"}\n{"id": 3}\n')
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "tokenizer.json").write_text("{")
    few_rows = tmp_path / "few_rows"
    few_rows.mkdir()
    (few_rows / "tokenizer.json").write_bytes(Path(saved[0], "tokenizer.json").read_bytes())
    (few_rows / "config.json").write_text('{"text_config": {"vocab_size": 5}, "vocab_size": 900}')
    (tmp_path / "nothing").mkdir()
    for arguments, words in (
        ([saved[0], str(tmp_path / "nowhere")], "neither a directory nor a name on the hub"),
        ([saved[0], "no/such"], "HF_HUB_OFFLINE is set"),
        ([saved[0], str(damaged)], "tokenizer.json"),
        ([saved[0], str(tmp_path / "nothing")], "tokenizer"),
        ([str(few_rows), saved[1]], "the output layer has 5 rows"),
        ([*saved, str(tmp_path / "no.txt")], "No such file"),
        ([*saved, str(binary)], "give UTF-8 text"),
        ([*saved, str(rows)], "line 2 has no text"),
        ([*saved, str(empty)], "all empty"),
        ([*saved, str(tmp_path / "nothing")], "no file of text"),
    ):
        assert main(arguments) == 1, arguments
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.count("\n") == 1, captured.err
        assert words in captured.err


def hub_module() -> Any:
    """The data set hub of the corpus tests, taught to answer for models as well."""
    specification = importlib.util.spec_from_file_location("hub_server", HUB_SERVER)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)

    class ModelHandler(module._Handler):
        def _answer(self, *, has_body: bool) -> None:
            self.path = re.sub(r"^/api/models/", "/api/datasets/", self.path)
            self.path = re.sub(r"^/([\w.-]+/[\w.-]+/resolve/)", r"/datasets/\1", self.path)
            super()._answer(has_body=has_body)

    module.ModelHandler = ModelHandler
    return module


def test_names_on_the_hub(saved: tuple[str, str], text: Path, tmp_path: Path) -> None:
    repositories = {
        f"owner/{role}": {file.name: file.read_bytes() for file in Path(folder).iterdir()}
        for role, folder in zip(("teacher", "student"), saved, strict=True)
    }
    assert "model.safetensors" in repositories["owner/teacher"]
    module = hub_module()
    with module.serving(repositories) as server:
        server.RequestHandlerClass = module.ModelHandler
        hub = {"HF_ENDPOINT": server.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
        local = run(*saved, str(text), "--json")
        remote = run("owner/teacher", "owner/student", str(text), "--json", **hub)
        assert remote.returncode == 0, remote.stderr
        assert remote.stdout == local.stdout
        assert parsed(remote.stdout).teacher.num_rows == 448
        asked = {line.rsplit("/", 1)[-1].strip() for line in server.requests}
        assert {"tokenizer.json", "config.json"} <= asked
        assert not any("safetensors" in line for line in server.requests)
        wrong = run("owner/teacher", "owner/absent", **hub)
    assert_one_line(wrong, "has no public model of this name")
    cached = run("owner/teacher", "owner/student", str(text), "--json", **hub)  # the server is gone
    assert cached.stdout == local.stdout


@pytest.mark.parametrize("is_silent", [False, True])
def test_an_unreachable_hub_is_one_line(is_silent: bool, tmp_path: Path) -> None:
    with socket.socket() as port:
        port.bind(("127.0.0.1", 0))
        if is_silent:
            port.listen()
        endpoint = f"http://127.0.0.1:{port.getsockname()[1]}"
        done = run("owner/teacher", "owner/student", HF_ENDPOINT=endpoint, HF_HOME=str(tmp_path),
                   HF_HUB_OFFLINE="0")  # fmt: skip
    assert_one_line(done, "does not answer within" if is_silent else "cannot be reached")


def assert_one_line(done: subprocess.CompletedProcess[str], words: str) -> None:
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    assert words in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
