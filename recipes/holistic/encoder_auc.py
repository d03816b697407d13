"""What do the encoders tell after stage 0? Area under the curve for each kind of label, on validation clips.

    python recipes/holistic/encoder_auc.py outputs/encoders/checkpoint-100 --base outputs/holistic/base

"shape of red" and its like are compared among the clips with something red: else the color alone would do.
Labels that fewer than three clips have, or lack, are left out.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pretrain_encoders import PLACES, TOLD, Clips, EncodersWithHeads
from safetensors.torch import load_file
from tqdm import tqdm

sys.path.append(str(Path(__file__).parent.parent / "reward"))

from gaps import area_under_curve

from qsave_reward.errors import ConfigError, QSaveError
from qsave_reward.holistic.scorer import load_holistic
from qsave_reward.holistic.views import VIEWS, Views
from qsave_reward.world.scene import (
    BACKGROUND_COLORS,
    BACKGROUNDS,
    COLORS,
    DIRECTIONS,
    MAX_OBJECTS,
    MOTIONS,
    SHAPES,
)

FEWEST = 3
KINDS = {
    "color": tuple(COLORS),
    "shape": SHAPES,
    "number": tuple(map(str, range(1, MAX_OBJECTS + 1))),
    "place": (*PLACES[0], *PLACES[1]),
    "motion or pan": (*MOTIONS, *DIRECTIONS),
    "background": (*BACKGROUNDS, *BACKGROUND_COLORS),
}

Floats = NDArray[np.float64]


def kind_of(label: str) -> tuple[str, str | None]:
    """Kind of a label of `TOLD`, and the color whose objects it is about; a defect is a kind of its own."""
    first, _, rest = label.partition(" ")
    color = first if first in COLORS and rest else None
    word = rest if color else label
    kind = next((kind for kind, words in KINDS.items() if word in words), word)
    return (f"{kind} of a color" if color else kind), color


def areas(labels: Sequence[str], said: Floats, shown: NDArray[np.bool_]) -> dict[str, list[float]]:
    """For each kind the areas of its labels, from logits and truth [clips, labels]."""
    found: dict[str, list[float]] = defaultdict(list)
    for column, label in enumerate(labels):
        kind, color = kind_of(label)
        among = np.ones(len(said), bool)
        if color:
            among = shown[:, [k for k, other in enumerate(labels) if kind_of(other)[1] == color]].any(axis=1)
        there, value = shown[among, column], said[among, column]
        if FEWEST <= there.sum() <= len(there) - FEWEST:
            found[kind].append(area_under_curve(value[~there], value[there]))
    return found


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="checkpoint-N of pretrain_encoders.py, with its heads")
    parser.add_argument("--base", type=Path, required=True, help="what the run began with")
    parser.add_argument("--clips", type=int, default=600)
    options = parser.parse_args()
    try:
        weights = load_file(options.checkpoint / "model.safetensors")
        model, _ = load_holistic(options.base, dtype=torch.float32)
        branches = [branch for branch in model.config.branches if f"heads.{branch}.weight" in weights]
        if not branches:
            raise ConfigError(
                f"{options.checkpoint} has no heads of {', '.join(TOLD)}; give a checkpoint-N folder"
            )
        encoders = EncodersWithHeads(model, branches).eval()
        encoders.load_state_dict(weights)
    except (QSaveError, OSError) as error:
        sys.exit(f"error: {error}")
    clips = Clips(options.clips, model.config, split="val")
    said, shown = defaultdict(list), defaultdict(list)
    for index in tqdm(range(options.clips), unit="clip"):
        item = clips[index]
        for branch, logits in encoders.say(Views(*(item[name][None] for name in VIEWS))).items():
            said[branch].append(logits[0].double().numpy())
            shown[branch].append(item[f"told_{branch}"].numpy() > 0)
    print("| branch | kind | labels | area under the curve |\n|---|---|---|---|")
    for branch in branches:
        for kind, found in areas(TOLD[branch], np.stack(said[branch]), np.stack(shown[branch])).items():
            print(f"| {branch} | {kind} | {len(found)} | {np.mean(found):.3f} |")


if __name__ == "__main__":
    main()
