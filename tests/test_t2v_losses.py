"""The two losses: gradients derived by hand, values computed by hand, and what must not matter."""

import math
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes" / "text_to_video"))

from families import Levels
from losses import grpo_loss, nft_loss, optimality
from sde import gradient_scale, log_prob, step_mean, step_std

SHAPE = (5, 3, 4)
SIGMAS = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9])
ALL = torch.ones(5)


def flow(sigmas=SIGMAS):
    sigmas = sigmas.view(-1, 1, 1)
    return Levels(1 - sigmas, sigmas, torch.ones_like(sigmas), sigmas)


def velocity(sigmas=SIGMAS):
    """Levels of velocity prediction with noise `sigmas`."""
    noise = sigmas.view(-1, 1, 1)
    signal = (1 - noise**2).sqrt()
    return Levels(signal, noise, signal, noise)


def normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


CLEAN, NOISE, OLD, REFERENCE = (normal(*SHAPE, seed=seed) for seed in range(4))


def nft(output, *, levels=None, r=ALL, known=ALL, beta=0.1, limit=5.0, kl=0.0, clean=CLEAN, old=OLD):
    """The loss of policy outputs, and its gradient by them."""
    levels = levels or flow()
    output = output.clone().requires_grad_(True)
    loss = nft_loss(
        (output, old, REFERENCE),
        levels.signal * CLEAN + levels.noise * NOISE,
        clean,
        levels=levels,
        r=r,
        known=known,
        beta=beta,
        limit=limit,
        kl=kl,
    )
    loss.loss.backward()
    return loss, output.grad


@pytest.mark.parametrize("levels", [flow(), velocity()], ids=["flow", "velocity"])
@pytest.mark.parametrize("beta", [0.05, 0.1, 1.0])
def test_the_first_gradient_is_regression_weighted_by_the_advantage(levels, beta):
    advantages = torch.tensor([-4.0, -1.0, 0.0, 2.0, 5.0])
    _, gradient = nft(OLD, levels=levels, r=optimality(advantages, 5.0), beta=beta)
    noisy = levels.signal * CLEAN + levels.noise * NOISE
    error = levels.keep * noisy - levels.take * OLD - CLEAN
    weight = error.abs().mean(dim=(1, 2), keepdim=True)
    # -2 a t (x0 estimate - x0) / (N w), and the mean over the batch; beta is not in it.
    each = -2 * advantages.view(-1, 1, 1) * levels.take * error / (12 * weight)
    torch.testing.assert_close(gradient, each / 5, rtol=1e-4, atol=1e-6)
    assert gradient[2].abs().max() < 1e-6 < gradient[1].abs().max()


def test_neither_good_nor_bad_means_no_gradient():
    _, full = nft(OLD, r=ALL)
    _, none = nft(OLD, r=ALL / 2)
    assert none.norm() < 1e-6 * full.norm()


def test_the_value_of_the_first_loss_does_not_depend_on_r():
    values = [nft(OLD, r=ALL * r)[0].loss.item() for r in (0.0, 0.3, 1.0)]
    assert values == pytest.approx([values[0]] * 3, rel=1e-6)


def test_the_value_away_from_the_old_policy():
    # One number a sample: x_t = 1, t = 0.5, x0 = 0, v_old = 1, v = 2; beta = 0.5, limit = 3.
    half = torch.full((2, 1), 0.5)
    ones = torch.ones(2, 1)
    loss = nft_loss(
        (2 * ones, ones, 0 * ones),
        ones,
        0 * ones,
        levels=Levels(half, half, ones, half),
        r=torch.tensor([1.0, 0.25]),
        known=torch.ones(2),
        beta=0.5,
        limit=3.0,
        kl=0.1,
    )
    # v+ = 1.5 and v- = 0.5: estimates 0.25 and 0.75; squares over absolutes are the same numbers.
    policy = 3 / 0.5 * (0.25 + (0.25 * 0.25 + 0.75 * 0.75)) / 2
    assert loss.parts["loss_policy"].item() == pytest.approx(policy)
    assert loss.parts["drift_reference"].item() == pytest.approx(4)
    assert loss.parts["drift_old"].item() == pytest.approx(1)
    assert loss.loss.item() == pytest.approx(policy + 0.1 * 4)


