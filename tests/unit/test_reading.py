"""Whatever a path turns out to be, reading it ends soon, in its content or in one line that names it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from distillation.errors import InputError
from distillation.reading import parse_yaml, read_bytes, read_json, read_text


def test_content_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": "\xc3\xa9"}')
    assert read_json(path) == {"a": "é"}
    assert read_text(path) == '{"a": "é"}'


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[1]", "must hold a JSON object, not list"),
        (b"{", "not JSON"),
        (b"\xff", "invalid UTF-8 at byte 0"),
        (b'{"a":' * 100_000, "nested too deep"),
        (b'{"a": ' + b"1" * 5000 + b"}", "not JSON"),  # more digits than Python turns into a number
    ],
)
def test_what_is_no_object_is_one_line(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=words) as error:
        read_json(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="no regular file"):
        read_bytes(tmp_path / "pipe")


@pytest.mark.parametrize("target", ["/dev/zero", ".", "loop", "absent"])
def test_links_to_what_is_no_file_are_refused(tmp_path: Path, target: str) -> None:
    (tmp_path / "loop").symlink_to(target)
    with pytest.raises(InputError, match="loop"):
        read_bytes(tmp_path / "loop")


def test_a_file_beyond_the_bound_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as stream:
        stream.truncate(2**40)  # sparse: nothing is on the disk
    with pytest.raises(InputError, match="larger than 1 MiB"):
        read_bytes(tmp_path / "large", max_bytes=2**20)


def test_a_process_without_utf8_says_how_to_have_it(tmp_path: Path) -> None:
    """A name that settings give in letters; one that the system gives is read as the bytes it is."""
    (tmp_path / "\u00fc.json").write_text("{}")
    program = (
        "import sys; from distillation.errors import InputError; from distillation.reading import read_json\n"
        "print(read_json(sys.argv[1]))\n"
        "try: read_json(sys.argv[2] + '/\\u00fc.json')\n"
        "except InputError as error: print(ascii(str(error)))"
    )
    environment = os.environ | {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "\u00fc.json"), str(tmp_path)],
        env=environment, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    first, second = done.stdout.splitlines()
    assert first == "{}"
    assert "set PYTHONUTF8=1" in second


def test_a_name_with_a_nul_is_one_line() -> None:
    with pytest.raises(InputError, match="is no path"):
        read_bytes("a\0b")


def test_a_large_bound_takes_no_memory(tmp_path: Path) -> None:
    import tracemalloc

    path = tmp_path / "small"
    path.write_bytes(b"12345")
    tracemalloc.start()
    try:
        assert read_bytes(path, max_bytes=2**31) == b"12345"
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()


def test_yaml_is_read_as_text_where_json_has_no_such_thing() -> None:
    read = parse_yaml(
        "{revision: 2024-07-16, none: 2024-13-45, at: 2024-07-16 10:00:00, n: 5, x: 1.5, no: null}", "x"
    )
    assert read == {
        "revision": "2024-07-16",
        "none": "2024-13-45",
        "at": "2024-07-16 10:00:00",
        "n": 5,
        "x": 1.5,
        False: None,
    }
    assert yaml.safe_load("2024-07-16") != "2024-07-16"  # the library's own loader is left as it was
    assert parse_yaml("", "x") is None


def test_what_an_alias_repeats_is_a_copy() -> None:
    read = parse_yaml("{a: &one {path: x}, b: *one}", "x")
    read["a"]["path"] = "y"
    assert read["b"] == {"path": "x"}
    assert parse_yaml("{a: &one {p: 1, q: 2}, b: {<<: *one, q: 3}}", "x")["b"] == {"p": 1, "q": 3}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "not valid YAML"),
        ("[" * 900, "nested too deep"),
        ("a: 1\nb: {c: 1, c: 2}", "line 2: c stands twice"),
        ("a: &a [*a]", "holds itself"),
        ("a0: &a0 [1]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40)), "100,000"),
        ("a: !!python/object/apply:os.system [ls]", "not valid YAML"),
        ("a: " + "9" * 5000, "not valid YAML"),
        ("a: \x07", "not valid YAML"),
    ],
)  # fmt: skip
def test_yaml_that_no_person_wrote_is_one_line(text: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_yaml(text, "f.yaml")
    assert words in str(caught.value)
    assert str(caught.value).startswith("f.yaml: ")
    assert len(str(caught.value)) < 250
