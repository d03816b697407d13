"""A LoRA on disk: exported for the stock pipeline, loaded again, and refused where it does not fit."""

import json
import sys
from pathlib import Path

import pytest
from safetensors import safe_open

from qsave_reward.errors import ConfigError

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes" / "text_to_video"))

from lora import copy_of, export_lora, load_lora, using
from t2v_pipelines import BUILDERS, build, sampled, wan
from t2v_training import adapted, fill

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")


@pytest.mark.parametrize(("name", "rank", "alpha"), [(name, 4, 8.0) for name in BUILDERS] + [("wan", 4, 1.0)])
def test_an_exported_lora_gives_the_same_latents_in_a_fresh_pipeline(name, rank, alpha, tmp_path):
    pipeline, _ = adapted(name, rank=rank, alpha=alpha)
    expected = sampled(pipeline, name).latents
    export_lora(pipeline, tmp_path)
    fresh = build(name)
    assert (sampled(fresh, name).latents - expected).abs().max() > 1e-2
    load_lora(fresh, tmp_path)
    assert (sampled(fresh, name).latents - expected).abs().max() < 1e-5


def test_an_export_holds_only_the_lora_and_says_how_strong_it_is(tmp_path):
    pipeline, weights = adapted("wan")
    export_lora(pipeline, tmp_path)
    (file,) = tmp_path.iterdir()
    with safe_open(file, framework="pt") as opened:
        names, metadata = list(opened.keys()), opened.metadata()
        numbers = sum(opened.get_tensor(name).numel() for name in names)
    assert len(names) == len(weights) and numbers == sum(weight.numel() for weight in weights)
    assert all(name.startswith("transformer.") and ".lora_" in name for name in names)
    told = json.loads(metadata["lora_adapter_metadata"])
    assert told["transformer.lora_alpha"] == 8 and told["transformer.r"] == 4


def test_the_weights_in_place_are_those_that_are_exported(tmp_path):
    pipeline, weights = adapted("wan")
    average = copy_of(weights)
    fill(average, 7)
    with using(weights, average):
        expected = sampled(pipeline, "wan").latents
        export_lora(pipeline, tmp_path)
    fresh = build("wan")
    load_lora(fresh, tmp_path)
    assert (sampled(fresh, "wan").latents - expected).abs().max() < 1e-5


def test_an_export_that_fails_leaves_the_one_before(tmp_path, monkeypatch):
    pipeline, weights = adapted("ltx")
    export_lora(pipeline, tmp_path / "best")
    expected = sampled(pipeline, "ltx").latents

    def torn(_weights, filename, **_):
        Path(filename).write_bytes(b"half")
        raise OSError("no space left on device")

    fill(weights, 5)
    monkeypatch.setattr("safetensors.torch.save_file", torn)
    with pytest.raises(OSError, match="no space"):
        export_lora(pipeline, tmp_path / "best")
    fresh = build("ltx")
    load_lora(fresh, tmp_path / "best")
    assert (sampled(fresh, "ltx").latents - expected).abs().max() < 1e-5


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The LoRA of a Wan pipeline of two blocks."""
    pipeline, _ = adapted("wan")
    folder = tmp_path_factory.mktemp("lora")
    export_lora(pipeline, folder)
    return folder


def test_a_folder_without_a_lora_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"pytorch_lora_weights\.safetensors, got"):
        load_lora(build("wan"), tmp_path)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # peft's, before it fails
@pytest.mark.parametrize("name", ["ltx", "cogvideox", "hunyuan"])
def test_a_lora_of_another_family_is_refused(name, exported):
    pipeline = build(name)
    with pytest.raises(ConfigError, match=f"does not fit {type(pipeline).__name__}"):
        load_lora(pipeline, exported)


@pytest.mark.parametrize("change", [{"attention_head_dim": 24}, {"num_layers": 1}])
def test_a_lora_of_another_size_is_refused(change, exported):
    pipeline = build("wan")
    pipeline.register_modules(transformer=wan(**change))
    with pytest.raises(ConfigError, match="does not fit WanPipeline"):
        load_lora(pipeline, exported)


def test_a_torn_lora_is_refused(tmp_path):
    (tmp_path / "pytorch_lora_weights.safetensors").write_bytes(b"torn")
    with pytest.raises(ConfigError, match="does not fit WanPipeline|cannot"):
        load_lora(build("wan"), tmp_path)
