"""The hub with its real clients: out of reach, and against a server on loopback that speaks its language."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import random
import socket
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distillation.config import HUB_PRESETS, CorpusSettings
from distillation.corpus.sources.base import iterate_source
from distillation.errors import CorpusError
from distillation.hub import HubReach

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = """
import json, sys, time
import distillation.corpus.sources.hub as hub
from distillation.config import CorpusSettings
from distillation.corpus.loading import _read_documents
from distillation.corpus.sources.base import SourceNotes
from distillation.errors import CorpusError
from distillation.hub import HubReach

hub.DOWNLOAD_WHOLE_BYTES = 500_000
for job in json.loads(sys.argv[1]):
    settings = CorpusSettings(**job)
    start = time.perf_counter()
    try:
        intake = _read_documents(settings.sources[0], settings, SourceNotes(HubReach(4.0)))
        documents = intake.train.finish()
        answer = {"num_read": intake.num_read, "texts": [one.text for one in documents]}
        answer["num_conversations"] = sum(one.messages is not None for one in documents)
    except CorpusError as error:
        answer = {"error": str(error)}
    print("ANSWER " + json.dumps(answer | {"seconds": time.perf_counter() - start}), flush=True)
"""
README = b"""---
configs:
- config_name: wikitext-103-raw-v1
  data_files:
  - split: train
    path: wikitext-103-raw-v1/train-*
- config_name: wikitext-2-raw-v1
  data_files:
  - split: train
    path: wikitext-2-raw-v1/train-*
