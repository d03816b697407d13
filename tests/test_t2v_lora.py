"""The trained weights: which layers carry them, older versions put in their place, blends, checkpoints."""

import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qsave_reward.errors import ConfigError

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes" / "text_to_video"))

from families import ATTENTION
from lora import Policies, add_lora, blend, copy_of, using
from rollout import run_at
from t2v_pipelines import BUILDERS, build, sampled, wan
from t2v_training import adapted, fill, learner_for

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")

SIGMAS = torch.tensor([0.4, 0.6])


@pytest.mark.parametrize(
    ("targets", "missing"),
    [
        (("to_q", "to_kv", "add_k_proj"), "to_kv, add_k_proj"),
        (("to_nothing",), "to_nothing"),
        (("q",), "q"),  # an ending is a whole name
        (("patch_embedding",), "patch_embedding"),  # a convolution
        ((), "(none given)"),
    ],
)
def test_targets_that_match_nothing_are_named_with_the_layers_there_are(targets, missing):
    transformer = wan()
    with pytest.raises(ConfigError) as caught:
        add_lora(transformer, rank=4, alpha=8, targets=targets, seed=0)
    message = str(caught.value)
    assert f"LoRA targets {missing} match no linear layer of WanTransformer3DModel" in message
    for ending in ("attn1.to_q", "attn2.to_k", "to_out.0", "net.2"):
        assert ending in message
    # Nothing was changed: right targets still work.
    assert not getattr(transformer, "_hf_peft_config_loaded", False)
    assert len(add_lora(transformer, rank=4, alpha=8, targets=("attn1.to_q",), seed=0)) == 2 * 2


@pytest.mark.parametrize("name", BUILDERS)
def test_the_layers_of_a_family_get_float32_weights_and_no_others_train(name):
    pipeline = build(name)
    transformer = pipeline.transformer
    layers = [n for n, m in transformer.named_modules() if isinstance(m, torch.nn.Linear)]
    expected = [n for n in layers if n.endswith((".to_q", ".to_k", ".to_v", ".to_out.0"))]
    transformer.to(torch.bfloat16)
    weights = add_lora(transformer, rank=4, alpha=8, targets=ATTENTION, seed=0)
    assert len(weights) == 2 * len(expected) > 0
    named = {n: p for n, p in transformer.named_parameters() if p.requires_grad}
    assert list(map(id, named.values())) == list(map(id, weights))
    assert {n.split(".lora_")[0] for n in named} == set(expected)
    assert {p.dtype for p in weights} == {torch.float32}


def test_a_seed_gives_the_same_weights_and_leaves_other_randomness_alone():
    before = torch.get_rng_state()
    first, second = (add_lora(wan(), rank=4, alpha=8, targets=("to_q",), seed=3) for _ in range(2))
    torch.set_rng_state(before)
    transformer = wan()
    state = torch.get_rng_state()
    other = add_lora(transformer, rank=4, alpha=8, targets=("to_q",), seed=4)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], other[0])


@pytest.mark.parametrize("name", BUILDERS)
def test_a_fresh_lora_changes_nothing(name):
    pipeline = build(name)
    plain = sampled(pipeline, name).latents
    add_lora(pipeline.transformer, rank=4, alpha=8, targets=ATTENTION, seed=0)
    torch.testing.assert_close(sampled(pipeline, name).latents, plain, rtol=0, atol=1e-6)


def test_other_weights_are_used_and_the_own_ones_come_back():
    pipeline, weights = adapted("wan")
    rollout = sampled(pipeline, "wan")
    other, third = copy_of(weights), copy_of(weights)
    fill(other, 2)
    fill(third, 3)

    def output():
        with torch.no_grad():
            return run_at(pipeline.transformer, rollout, rollout.latents, SIGMAS)

    own, storages = output(), [weight.data_ptr() for weight in weights]
    with using(weights, other):
        assert not torch.is_grad_enabled()
        inside = output()
        with using(weights, third):
            assert not torch.allclose(output(), inside)
        assert torch.equal(output(), inside)
    assert torch.equal(output(), own) and torch.is_grad_enabled()
    assert [weight.data_ptr() for weight in weights] == storages
    fill(weights, 2)
    assert torch.equal(output(), inside) and not torch.allclose(inside, own)


