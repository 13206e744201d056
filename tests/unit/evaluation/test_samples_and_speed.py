"""Continuations are greedy and repeatable; sizes count what is there."""

from __future__ import annotations

import torch

from distillation.config import ModelReference
from distillation.evaluation.samples import continue_prompts
from distillation.evaluation.speed import measure_speed, size_on_disk
from distillation.models.load import load_model


def test_continuations_are_the_most_likely_tokens(llama, start_tokenizer):
    prompt = "Return a new"
    sample = continue_prompts(llama, start_tokenizer, [prompt], num_new_tokens=5)[0]
    ids = [start_tokenizer.bos_token_id, *start_tokenizer(prompt)["input_ids"]]
    expected = []
    for _ in range(5):
        with torch.no_grad():
            token = int(llama(input_ids=torch.tensor([ids + expected])).logits[0, -1].argmax())
        expected.append(token)
        if token == start_tokenizer.eos_token_id:
            break
    assert sample.continuation == start_tokenizer.decode(expected, skip_special_tokens=True)
    assert sample.num_tokens == len(expected)


def test_long_prompts_and_no_tokens(llama, start_tokenizer):
    long = "word " * 500  # more than the model's 128 positions
    assert continue_prompts(llama, start_tokenizer, [long], num_new_tokens=4)[0].prompt == long
    assert continue_prompts(llama, start_tokenizer, ["a"], num_new_tokens=0) == []


def test_only_the_routed_experts_are_active(tiny_teacher_dir):
    model = load_model(ModelReference(path=str(tiny_teacher_dir)), "teacher")
    speed = measure_speed(model, None, batch_size=1, length=8, num_new_tokens=1)
    total, active = speed.num_parameters, speed.num_active_parameters
    experts = 4 * 3 * 32 * 32  # one sparse layer: gate, up and down of four experts
    assert total == sum(parameter.numel() for parameter in model.parameters())
    assert total - active == experts // 2


def test_speed_of_a_dense_model(llama, tmp_path):
    llama.save_pretrained(tmp_path)
    speed = measure_speed(llama, tmp_path, batch_size=2, length=16, num_new_tokens=4)
    assert speed.num_active_parameters == speed.num_parameters
    assert speed.forward_tokens_per_second > speed.generated_tokens_per_second > 0
    assert speed.size_on_disk >= 4 * speed.num_parameters
    assert size_on_disk(tmp_path / "nothing") is None
