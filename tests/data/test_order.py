from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchyard.data import DataError, Order, share
from batchyard.data.order import permutation

seeds = st.integers(0, 2**63 - 1)


@st.composite
def orders(draw: st.DrawFn) -> Order:
    samples = draw(st.integers(1, 300))
    shuffle = draw(st.sampled_from(["full", "within_shard"]))
    return Order(seed=draw(seeds), samples=samples, batch_size=draw(st.integers(1, samples)), shuffle=shuffle)


@given(orders(), st.integers(0, 2**40))
def test_an_epoch_is_a_permutation(order: Order, epoch: int) -> None:
    assert np.array_equal(np.sort(order.epoch(epoch)), np.arange(order.samples))


@given(orders(), st.integers(1, 10**9), st.integers(1, 40))
def test_the_shares_of_all_workers_together_are_the_global_batch_in_order(order: Order, step: int, world: int) -> None:
    batch = order.batch(step)
    shares = [share(len(batch), rank, world) for rank in range(world)]
    assert np.array_equal(np.concatenate([batch[part.start : part.stop] for part in shares]), batch)


@given(st.integers(0, 10**6), st.integers(1, 1000))
def test_shares_differ_by_at_most_one(total: int, world: int) -> None:
    sizes = [len(share(total, rank, world)) for rank in range(world)]
    assert max(sizes) - min(sizes) <= 1


@given(orders(), st.integers(0, 1000))
def test_every_batch_is_whole_and_no_sample_repeats_in_an_epoch(order: Order, epoch: int) -> None:
    first = epoch * order.batches_per_epoch + 1
    batches = [order.batch(step) for step in range(first, first + order.batches_per_epoch)]
    seen = np.concatenate(batches)
    assert all(len(batch) == order.batch_size for batch in batches)
    assert len(np.unique(seen)) == len(seen) > order.samples - order.batch_size


@given(orders(), st.integers(1, 10**9))
def test_a_batch_depends_on_seed_and_step_alone(order: Order, step: int) -> None:
    again = Order(**vars(order))
    for other in (1, step + 1, step * 2):
        again.batch(other)
    assert np.array_equal(again.batch(step), order.batch(step))


@given(seeds)
def test_another_epoch_or_seed_gives_another_order(seed: int) -> None:
    base = permutation(seed, 0, 100)
    assert not np.array_equal(base, permutation(seed, 1, 100))
    assert not np.array_equal(base, permutation(seed + 1, 0, 100))


def test_the_order_never_changes_between_versions() -> None:
    assert permutation(1, 2, 12).tolist() == [5, 10, 8, 4, 6, 11, 0, 7, 2, 3, 9, 1]


def test_every_position_is_about_equally_likely() -> None:
    first = np.array([permutation(9, epoch, 10)[0] for epoch in range(5000)])
    assert np.abs(np.bincount(first, minlength=10) - 500).max() < 110  # five standard deviations of a binomial count


def test_a_batch_larger_than_the_training_set_is_refused_by_name() -> None:
    with pytest.raises(DataError, match=r"data\.batch_size: 61 given; the training set has 60 samples"):
        Order(seed=0, samples=60, batch_size=61)


def test_within_shards_only_samples_of_the_same_shard_meet_in_a_workers_part() -> None:
    order = Order(seed=5, samples=800, batch_size=16, shuffle="within_shard")
    met: dict[int, set[int]] = {}
    for step in range(1, 1 + 30 * order.batches_per_epoch):
        for part in order.batch(step).reshape(8, 2):
            for sample in part.tolist():
                met.setdefault(sample, set()).update(part.tolist())
    assert len(met) == 800
    assert max(len(company) for company in met.values()) <= 100  # a shard
    assert len({frozenset(shard) for shard in shards(order)}) == 8
    for shard in shards(order):
        assert all(met[sample] <= shard for sample in shard)


def shards(order: Order) -> list[set[int]]:
    """What is ever in each eighth of a batch."""
    epochs = [order.epoch(number)[: order.batches_per_epoch * order.batch_size] for number in range(2)]
    rows = np.concatenate(epochs).reshape(-1, 8, order.batch_size // 8)
    return [set(rows[:, number].reshape(-1).tolist()) for number in range(8)]


def test_with_full_shuffling_samples_meet_more_others_than_a_shard_has() -> None:
    met: dict[str, set[int]] = {"full": set(), "within_shard": set()}
    for shuffle, company in met.items():
        order = Order(seed=5, samples=160, batch_size=16, shuffle=shuffle)
        for epoch in range(100):
            pairs = order.epoch(epoch).reshape(-1, 2)
            company.update(pairs[(pairs == 7).any(axis=1)].reshape(-1).tolist())
    assert len(met["full"]) > 50
    assert len(met["within_shard"]) <= 160 // 8


def test_the_order_within_shards_never_changes_between_versions() -> None:
    order = Order(seed=1, samples=20, batch_size=9, shuffle="within_shard")
    assert np.array_equal(np.sort(order.epoch(3)), np.arange(20))
    assert order.epoch(3).tolist() == [10, 0, 16, 6, 12, 5, 4, 1, 8, 14, 15, 17, 13, 18, 3, 9, 19, 2, 11, 7]
