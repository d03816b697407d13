"""Heads that tell of each token which object it shows: a vision tower learns with them, then they go."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from token_targets import COLOR_NAMES, FINE, NOTHING, NUMBERS, RAYS, SHAPE_NAMES

OBJECT_TARGETS = ("color", "shape", "numbers", "outline", "mask")
"""The fields of `TokenTargets` that the heads learn."""
OBJECT_WEIGHTS = {
    "loss_object": 1.0,
    "loss_color": 1.0,
    "loss_shape": 2.0,
    "loss_numbers": 1.0,
    "loss_outline": 5.0,
    "loss_mask": 5.0,
}
"""Weight of each loss; means over many easy labels are raised to about the size of the others."""


class ObjectHeads(torch.nn.Module):
    """Linear heads on tokens of some width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.objects = torch.nn.Linear(width, 1 + len(COLOR_NAMES) + len(SHAPE_NAMES) + len(NUMBERS))
        self.outline = torch.nn.Linear(width, RAYS + 3)
        self.mask = torch.nn.Linear(width, 2 * FINE**2)

    def forward(
        self,
        tokens: torch.Tensor,
        color: torch.Tensor,
        shape: torch.Tensor,
        numbers: torch.Tensor,
        outline: torch.Tensor,
        mask: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """The losses of `OBJECT_WEIGHTS`, each a mean, on tokens [clips * tokens, width]; labels as in
        `TokenTargets` with a leading axis of clips. All but the first and the last exist only for tokens that
        show an object."""
        sizes = [1, len(COLOR_NAMES), len(SHAPE_NAMES), len(NUMBERS)]
        there, colors, shapes, found = self.objects(tokens).float().split(sizes, dim=1)
        there, real = there[:, 0], color.flatten() != NOTHING
        some = real if real.any() else torch.ones_like(real)  # labels of nothing are ignored
        return {
            "loss_object": F.binary_cross_entropy_with_logits(there, real.float()),
            "loss_color": F.cross_entropy(colors[some], color.flatten()[some], ignore_index=NOTHING),
            "loss_shape": F.cross_entropy(shapes[some], shape.flatten()[some], ignore_index=NOTHING),
            "loss_numbers": F.smooth_l1_loss(found[some], numbers.flatten(0, 1)[some], beta=0.1),
            "loss_outline": F.smooth_l1_loss(
                self.outline(tokens[some]).float(), outline.flatten(0, 1)[some], beta=0.1
            ),
            "loss_mask": F.binary_cross_entropy_with_logits(self.mask(tokens).float(), mask.flatten(0, 1)),
        }