---
"""


def _server_module():
    specification = importlib.util.spec_from_file_location(
        "hub_server", Path(__file__).with_name("hub_server.py")
    )
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def _parquet(rows: list[str], **options) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"text": rows}), buffer, **options)
    return buffer.getvalue()


def _talks(count: int) -> bytes:
    generator = random.Random(0)
    words = [f"w{i}" for i in range(3000)]
    roles = ("user", "assistant")
    talks = [
        [{"role": role, "content": " ".join(generator.choices(words, k=50))} for role in roles]
        for _ in range(count)
    ]
    buffer = io.BytesIO()
    pq.write_table(
        pa.table({"talk": talks, "id": range(count)}), buffer, row_group_size=100, compression="none"
    )
    return buffer.getvalue()


def _repositories() -> dict[str, dict[str, bytes]]:
    generator = random.Random(0)
    words = [f"w{i}" for i in range(3000)]
    rows = [""]
    for number in range(80):
        body = " ".join(generator.choices(words, k=100))
        rows += [f" = Title {number} = \n", "", " = = Section = = \n", "", f" {body} \n", ""]
    pages = [" ".join(generator.choices(words, k=600)) for _ in range(1000)]
    shard = HUB_PRESETS["openwebtext"]["data_files"][0]
    return {
        "Salesforce/wikitext": {
            "README.md": README,
            "wikitext-2-raw-v1/train-00000-of-00001.parquet": _parquet(rows),
            "wikitext-103-raw-v1/train-00000-of-00001.parquet": _parquet(["not this one"]),
        },
        "Skylion007/openwebtext": {
            "README.md": b"---\nlicense: cc0-1.0\n---\n",
            shard: _parquet(pages, row_group_size=50, compression="none"),
            shard.replace("00000-of", "00001-of"): _parquet(["not this one"]),
        },
        "some/talks": {"README.md": b"", "small.parquet": _talks(300), "large.parquet": _talks(3000)},
    }


def _run(endpoint: str, home: Path, jobs: list[dict], **environment: str) -> list[dict]:
    variables = (
        os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"} | environment
    )
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(jobs)],
        env=variables, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    lines = [line for line in result.stdout.splitlines() if line.startswith("ANSWER ")]
    return [json.loads(line.removeprefix("ANSWER ")) for line in lines]


@pytest.fixture(scope="module")
def answers(tmp_path_factory) -> dict:
    """Several sources, read by a fresh process: the clients read HF_ENDPOINT when they are imported."""
    home = tmp_path_factory.mktemp("hub")
    wikitext = {"kind": "hub", "path": "Salesforce/wikitext", "name": "wikitext-2-raw-v1"}
    talks = {"kind": "hub", "path": "some/talks", "messages_column": "talk"}
    limits = {"max_train_bytes": 60_000, "max_held_out_bytes": 3_000}
    talk_jobs = [
        {"sources": [talks | {"data_files": ["small.parquet"]}]},
        {"sources": [talks | {"data_files": ["large.parquet"]}], **limits},
    ]
    jobs = [
        {"sources": ["wikitext"], "held_out_share": 0.1},
        {"sources": ["openwebtext"], "max_train_bytes": 150_000, "max_held_out_bytes": 7_000},
        {"sources": [{"kind": "hub", "path": "no/such"}]},
        {"sources": [wikitext | {"name": "wikitext-9"}]},
        {"sources": [wikitext | {"split": "dev"}]},
        {"sources": [wikitext | {"text_column": "body"}]},
        {"sources": [wikitext | {"revision": "v9"}]},
    ]
    module = _server_module()
    repositories = _repositories()
    commits = {name.partition("/")[0]: HUB_PRESETS[key]["revision"]
               for key, name in (("wikitext", "Salesforce/"), ("openwebtext", "Skylion007/"))}  # fmt: skip
    with module.serving(repositories, commits=commits) as server:
        online = _run(server.endpoint, home, jobs)
        requests, num_bytes = list(server.requests), server.num_bytes_sent
        talked = _run(server.endpoint, home, talk_jobs)
    pinned_elsewhere = {"sources": [wikitext | {"revision": "0" * 40}]}
    offline = _run(server.endpoint, home, [jobs[0], jobs[1], pinned_elsewhere], HF_HUB_OFFLINE="1")
    return {
        "online": online,
        "offline": offline,
        "talked": talked,
        "requests": requests,
        "num_bytes": num_bytes,
    }


def test_wikitext_preset(answers):
    answer = answers["online"][0]
    assert answer["num_read"] == 80  # articles, not lines
    assert all(text.startswith(" = Title ") and " = = Section = = " in text for text in answer["texts"])
    assert any(f"Salesforce/wikitext/resolve/{HUB_PRESETS['wikitext']['revision']}/wikitext-2-raw-v1" in line
               for line in answers["requests"])  # fmt: skip


def test_openwebtext_preset_fetches_only_what_is_used(answers):
    answer = answers["online"][1]
    assert 0.9 * 150_000 < sum(map(len, answer["texts"])) <= 150_000
    fetched = [line for line in answers["requests"] if "openwebtext/resolve" in line and ".parquet" in line]
    assert fetched
    assert all("train-00000-of-00080" in line for line in fetched)
    shard = len(_repositories()["Skylion007/openwebtext"][HUB_PRESETS["openwebtext"]["data_files"][0]])
    assert answers["num_bytes"] < 0.5 * shard
    assert not any("wikitext-103-raw-v1/train" in line for line in answers["requests"])


def test_conversations_downloaded_and_streamed(answers):
    small, large = answers["talked"]
    assert small["num_read"] == 300
    assert large["num_read"] < 1000
    for answer in (small, large):
        assert all(text.count("\n\n") == 1 and len(text.split()) == 100 for text in answer["texts"])
        assert answer["num_conversations"] == len(answer["texts"]) > 100


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (2, "dataset cannot be loaded from the hub (404"),
        (3, "BuilderConfig 'wikitext-9' not found. Available: ['wikitext-103-raw-v1', 'wikitext-2-raw-v1']"),
        (4, "no split = 'dev'; the splits are: train"),
        (5, "no column text_column = 'body'; the columns are: text"),
        (6, "Revision 'v9' doesn't exist"),
    ],
)
def test_wrong_setting_is_one_quick_line(answers, index, message):
    answer = answers["online"][index]
    assert message in answer["error"]
    assert "\n" not in answer["error"]
    assert answer["seconds"] < 5


def test_offline_reads_the_cache_and_never_another_revision(answers):
    cached, streamed, elsewhere = answers["offline"]
    assert cached["texts"] == answers["online"][0]["texts"]
    assert "HF_HUB_OFFLINE is set" in streamed["error"]
    assert "another cached one" in elsewhere["error"]
    assert max(streamed["seconds"], elsewhere["seconds"]) < 5


@pytest.fixture
def online(monkeypatch):
    """The clients as if HF_HUB_OFFLINE were not set, with an endpoint to choose."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return lambda endpoint: monkeypatch.setattr(constants, "ENDPOINT", endpoint)


def _failure(timeout: float) -> tuple[str, float]:
    settings = CorpusSettings(sources=["wikitext"], hub_timeout=timeout)
    start = time.perf_counter()
    with pytest.raises(CorpusError) as raised:
        next(iterate_source(settings.sources[0], settings))
    return str(raised.value), time.perf_counter() - start


def test_closed_port_fails_at_once(online):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        online(f"http://127.0.0.1:{free.getsockname()[1]}")
        message, seconds = _failure(4.0)
    assert "does not answer" in message
    assert "HF_ENDPOINT" in message
    assert seconds < 4.5


def test_silent_hub_fails_within_the_timeout(online):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        online(f"http://127.0.0.1:{silent.getsockname()[1]}")
        message, seconds = _failure(0.5)
    assert "does not answer" in message
    assert seconds < 2.0


def test_hub_out_of_order(online):
    with _server_module().serving({}, status=503) as server:
        online(server.endpoint)
        message, _ = _failure(4.0)
    assert "status 503" in message


def test_hub_is_asked_once_for_several_sources(online):
    with _server_module().serving({}, status=503) as server:
        online(server.endpoint)
        reach = HubReach(4.0)
        assert reach.why_unreachable() == reach.why_unreachable()
    assert server.requests.count("HEAD /") == 1
