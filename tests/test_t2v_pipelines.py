"""What a pipeline needs and refuses: arguments, sizes, tokenizers."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import sentencepiece
from transformers import AutoTokenizer

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes" / "text_to_video"))

from pipelines import load_pipeline
from rollout import sample
from t2v_pipelines import PROMPT, build, options_for

from qsave_reward.errors import ConfigError

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")


def test_an_argument_that_a_pipeline_does_not_take_is_refused_when_it_is_loaded():
    load_pipeline("tiny", arguments=["max_sequence_length"])
    with pytest.raises(
        ConfigError, match="WanPipeline takes no max_lenght; it takes prompt, .*max_sequence_l"
    ):
        load_pipeline("tiny", arguments=["max_sequence_length", "max_lenght"])


@pytest.mark.parametrize(("name", "side"), [("wan", 20), ("ltx", 40), ("cogvideox", 12), ("hunyuan", 20)])
def test_a_size_that_a_pipeline_does_not_make_is_refused_in_its_words(name, side):
    options = replace(options_for(name), height=side)
    with pytest.raises(ConfigError, match=f"Pipeline cannot make such a video: .*{side}"):
        sample(build(name), PROMPT, [0], options)


def test_a_tokenizer_that_comes_as_a_sentencepiece_model_is_read(tmp_path):
    (tmp_path / "text").write_text("\n".join(f"a {color} circle" for color in ("red", "green", "blue")))
    t5 = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    where = {"input": str(tmp_path / "text"), "model_prefix": str(tmp_path / "spiece")}
    sentencepiece.SentencePieceTrainer.train(**where, **t5, vocab_size=17, minloglevel=2)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T5Tokenizer"}))
    read = AutoTokenizer.from_pretrained(tmp_path)  # as CogVideoX's is stored
    assert read.decode(read("a red circle").input_ids, skip_special_tokens=True) == "a red circle"
