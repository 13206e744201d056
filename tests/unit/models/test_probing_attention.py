"""Attention implementations, tried with real forward passes."""

from __future__ import annotations

import logging
import warnings

import pytest
import torch
from transformers import AutoModelForCausalLM, MambaConfig

from distillation.errors import ModelError
from distillation.models.inspect.attention import check_attention, probe_attention
from distillation.quiet import quiet_libraries


@pytest.mark.parametrize("name", ["Llama", "Qwen3Moe", "GPT2", "GPTNeoX"])
def test_small_models_run_whole(make_config, name) -> None:
    found = probe_attention(make_config(name))
    assert found.tested_on == "whole architecture"
    assert found.works("eager")
    assert found.works("sdpa")
    assert (found.maps_complete, found.num_maps, found.num_layers_tested) == (True, 3, 3)
    flash = next(entry for entry in found.implementations if entry.name == "flash_attention_2")
    assert not flash.works
    assert flash.reason == "it needs a CUDA device, not cpu"


def test_an_architecture_without_sdpa_falls_to_eager_with_the_reason(make_config) -> None:
    found = probe_attention(make_config("Gemma2"))
    sdpa = next(entry for entry in found.implementations if entry.name == "sdpa")
    assert sdpa.works == found.works("sdpa")
    assert sdpa.works or "does not support" in sdpa.reason


def test_a_setting_that_does_not_work_is_refused(make_config) -> None:
    found = probe_attention(make_config("Llama"))
    for setting in ("auto", "eager", "sdpa"):
        check_attention(setting, found, name="x")
    with pytest.raises(ModelError, match=r"models\.student\.attention = 'flash_attention_2' does not work"):
        check_attention("flash_attention_2", found, name="models.student.attention")


def test_a_large_model_is_reduced_and_keeps_its_head_width(make_config) -> None:
    config = make_config(
        "Qwen3Moe", hidden_size=2048, intermediate_size=8192, head_dim=128, num_hidden_layers=40
    )
    config.num_attention_heads, config.num_key_value_heads, config.vocab_size = 16, 4, 50_000
    found = probe_attention(config)
    assert found.tested_on == "2 layers, narrow"
    assert found.works("sdpa")
    assert found.maps_complete
    assert config.num_hidden_layers == 40  # The caller's configuration is not touched.


def test_wrong_logits_are_noticed(make_config, monkeypatch) -> None:
    real = torch.nn.functional.scaled_dot_product_attention

    def scaled(query, key, value, **arguments):
        return real(query, key, value, **{**arguments, "scale": 3.0})

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", scaled)
    found = probe_attention(make_config("Llama", initializer_range=0.5))
    sdpa = next(entry for entry in found.implementations if entry.name == "sdpa")
    assert not sdpa.works
    assert "differ from eager's" in sdpa.reason
    assert found.problem("sdpa") == sdpa.reason


def test_a_model_without_attention_has_no_maps() -> None:
    config = MambaConfig(vocab_size=300, hidden_size=32, num_hidden_layers=2, state_size=4, pad_token_id=0)
    found = probe_attention(config)
    assert (found.maps_complete, found.maps_problem) == (False, "0 maps for 2 layers")


def test_nothing_reaches_the_screen_and_the_random_state_is_kept(make_config, capfd) -> None:
    before = torch.random.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        probe_attention(make_config("Llama"))
    assert torch.equal(before, torch.random.get_rng_state())
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


def test_quiet_libraries_collects_and_restores(make_config) -> None:
    library = logging.getLogger("transformers")
    handlers, propagate = list(library.handlers), library.propagate
    model = AutoModelForCausalLM.from_config(make_config("Llama"), attn_implementation="sdpa")

    def fail_inside() -> None:
        with quiet_libraries() as messages:
            warnings.warn("a warning", stacklevel=1)
            logging.getLogger("transformers.modeling_utils").warning("a message")
            model(input_ids=torch.tensor([[1, 2]]), output_attentions=True)
            assert "a message" in messages
            raise KeyError

    with pytest.raises(KeyError):
        fail_inside()
    assert (library.handlers, library.propagate) == (handlers, propagate)
    with quiet_libraries() as messages:
        warnings.warn("a warning", stacklevel=1)
    assert messages == ["a warning"]


def test_downloads_stay_visible() -> None:
    from huggingface_hub.utils import are_progress_bars_disabled
    from transformers.utils import logging as transformers_logging

    transformers_logging.enable_progress_bar()  # other tests may have left both off
    with quiet_libraries():
        assert not are_progress_bars_disabled(), "a first download takes minutes"
        assert not transformers_logging.is_progress_bar_enabled()
    assert transformers_logging.is_progress_bar_enabled()
