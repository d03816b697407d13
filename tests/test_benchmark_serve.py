"""`qsave bench serve`: a real server and the same model in process, on the same clips."""

import json

import pytest
from cli_cases import command

from qsave_reward.server.settings import Settings


def test_the_command(monkeypatch, capsys):
    qsave = command(monkeypatch, capsys)
    # A full batch of the server is hundreds of such small clips, of which the copy in process scores many.
    monkeypatch.setattr("qsave_reward.server.bench.Settings", lambda: Settings(batch_tokens=512))
    small = ("--clients", "2", "--rounds", "1", "--seconds", "1", "--size", "64x96")
    code, out, _ = qsave("bench", "serve", *small, "--json")
    assert code == 0
    found = json.loads(out)
    assert found["shape"] == [16, 64, 96] and (found["clients"], found["seconds"]) == (2, 1.0)
    (one,) = found["rounds"]
    throughput = one["clips_per_second"] / one["clips_per_second_in_process"]
    assert found["ratios"]["throughput_vs_inprocess"] == pytest.approx(throughput) and throughput > 0
    assert found["ratios"]["p99_vs_batch"] == pytest.approx(one["p99_seconds"] / one["batch_seconds"])
    assert found["overhead_ms"] == pytest.approx(one["one_clip_ms"] - one["one_clip_in_process_ms"])
