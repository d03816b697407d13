"""`recipes/holistic/encoder_auc.py`: what heads tell; of objects of a color, beside others of it."""

import sys
from pathlib import Path

import numpy as np
import pytest
from holistic_cases import small_base

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes" / "holistic"))
import encoder_auc
import pretrain_encoders

CONFIGS = Path(__file__).parent.parent / "configs" / "holistic"


@pytest.mark.parametrize(
    ("label", "kind", "color"),
    [
        ("red", "color", None),
        ("red circle", "shape of a color", "red"),
        ("blue 3", "number of a color", "blue"),
        ("blue at the left", "place of a color", "blue"),
        ("white grow", "motion or pan of a color", "white"),
        ("2", "number", None),
        ("cream", "background", None),
        ("color cast", "color cast", None),
        ("implausible speed", "implausible speed", None),
    ],
)
def test_kinds_of_labels(label, kind, color):
    assert encoder_auc.kind_of(label) == (kind, color)


def test_every_label_has_one():
    kinds = {encoder_auc.kind_of(label)[0] for labels in pretrain_encoders.TOLD.values() for label in labels}
    assert len(kinds) == 5 + 4 + 14  # of all clips, of a color, defects


def test_objects_of_a_color_are_compared_among_its_own_clips():
    labels = ["red", "red circle", "red ring"]
    shown = np.zeros((12, 3), bool)
    shown[:4, [0, 1]] = True  # four clips with a red circle, four with a red ring, four with nothing red
    shown[4:8, [0, 2]] = True
    said = np.where(shown, 2.0, 0.0)
    said[:, 1:] = said[:, :1]  # these heads know of the color only
    found = encoder_auc.areas(labels, said, shown)
    assert found == {"color": [1.0], "shape of a color": [0.5, 0.5]}
    assert encoder_auc.areas(labels, said[:5], shown[:5]) == {}  # too few without, or with


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
def test_the_command_reads_a_checkpoint(tmp_path, monkeypatch, capsys):
    base = small_base(tmp_path / "base")
    words = ["pretrain_encoders.py", "--config", CONFIGS / "tiny_encoders.yaml", "--branches", "technical"]
    words += ["--model_name_or_path", base, "--output_dir", tmp_path / "out", "--max_steps", 1]
    words += ["--per_device_train_batch_size", 2, "--save_steps", 1, "--report_to", "none", "--bf16", "false"]
    monkeypatch.setattr(sys, "argv", [*map(str, words)])
    pretrain_encoders.main()
    capsys.readouterr()
    words = ["encoder_auc.py", tmp_path / "out" / "checkpoint-1", "--base", base, "--clips", 160]
    monkeypatch.setattr(sys, "argv", [*map(str, words)])
    encoder_auc.main()
    table = capsys.readouterr().out.splitlines()[2:]
    assert len(table) == 7 and all(row.startswith("| technical | ") for row in table)
    assert all(0 <= float(row.split("|")[4]) <= 1 for row in table)
    monkeypatch.setattr(sys, "argv", ["encoder_auc.py", str(base), "--base", str(base)])
    with pytest.raises(SystemExit, match="has no heads"):
        encoder_auc.main()
