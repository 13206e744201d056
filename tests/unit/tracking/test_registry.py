"""A student in MLflow's registry: loads through MLflow and through transformers, and generates text."""

from __future__ import annotations

from pathlib import Path

import pytest
from promotion_runs import candidates, promote_one

from distillation.config import PromotionSettings
from distillation.errors import PromotionError, PublishError, SettingsError
from tracking.export import MARK_FILE, check_export_folder, export_champion, read_mark
from tracking.registration import weights_digest
from tracking.registry import PIPELINE_ROLE, ROLE_TAG, current_champion, finished_runs
from tracking.runs import Recorder, RunSpec


def generate_from(folder: Path) -> str:
    """Load a folder with transformers and return what the student writes after a prompt."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer("The function", return_tensors="pt")
    ids = model.generate(**inputs, max_new_tokens=5, do_sample=False, eos_token_id=None)
    assert ids.shape[1] == inputs["input_ids"].shape[1] + 5
    return tokenizer.decode(ids[0], skip_special_tokens=True)


def test_the_champion_loads_with_mlflow_and_from_its_folder(
    promotion_store: Recorder, tmp_path: Path
) -> None:
    import mlflow

    runs, name, folder = candidates(promotion_store), "loading", tmp_path / "out" / "champion"
    assert current_champion(promotion_store, name) is None
    with pytest.raises(PromotionError, match="there is no champion"):
        export_champion(promotion_store, name, folder)
    assert not folder.exists()

    texts = {}
    for number, run in enumerate(("worse", "better"), start=1):
        promote_one(promotion_store, runs[run], name)
        champion = current_champion(promotion_store, name)
        assert champion is not None
        assert (champion.run_id, champion.version) == (runs[run].run_id, str(number))
        assert champion.held_out_fingerprint == "set-a"
        exported = export_champion(promotion_store, name, folder)
        assert (exported.version, exported.run_name) == (number, run)
        assert read_mark(folder) == exported
        assert (folder / "README.md").read_text() == f"# Card of {run}\n"
        registered = promotion_store.client.get_model_version(name, str(number)).tags["weights"]
        assert exported.weights == registered == weights_digest(folder)

        mlflow.set_tracking_uri(promotion_store.uri)
        try:
            pipeline = mlflow.transformers.load_model(f"models:/{name}@champion")
        finally:
            mlflow.set_tracking_uri("")
        [answer] = pipeline("The function", max_new_tokens=5, do_sample=False, eos_token_id=None)
        texts[run] = generate_from(folder)
        assert answer["generated_text"] == texts[run]
        assert texts[run].startswith("The function")
        assert len(texts[run]) > len("The function")
    assert texts["worse"] != texts["better"]
    assert [path.name for path in folder.parent.iterdir()] == ["champion"]
    assert not [path for path in folder.iterdir() if path.suffix in (".bin", ".pkl", ".pt")]


def test_an_artifact_that_was_changed_is_not_exported(promotion_store: Recorder, tmp_path: Path) -> None:
    runs, name, folder = candidates(promotion_store), "changed", tmp_path / "champion"
    promote_one(promotion_store, runs["worse"], name)
    before = export_champion(promotion_store, name, folder)
    promote_one(promotion_store, runs["better"], name)
    promotion_store.client.set_model_version_tag(name, "2", "weights", "0" * 16)
    with pytest.raises(PublishError, match=r"version 2 have digest \w{16}, registered was 0{16}") as caught:
        export_champion(promotion_store, name, folder)
    assert "\n" not in str(caught.value)
    assert read_mark(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["champion"]


def test_a_folder_with_other_files_is_not_replaced(tmp_path: Path) -> None:
    settings = PromotionSettings(export_dir=str(tmp_path / "thesis"))
    check_export_folder(settings)
    (tmp_path / "thesis").mkdir()
    check_export_folder(settings)
    (tmp_path / "thesis" / "chapter.tex").write_text("keep me")
    with pytest.raises(SettingsError, match=r"export_dir = .*thesis: it holds other files"):
        check_export_folder(settings)
    (tmp_path / "thesis" / MARK_FILE).write_text("{}")
    with pytest.raises(SettingsError, match="it holds other files"):
        check_export_folder(settings)
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="it is a file"):
        check_export_folder(PromotionSettings(export_dir=str(tmp_path / "file")))
    with pytest.raises(SettingsError, match="cannot be written"):
        check_export_folder(PromotionSettings(export_dir=str(tmp_path / "file" / "champion")))


def test_an_experiment_without_finished_runs_is_named(tracking_uri: str) -> None:
    recorder = Recorder(tracking_uri, "empty")
    with pytest.raises(PromotionError, match="experiment = empty: no finished run"):
        finished_runs(recorder)
    recorder.open(RunSpec("running", "running", {ROLE_TAG: PIPELINE_ROLE}))
    with pytest.raises(PromotionError, match="no finished run"):
        finished_runs(recorder)
