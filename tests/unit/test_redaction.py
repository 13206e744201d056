"""The gate for text that leaves: what is struck out, what passes, and that every way out goes through it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from distillation.config import Settings, parse_settings
from distillation.errors import MAX_MESSAGE, JobError, SettingsError, one_line
from distillation.redaction import scrub, scrub_all, secret_in

TOKEN = "hf_" + "aB3dE5gH7jK9mN1pQ3rS"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("http://s3cr3t@host:5000/x", "http://***@host:5000/x"),
        ("at https://anna:hunter2@host.", "at https://***@host."),
        ("http://anna:hun@ter2@host", "http://***@host"),
        ("http://anna:hun/ter2@host/x", "http://***@host/x"),
        ("http://anna:@host", "http://***@host"),
        ("http://host?token=abc&page=2", "http://host?token=***&page=2"),
        ("http://host?page=2&amp;X-Amz-Signature=abc", "http://host?page=2&amp;X-Amz-Signature=***"),
        ("api_key='abc123def456'", "api_key='***'"),
        ("{&#34;hub_token&#34;: &#34;abc123def456&#34;}", "{&#34;hub_token&#34;: &#34;***&#34;}"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        (f"login {TOKEN}, please", "login ***, please"),
        ("key -----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----", "key ***"),
    ],
)
def test_secrets_are_struck_out_once_and_for_all(text: str, left: str) -> None:
    assert scrub(text) == left
    assert scrub(left) == left
    assert secret_in(text)
    assert secret_in(left) is None


@pytest.mark.parametrize(
    "text",
    [
        "http://localhost:5000/a@b",
        "http://localhost:5000",
        "sqlite:////home/me@work/mlflow.db",
        "hf://datasets/owner/name@main/data",
        "git+ssh://git@github.com/owner/name",
        "def connect(host, password=None, token='<pad>'): ...",
        "Salesforce/wikitext b08601e04326c79dfdd32d625aee71d232d685c3",
        "eos_token = '</s>', num_tokens=1234567890123",
        "Basic functionality; the Bearer of the ring",
        "me@example.org",
    ],
)
def test_ordinary_text_passes(text: str) -> None:
    assert scrub(text) == text
    assert secret_in(text) is None


def test_values_of_the_environment_are_struck_out_however_they_are_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "p&ss <word>")
    monkeypatch.setenv("KAGGLE_KEY", "0123456789abcdef")
    monkeypatch.setenv("DATABASE_PASSWORD", "postgres")
    assert scrub("p&ss <word> p&amp;ss &lt;word&gt; p%26ss%20%3Cword%3E") == "*** *** ***"
    assert scrub_all({"a": ["0123456789abcdef", 3, None]}) == {"a": ["***", 3, None]}
    assert secret_in("0123456789abcdef") == "the value of the environment variable KAGGLE_KEY"
    assert secret_in("postgresql://db/postgres") is None


@pytest.mark.parametrize("evil", ["://", "?token", "token='", "://a:", "-----BEGIN PRIVATE KEY-----", "eyJ"])
def test_no_text_takes_long(evil: str) -> None:
    begin = time.monotonic()
    scrub(evil * 50_000)
    assert time.monotonic() - begin < 20


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        ({"evaluation": {"prompts": ["Say", "open http://anna:hunter2@host"]}}, "evaluation.prompts.1"),
        ({"tracking": {"uri": "http://hunter2@localhost:5000"}}, "tracking.uri"),
        ({"tracking": {"uri": "http://localhost:5000?token=hunter2"}}, "tracking.uri"),
        ({"tracking": {"experiment": TOKEN}}, "tracking.experiment"),
        ({"tracking": {TOKEN: 1}}, "tracking"),
    ],
)
def test_a_setting_with_a_secret_is_refused_before_anything_stores_it(
    raw: dict[str, object], name: str
) -> None:
    with pytest.raises(SettingsError, match=rf"^setting {name} = .*environment") as info:
        parse_settings(raw)
    assert "hunter2" not in str(info.value)
    assert TOKEN not in str(info.value)


def test_settings_that_hold_themselves_are_refused() -> None:
    endless: dict[str, object] = {}
    endless["tracking"] = [endless]
    with pytest.raises(SettingsError, match="nested more than 32 deep"):
        parse_settings(endless)


@pytest.mark.parametrize("content", ["[" * 5000, "a: [", "\xff".encode("latin-1"), b"\x00"])
def test_a_file_of_settings_that_is_none_is_one_line(content: str | bytes, tmp_path: Path) -> None:
    from pipelines.parameters import read_parameters

    path = tmp_path / "settings.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(SettingsError, match=r"^file .*settings\.yaml: "):
        read_parameters(str(path))
    with pytest.raises(SettingsError, match="is no regular file"):
        read_parameters("/dev/zero")


def test_no_message_of_ours_holds_a_secret_or_has_no_end() -> None:
    error = JobError(f"http://hunter2@host refused {TOKEN}")
    assert str(error) == "http://***@host refused ***"
    assert one_line(ValueError(f"no\n{TOKEN}")) == "no ***"
    assert len(one_line(ValueError("x" * 10_000))) == MAX_MESSAGE
    assert len(str(JobError("x" * 10_000))) == MAX_MESSAGE


@pytest.mark.parametrize(
    "raw",
    [
        {"k" * 5000: "v" * 5000},
        {"training": {"k" * 5000: 1}},
        {"training": {"batch_size": "v" * 5000}},
        {"corpus": {"sources": ["s" * 5000]}},
        {"models": {"teacher": {"path": "p" * 5000, "revision": "r", "trust_remote_code_of": "x"}}},
        {f"key{index}": 1 for index in range(1000)},
    ],
)
def test_a_message_stays_short_whatever_was_given(raw: dict[str, object]) -> None:
    with pytest.raises(SettingsError) as info:
        parse_settings(raw, Settings)
    assert len(str(info.value)) < 1000
