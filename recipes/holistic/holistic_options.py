"""Options of training a `HolisticScorer`, beside those of transformers' trainer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass
class HolisticArguments:
    """What this recipe adds to the options of transformers' trainer."""

    model_name_or_path: str = field(metadata={"help": "what make_holistic_tiny.py or assemble.py wrote"})
    data: str = field(
        metadata={"help": "`world:train`, a file of records, or NTIRE's list `file|prompt|MOS` (*.txt)"}
    )
    trained_on: str = field(metadata={"help": "one sentence for users: what the scores mean"})
    eval_data: str = field(
        default="", metadata={"help": "as data; clips that are held out; empty: eval_share of data"}
    )
    eval_share: float = field(default=0.1, metadata={"help": "share of the prompts of data to hold out"})
    eval_clips: int = field(default=200, metadata={"help": "most clips that are held out"})
    rank_weight: float = field(default=0.3, metadata={"help": "weight of the rank loss"})
    level_weight: float = field(
        default=0.0, metadata={"help": "weight of (score - MOS)^2, which ties scores to the scale"}
    )
    lora_rank: int = field(default=8, metadata={"help": "0 trains the whole language model"})
    lora_alpha: float = field(default=16.0, metadata={"help": "strength of the LoRA"})
    lora_dropout: float = field(default=0.05, metadata={"help": "dropout in the LoRA"})
    lora_targets: list[str] = field(default_factory=lambda: ["q_proj", "v_proj"])
    muon: bool = field(default=False, metadata={"help": "Muon for matrices and AdamW for all else (muon.py)"})
    branches: list[str] = field(
        default_factory=list,
        metadata={"help": "encoders of the base to keep, as an ablation; default: all"},
    )
    frozen: list[str] = field(
        default_factory=list, metadata={"help": "encoders that stay as they are; default: none"}
    )
    save_dtype: Literal["float32", "float16", "bfloat16"] | None = field(
        default=None, metadata={"help": "precision of the saved weights; default: that of training"}
    )
    varied_share: float = field(default=0.25, metadata={"help": "world: share of other sizes and rates"})
    mismatched_share: float = field(default=0.0, metadata={"help": "share with another clip's prompt"})
    prompts_per_clip: int = field(
        default=1, metadata={"help": "world: each clip is read with its own prompt and others (reprompt.py)"}
    )
    facts_weight: float = field(
        default=0.0,
        metadata={"help": "world: weight of words saying what is seen of the clip (token_facts.py)"},
    )
    agreed_share: float = field(
        default=1.0,
        metadata={"help": "with facts_weight: share of words that the clip bears out which are asked for it"},
    )
    sought: list[str] = field(
        default_factory=list,
        metadata={"help": "world: what is hard to learn, a defect or 'stated relation', for some clips"},
    )
    sought_share: float = field(default=0.25, metadata={"help": "with sought: share of such clips"})
