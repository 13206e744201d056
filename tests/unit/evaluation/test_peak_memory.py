"""Memory against allocations whose size is known, and the first token against a greedy step."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from distillation.evaluation.samples import greedy_token
from distillation.evaluation.speed import measure_speed
from distillation.models import peak_memory as measure

MIB = 2**20
needs_linux = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="only Linux tells the peak of a process"
)


def in_new_process(program: str) -> int:
    """The number that a process of its own prints: what earlier tests freed has left holes in this one."""
    found = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    return int(found.stdout)


@needs_linux
def test_growth_is_what_the_work_holds_at_once():
    growth = in_new_process("""
import torch
from distillation.models.peak_memory import peak_growth

def work():
    first = torch.ones(48 * 2**20 // 4)
    del first
    torch.ones(96 * 2**20 // 4)

print(peak_growth(work, torch.device("cpu")))
""")
    assert 95 * MIB <= growth < 120 * MIB


@needs_linux
def test_the_peak_is_that_of_now_and_not_of_before():
    cpu = torch.device("cpu")
    torch.ones(192 * MIB // 4)
    before = measure.peak_bytes(cpu)
    measure._give_back_freed_memory()
    measure.restart_peak(cpu)
    restarted = measure.peak_bytes(cpu)
    assert restarted < before - 128 * MIB
    held = torch.ones(192 * MIB // 4)
    assert measure.peak_bytes(cpu) >= restarted + held.nbytes - 32 * MIB


@needs_linux
def test_the_peak_is_not_that_of_the_process_that_started_this_one():
    """`ru_maxrss` is: a small process started by a large one would be called large."""
    held = torch.ones(768 * MIB // 4)
    peak = in_new_process("""
from types import SimpleNamespace as Device
from distillation.models.peak_memory import peak_bytes

print(peak_bytes(Device(type="cpu")))
""")
    assert 4 * MIB < peak < held.nbytes


@needs_linux
def test_a_second_measurement_does_not_see_the_first(tmp_path):
    cpu = torch.device("cpu")
    measure.peak_growth(lambda: torch.ones(64 * MIB // 4), cpu)
    assert measure.peak_growth(lambda: None, cpu) < 8 * MIB


@needs_linux
def test_peak_memory_of_a_model_holds_its_weights_and_its_logits(make_llama):
    model = make_llama(20_000)
    logits = 8 * 128 * 20_000 * 4
    speed = measure_speed(model, None, num_new_tokens=2)
    weights = measure.bytes_of_weights(model)
    assert weights + logits <= speed.peak_memory_bytes < weights + 1.5 * logits
    assert speed.size_on_disk is None


def test_where_nobody_tells_nothing_is_said(monkeypatch, tmp_path):
    assert measure.peak_growth(lambda: None, torch.device("mps")) is None
    monkeypatch.setattr(measure, "PROCESS", tmp_path)
    assert measure.peak_growth(lambda: None, torch.device("cpu")) is None


def test_tied_weights_count_once(tiny_teacher_dir):
    from distillation.config import ModelReference
    from distillation.models.load import load_model

    model = load_model(ModelReference(path=str(tiny_teacher_dir)), "teacher", dtype="float32")
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    buffers = sum(buffer.numel() * buffer.element_size() for buffer in model.buffers())
    assert measure.bytes_of_weights(model) == 4 * model.num_parameters() + buffers


def test_the_first_token_is_the_greedy_one_and_takes_time(llama):
    ids = torch.arange(1, 20)[None]
    with torch.no_grad():
        expected = int(llama(input_ids=ids).logits[0, -1].argmax())
        assert greedy_token(llama, ids) == expected
    speed = measure_speed(llama, None, batch_size=2, length=16, num_new_tokens=2)
    assert 0 < speed.first_token_ms < 10_000
