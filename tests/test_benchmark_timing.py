"""What the speed benchmarks say of times, operations and memory, with a clock that is told the time."""

from __future__ import annotations

import mmap
import sys

import numpy as np
import pytest
import torch
from fake_clock import Time
from hypothesis import given, settings
from hypothesis import strategies as st

from qsave_reward.speed.cost import count_operations, matrix_products, peak_mb
from qsave_reward.speed.scaling import curve
from qsave_reward.speed.timing import Spread, fit, measure_in_turn, middle, ratio, spread

CPU = torch.device("cpu")


def test_variants_are_measured_in_turn_after_a_warm_up_that_does_not_count() -> None:
    time, order, settled = Time(), [], []
    timed = {"a": time.work(100, 2, 4, 8), "b": time.work(100, 1, 1, 2), "c": time.work(100, 5, 6, 7)}

    def noted(name):
        return lambda: (order.append(name), timed[name]())[1]

    done = []
    found = measure_in_turn(
        {name: noted(name) for name in timed},
        3,
        clock=time,
        settle=lambda: settled.append(time.now),
        progress=done.append,
    )
    assert "".join(order) == "abc" + "abc" + "bca" + "cab" and done == [1, 1, 1]
    assert found.first == {"a": 0, "b": 0, "c": 0}
    assert found.rounds == [{"a": 2, "b": 1, "c": 5}, {"a": 4, "b": 1, "c": 6}, {"a": 8, "b": 2, "c": 7}]
    assert [list(one) for one in found.rounds] == [["a", "b", "c"]] * 3
    assert len(settled) == 2 * 9  # before and after each call that counts
    assert ratio(found.rounds, over="a", under="b") == Spread(4.0, 2.0, 4.0)
    assert middle(found.rounds) == {"a": 4, "b": 1, "c": 6}


def test_what_a_variant_leaves_to_the_device_counts() -> None:
    time = Time()

    def settle() -> None:
        time.now += 3

    assert measure_in_turn({"a": time.work(0, 1)}, 1, clock=time, settle=settle).rounds == [{"a": 4}]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=9), st.floats(0.1, 10), st.floats(0.1, 10))
def test_a_machine_that_is_slow_for_a_round_does_not_change_ratios(slowness, over, under) -> None:
    rounds = [{"over": over * factor, "under": under * factor} for factor in slowness]
    found = ratio(rounds, over="over", under="under")
    assert [found.median, found.low, found.high] == pytest.approx([over / under] * 3)


def test_spread_and_fits() -> None:
    assert spread([3.0, 1.0, 2.0, 10.0]) == Spread(2.5, 1.0, 10.0)
    sizes = np.array([1.0, 2.0, 4.0, 8.0])
    assert fit(sizes, 3 * sizes).exponent == pytest.approx(1) and fit(sizes, 3 * sizes).r2 == pytest.approx(1)
    assert fit(sizes, sizes**2).exponent == pytest.approx(2) and fit(sizes, sizes**2).r2 < 0.98
    assert fit(sizes, 5 + sizes).r2 == pytest.approx(1) and fit(sizes, 5 + sizes).exponent < 0.5
    assert fit(sizes, [2.0] * 4).exponent == pytest.approx(0)
    # By hand: the line through (0, 0), (1, 1), (2, 0) moved by one is 1/3; it explains nothing.
    assert fit([1, 2, 3], [1, 2, 1]).r2 == pytest.approx(0)


def test_a_curve_is_sorted_and_of_medians() -> None:
    found = curve({4.0: [4.0, 40.0, 3.9], 1.0: [1.0, 1.1, 0.9], 2.0: [2.0, 2.0, 2.0]})
    assert [(p.size, p.seconds, p.low, p.high) for p in found.points] == [
        (1, 1, 0.9, 1.1),
        (2, 2, 2, 2),
        (4, 4, 3.9, 40),
    ]
    assert found.exponent == pytest.approx(1) and found.r2 == pytest.approx(1)


def test_operations_are_counted() -> None:
    product, operations = matrix_products(CPU, torch.float32)
    assert count_operations(product) == operations
    layer = torch.nn.Linear(7, 11)
    assert count_operations(lambda: layer(torch.ones(5, 7))) == 2 * 5 * 7 * 11


@pytest.mark.skipif(sys.platform != "linux", reason="peaks of resident memory are known on Linux only")
def test_peak_memory_is_measured_and_begins_anew() -> None:
    def touch() -> None:
        # Pages of their own: malloc may hand out memory that the process has held since an earlier test.
        np.frombuffer(mmap.mmap(-1, 100 << 20), dtype=np.uint8).fill(1)

    low = peak_mb(CPU, lambda: None)
    high = peak_mb(CPU, touch)
    again = peak_mb(CPU, lambda: None)
    assert 90 < high - low < 150 and abs(again - low) < 40


def test_peak_memory_that_cannot_be_told_is_no_number(monkeypatch) -> None:
    def refuse(*args, **kwargs):
        raise PermissionError

    monkeypatch.setattr("pathlib.Path.write_text", refuse)
    assert peak_mb(CPU, lambda: None) is None