@given(st.lists(st.booleans(), min_size=5, max_size=5))
def test_samples_without_a_score_change_nothing(mask):
    known = torch.tensor(mask).float()
    output = OLD + 0.1 * NOISE
    loss, gradient = nft(output, known=known, kl=0.5)
    wild = torch.where(known.bool()[:, None, None], CLEAN, 100 * NOISE)
    r = torch.where(known.bool(), ALL, ALL * 0.123)
    other, same = nft(output, known=known, kl=0.5, clean=wild, r=r)
    assert other.loss.item() == pytest.approx(loss.loss.item(), rel=1e-6, abs=1e-9)
    torch.testing.assert_close(same, gradient)
    # What the others teach is what they teach in a batch without a hole.
    _, whole = nft(output, kl=0.5)
    torch.testing.assert_close(gradient, whole * known[:, None, None])


def test_kl_pulls_towards_the_reference():
    neutral = {"r": ALL / 2, "old": REFERENCE + 1}
    _, without = nft(REFERENCE + 1, kl=0.0, **neutral)
    loss, pull = nft(REFERENCE + 1, kl=0.3, **neutral)
    assert without.abs().max() < 1e-6
    # kl mean (v - v_ref)^2 over 12 numbers and 5 samples.
    torch.testing.assert_close(pull, torch.full(SHAPE, 0.3 * 2 / (12 * 5)), rtol=1e-3, atol=1e-6)
    assert loss.parts["drift_reference"].item() == pytest.approx(1)
    _, at_home = nft(REFERENCE, kl=0.3, r=ALL / 2, old=REFERENCE)
    assert at_home.abs().max() < 1e-6


def test_a_perfect_estimate_is_no_division_by_zero():
    levels = flow()
    loss, gradient = nft(NOISE - CLEAN, old=NOISE - CLEAN)
    assert loss.loss.isfinite() and gradient.isfinite().all()
    assert levels.take.min() > 0


@given(st.floats(-20, 20), st.floats(0.5, 10))
def test_optimality_is_the_clipped_advantage(advantage, limit):
    (r,) = optimality(torch.tensor([advantage], dtype=torch.float64), limit).tolist()
    clipped = max(-limit, min(limit, advantage))
    assert r == pytest.approx((clipped + limit) / (2 * limit), abs=1e-12)


def grpo(mean, *, advantages, old, known=None, clip=0.1, rectifier=1.0, kl=0.0, reference=None):
    """The loss of one-number samples with spread 1 that went to 0, and its gradient by the mean."""
    mean = torch.tensor(mean).view(-1, 1).requires_grad_(True)
    loss = grpo_loss(
        (mean, mean.detach() if reference is None else torch.tensor(reference).view(-1, 1)),
        torch.zeros(len(mean), 1),
        std=1.0,
        old_log_prob=torch.tensor(old) - 0.5 * math.log(2 * math.pi),
        advantages=torch.tensor(advantages),
        known=torch.ones(len(mean)) if known is None else torch.tensor(known),
        clip=clip,
        rectifier=rectifier,
        kl=kl,
    )
    loss.loss.backward()
    return loss, mean.grad.flatten()


