"""What the application for `serve run` and configuration files asks for, without Ray."""

import pytest

from qsave_reward.errors import ConfigError
from qsave_reward.server.ray_app import Replicas, reward_app


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"modle": "tiny"}, "unknown argument 'modle'; expected some of batch_tokens, cpus, device, gpus"),
        ({"token": "0123456789abcdef"}, "unknown argument 'token'"),
        ({"model": "/no/such"}, "/no/such"),
        ({"replicas": "0"}, "expected 1 <= replicas"),
        ({"replicas": 3, "max_replicas": 2}, "expected 1 <= replicas <= max_replicas"),
        ({"cpus": 0}, "cpus >= 1"),
        ({"gpus": -1}, "gpus >= 0"),
        ({"replicas": "many"}, "replicas: expected a whole number, got 'many'"),
        ({"max_queue": 0}, "max_queue"),
    ],
)
def test_wrong_arguments_are_refused(monkeypatch, args, message):
    monkeypatch.setenv("QSAVE_TOKEN", "0123456789abcdef")
    with pytest.raises(ConfigError) as caught:
        reward_app(args)
    assert message in str(caught.value)


@pytest.mark.parametrize("token", [None, "", " \n", "short"])
def test_there_has_to_be_a_token(monkeypatch, token):
    monkeypatch.delenv("QSAVE_TOKEN", raising=False)
    if token is not None:
        monkeypatch.setenv("QSAVE_TOKEN", token)
    with pytest.raises(ConfigError, match="token"):
        reward_app({})


def test_the_number_of_replicas_may_be_fixed_or_a_range():
    assert Replicas(2).max_replicas is None
    assert Replicas(2, 2) == Replicas(replicas=2, max_replicas=2, cpus=1, gpus=0)