def test_own_weights_come_back_after_an_exception():
    weights = [torch.nn.Parameter(torch.full((2,), float(i))) for i in range(3)]
    before = copy_of(weights)
    with pytest.raises(KeyError), using(weights, [torch.full((2,), 9.0)] * 3):
        assert weights[0].tolist() == [9, 9]
        raise KeyError("on purpose")
    assert torch.is_grad_enabled()
    with pytest.raises(ValueError), using(weights, [torch.full((2,), 9.0)] * 2):
        pytest.fail("too few weights were accepted")
    assert all(torch.equal(a, b) for a, b in zip(weights, before, strict=True))
    assert torch.is_grad_enabled() and all(weight.requires_grad for weight in weights)


def gradients(learner, rollout, *, between=False, within=False):
    """Gradients of the trained weights, with others in their place between or during forward and backward."""
    weights, other = learner.policies.current, copy_of(learner.policies.current)
    fill(other, 5)
    for weight in weights:
        weight.grad = None
    loss = run_at(learner.model, rollout, rollout.latents, SIGMAS).square().mean()
    if between:
        with using(weights, other):
            run_at(learner.model, rollout, rollout.latents, SIGMAS)
    if within:
        with using(weights, other):
            loss.backward()
    else:
        loss.backward()
    return [weight.grad.clone() for weight in weights]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_backward_pass_has_the_weights_of_its_forward_pass(checkpointing):
    learner = learner_for(build("wan"), checkpointing=checkpointing)
    fill(learner.policies.current, 1)
    rollout = sampled(learner.pipeline, "wan")
    expected = gradients(learner, rollout)
    assert all(gradient.abs().max() > 0 for gradient in expected)
    found = gradients(learner, rollout, between=True)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    # Other weights during the backward pass: caught, or without effect.
    try:
        found = gradients(learner, rollout, within=True)
    except RuntimeError:
        return
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_checkpointing_changes_no_update():
    found = []
    for checkpointing in (False, True):
        learner = learner_for(build("wan"), checkpointing=checkpointing, learning_rate=1e-2)
        fill(learner.policies.current, 1)
        fill(learner.policies.old, 2)
        rollout = sampled(learner.pipeline, "wan", number=3)
        before = copy_of(learner.policies.current)
        learner.update([rollout], [torch.tensor([1.0, 0.5, -1.5])], seed=0)
        found.append([a - b for a, b in zip(copy_of(learner.policies.current), before, strict=True)])
        assert all(step.abs().max() > 1e-4 for step in found[-1])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


@given(st.floats(-5, 5), st.floats(-5, 5), st.floats(0, 1))
def test_a_blend_keeps_a_share(old, new, keep):
    target, source = [torch.tensor([old], dtype=torch.float64)], [torch.tensor([new], dtype=torch.float64)]
    blend(target, source, keep)
    assert target[0].item() == pytest.approx(keep * old + (1 - keep) * new, abs=1e-9)
    assert source[0].item() == new


def test_policies_come_back_from_a_checkpoint():
    _, weights = adapted("ltx")
    policies = Policies(weights)
    for seed, name in enumerate(("current", "old", "reference", "average")):
        fill(getattr(policies, name), seed)
    state = policies.state_dict()
    _, fresh = adapted("ltx", seed=9)
    other = Policies(fresh)
    fill(weights, 11)  # what was saved does not follow
    other.load_state_dict(state)
    assert other.current is fresh and all(weight.requires_grad for weight in fresh)
    for seed, name in enumerate(("current", "old", "reference", "average")):
        expected = copy_of(fresh)
        fill(expected, seed)
        assert all(torch.equal(a, b) for a, b in zip(getattr(other, name), expected, strict=True)), name
        assert not any(weight.requires_grad for weight in state[name])


def test_policies_begin_alike_and_part():
    _, weights = adapted("ltx")
    policies = Policies(weights)
    start = copy_of(weights)
    fill(weights, 2)
    for own in (policies.old, policies.reference, policies.average):
        assert all(torch.equal(a, b) for a, b in zip(own, start, strict=True))
    blend(policies.old, policies.current, 0.0)
    assert all(torch.equal(a, b) for a, b in zip(policies.old, weights, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(policies.reference, start, strict=True))