def test_the_clip_by_hand():
    # The log-probability is -mean^2 / 2; old ones make the ratios 1, e^0.2 (too high) and e^-0.2 (too low).
    mean, old = [1.0, 1.0, 1.0], [-0.5, -0.7, -0.3]
    high, low = math.exp(0.2), math.exp(-0.2)
    loss, gradient = grpo(mean, advantages=[2.0, 2.0, 2.0], old=old)
    # Good samples: no reward beyond 1.1, none lost below 0.9.
    assert loss.loss.item() == pytest.approx(-2 * (1 + 1.1 + low) / 3)
    # d ratio / d mean = -mean ratio; the loss is -a ratio / 3.
    assert gradient.tolist() == pytest.approx([2 / 3, 0, 2 * low / 3])
    loss, gradient = grpo(mean, advantages=[-2.0, -2.0, -2.0], old=old)
    assert loss.loss.item() == pytest.approx(2 * (1 + high + 0.9) / 3)
    assert gradient.tolist() == pytest.approx([-2 / 3, -2 * high / 3, 0])
    assert loss.parts["clipped"].item() == pytest.approx(2 / 3)
    assert loss.parts["ratio_error"].item() == pytest.approx(high - 1)


def test_the_rectifier_multiplies_the_loss_and_its_square_the_distance():
    one = {"advantages": [2.0, -1.0], "old": [-0.5, -0.5], "reference": [0.0, 0.5]}
    loss, gradient = grpo([1.0, 1.0], rectifier=10.0, kl=0.01, **one)
    distance = 100 * (1.0 + 0.25) / 2  # mean of squares over (std gradient scale)^2
    assert loss.parts["drift_reference"].item() == pytest.approx(distance)
    assert loss.parts["loss_policy"].item() == pytest.approx(10 * (-2 + 1) / 2)
    assert loss.loss.item() == pytest.approx(-5 + 0.01 * distance)
    pull = 0.01 * 100 * torch.tensor([1.0, 0.5])
    assert gradient.tolist() == pytest.approx((torch.tensor([10.0, -5.0]) + pull).tolist())


@pytest.mark.parametrize(
    ("sigma", "sigma_next", "noise"), [(1.0, 0.9, 0.7), (0.5, 0.4, 0.3), (0.1, 0.0, 1.0)]
)
def test_the_distance_of_grpo_is_that_of_velocities_as_for_nft(sigma, sigma_next, noise):
    step = {"sigma": sigma, "sigma_next": sigma_next, "std": step_std(sigma, sigma_next, noise)}
    own, reference = (step_mean(CLEAN, velocity, **step) for velocity in (OLD, REFERENCE))
    loss = grpo_loss(
        (own, reference),
        own,
        std=step["std"],
        old_log_prob=log_prob(own, own, step["std"]),
        advantages=torch.zeros(5),
        known=ALL,
        clip=1.0,
        rectifier=1 / gradient_scale(**step),
        kl=0.5,
    )
    distance = (OLD - REFERENCE).square().mean()
    torch.testing.assert_close(loss.parts["drift_reference"], distance, rtol=1e-4, atol=0)
    torch.testing.assert_close(loss.loss, 0.5 * distance, rtol=1e-4, atol=0)


def test_grpo_learns_nothing_of_samples_without_a_score():
    loss, gradient = grpo(
        [1.0, 1.0], advantages=[2.0, 0.0], old=[-0.5, -0.5], known=[1.0, 0.0], kl=0.5, reference=[0.0, 0.0]
    )
    assert gradient[1] == 0 and gradient[0] == pytest.approx((2 + 1) / 2)
    assert loss.loss.item() == pytest.approx(-2 / 2 + 0.5 * 1 / 2)
    assert loss.parts["clipped"] == 0


def test_the_drift_of_samples_without_a_score_is_logged_and_not_trained():
    drifts = [nft(OLD + 0.1 * NOISE, known=known, kl=0.5)[0].parts for known in (ALL, 0 * ALL)]
    assert drifts[0]["drift_reference"] == drifts[1]["drift_reference"] > 0 == drifts[1]["loss_policy"]
    how = {"advantages": [2.0, 1.0], "old": [-0.5, -0.5], "kl": 0.5, "reference": [0.0, 0.0]}
    loss, gradient = grpo([1.0, 1.0], known=[0.0, 0.0], **how)
    assert loss.parts["drift_reference"] == 1 and loss.loss == 0 and not gradient.any()
