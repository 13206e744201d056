"""One writer at a time, and a lock that no kill leaves behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from distillation.errors import LockError
from distillation.locks import exclusive

HOLD = """
import sys, time
from pathlib import Path
from distillation.locks import exclusive
with exclusive(Path(sys.argv[1]), "job directory"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_second_process_leaves_with_one_line(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    with pytest.raises(LockError) as error, exclusive(tmp_path, "job directory"):
        pass
    assert f"process {holder.pid} on " in str(error.value)
    assert str(tmp_path) in str(error.value)


def test_a_killed_process_leaves_no_lock(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with exclusive(tmp_path, "job directory"):
        pass
    assert not (tmp_path / ".lock.holder").exists()


def test_a_second_process_can_wait(
    tmp_path: Path, holder: subprocess.Popen[str], capsys: pytest.CaptureFixture[str]
) -> None:
    threading.Timer(0.2, holder.kill).start()
    with exclusive(tmp_path, "job directory", wait=True):
        pass
    assert f"waiting for process {holder.pid}" in capsys.readouterr().err
