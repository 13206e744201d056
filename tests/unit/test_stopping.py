"""A signal ends a command with one line, its exit code, and in time, whatever the command is doing."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from distillation.stopping import stoppable, working_on

ROOT = Path(__file__).resolve().parents[2]
BEGIN = """
import sys, time
from distillation.stopping import begin, working_on
begin()
print("ready", flush=True)
"""


def stop(program: str, *numbers: int) -> tuple[int, str, str, float]:
    """Send signals to a program that is ready; return exit code, outputs, and seconds until its end."""
    process = subprocess.Popen(
        [sys.executable, "-c", BEGIN + program],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.1)
    began = time.monotonic()
    for place, number in enumerate(numbers):
        time.sleep(0.5 if place else 0.0)
        process.send_signal(number)
    out, err = process.communicate(timeout=20)
    return process.returncode, out, err, time.monotonic() - began


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_what_goes_on_after_a_failure_does_not_go_on_after_a_stop(number: int, code: int) -> None:
    program = """
try:
    with working_on("student 1", position=lambda: "step 40"):
        try:
            time.sleep(30)
        except Exception:
            print("swallowed")
finally:
    print("closed")
"""
    found, out, err, seconds = stop(program, number)
    assert found == code
    assert out == "closed\n"
    assert re.fullmatch(
        r"stopped; the same command goes on with student 1 at step 40: \S+ -c '[^\x00]*'\n", err
    ), err
    assert seconds < 2


@pytest.mark.parametrize(
    "busy",
    [
        "while True:\n    try:\n        time.sleep(30)\n    except BaseException:\n        pass",
        "try:\n    time.sleep(30)\nfinally:\n    time.sleep(30)",
        "import ctypes\nctypes.CDLL(None).sleep(30)",  # no Python code runs in the main thread meanwhile
    ],
    ids=["swallowed", "slow to close", "in a library"],
)
def test_a_stop_that_does_not_come_through_is_carried_out(busy: str) -> None:
    code, _, err, seconds = stop(busy, signal.SIGINT)
    assert code == 130
    assert re.match(r"stopped; the same command starts again: ", err)
    assert "Traceback" not in err
    assert seconds < 3


def test_a_second_signal_waits_for_nothing() -> None:
    slow = "try:\n    time.sleep(30)\nfinally:\n    time.sleep(30)"
    code, _, err, seconds = stop(slow, signal.SIGINT, signal.SIGINT)
    assert code == 130
    assert err.count("stopped") == 1
    assert seconds < 1.5


def test_a_process_that_was_forked_off_has_its_own_end() -> None:
    program = """
import os, signal
child = os.fork()
if child == 0:
    time.sleep(30)
time.sleep(0.3)
os.kill(child, signal.SIGTERM)
print(os.waitpid(child, 0)[1])
time.sleep(0.3)
"""
    code, out, err, _ = stop(program)
    assert (code, out, err) == (0, f"{int(signal.SIGTERM)}\n", "")


def test_outside_of_the_block_signals_are_as_before() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with stoppable(), stoppable(), working_on("nothing"):
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    with pytest.raises(ValueError, match="its own"), stoppable():
        raise ValueError("its own")


@pytest.mark.parametrize(
    "command",
    [
        "distillation.training",
        "distillation.teachers.cache.fill",
        "distillation.audit",
        "stacks.local",
    ],
)
def test_commands_can_be_stopped_from_their_first_import_on(command: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", command, "--help"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    package = command.partition(".")[0]
    for line in process.stderr:
        if line.rstrip().endswith(f"| {package}"):
            break
    process.send_signal(signal.SIGTERM)
    rest = process.stderr.read()
    assert process.wait(20) in (143, 0)  # 0: the help was quicker
    assert "Traceback" not in rest
