import numpy as np
import pytest
import torch

from gramian.errors import InputError
from gramian.metrics import mean_reciprocal_rank, median_rank, ranks, recall_at_k
from gramian.stats import bootstrap_mean


def test_ranks_agree_with_sorting(generator):
    scores = torch.randn(20, 30, generator=generator)
    target = torch.randint(0, 30, (20,), generator=generator)
    expected = [1 + sorted(row.tolist(), reverse=True).index(row[t].item()) for row, t in zip(scores, target, strict=True)]
    assert ranks(scores, target).tolist() == expected


def test_constant_scores_give_chance_and_not_success():
    found = ranks(torch.zeros(4, 9), torch.arange(4))
    assert found.tolist() == [5.0] * 4
    assert recall_at_k(found, 1) == 0


def test_unfindable_items_rank_behind_all_findable_ones():
    scores = torch.tensor([[-torch.inf, 0.1, -torch.inf, 0.2]])
    assert ranks(scores, torch.tensor([0])).tolist() == [3.5]


def test_several_matches_count_by_the_best_and_do_not_push_each_other_down():
    scores = torch.tensor([[0.9, 0.8, 0.7, 0.1]])
    assert ranks(scores, torch.tensor([[False, True, True, False]])).tolist() == [2.0]


@pytest.mark.parametrize(
    ("scores", "relevant", "message"),
    [
        (torch.tensor([[0.1, float("nan")]]), torch.tensor([0]), "NaN for 1 of 1 queries"),
        (torch.zeros(2, 3), torch.tensor([0, 3]), r"indices in \[0, 3\)"),
        (torch.zeros(2, 3), torch.tensor([0]), "2 indices"),
        (torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.bool), "no match for 2 of 2"),
        (torch.zeros(2, 3), torch.ones(2, 2, dtype=torch.bool), r"shape \(2, 3\)"),
        (torch.zeros(3), torch.tensor([0]), r"shape \(q, n\)"),
    ],
)
def test_ranks_refuse(scores, relevant, message):
    with pytest.raises(InputError, match=message):
        ranks(scores, relevant)


def test_summaries_by_hand():
    found = np.array([1.0, 2.0, 10.0, 1.5])
    assert recall_at_k(found, 1) == 0.25
    assert recall_at_k(found, 2) == 0.75
    assert median_rank(found) == 1.75
    assert mean_reciprocal_rank(found) == pytest.approx((1 + 1 / 2 + 1 / 10 + 1 / 1.5) / 4)
    assert np.isnan(recall_at_k(np.array([]), 1))
    with pytest.raises(InputError, match="`k` must be at least 1"):
        recall_at_k(found, 0)


def test_interval_of_a_share_matches_the_binomial():
    values = np.array([1.0] * 60 + [0.0] * 140)
    interval = bootstrap_mean(values, resamples=20_000)
    error = 1.96 * np.sqrt(0.3 * 0.7 / 200)
    assert interval.value == pytest.approx(0.3)
    assert interval.low == pytest.approx(0.3 - error, abs=0.006)
    assert interval.high == pytest.approx(0.3 + error, abs=0.006)


def test_grouping_alike_items_changes_nothing():
    """Against a plain bootstrap by indices, for several runs and strata with missing entries."""
    generator = np.random.default_rng(1)
    values = (generator.random((2, 3, 40)) < 0.4).astype(float)
    values[:, 1, :10] = np.nan
    drawn = []
    for _ in range(4000):
        items, runs = generator.integers(0, 40, 40), generator.integers(0, 2, 2)
        part = values[runs][:, :, items]
        drawn.append(np.mean([np.nanmean(part[:, stratum]) for stratum in range(3)]))
    interval = bootstrap_mean(values, resamples=20_000)
    assert interval.value == pytest.approx(np.mean([np.nanmean(values[:, s]) for s in range(3)]))
    assert interval.low == pytest.approx(np.quantile(drawn, 0.025), abs=0.012)
    assert interval.high == pytest.approx(np.quantile(drawn, 0.975), abs=0.012)


def test_bootstrap_is_reproducible_and_covers_the_estimate():
    values = np.random.default_rng(0).random((3, 50))
    first, second = bootstrap_mean(values), bootstrap_mean(values)
    assert first == second
    assert first.low < first.value < first.high


def test_bootstrap_of_nothing_is_nan():
    assert np.isnan(bootstrap_mean(np.full((2, 3), np.nan)).value)


def test_bootstrap_refuses():
    with pytest.raises(InputError, match="`level` must lie"):
        bootstrap_mean(np.ones(3), level=95)
    with pytest.raises(InputError, match="`values` must have 1 to 3 axes"):
        bootstrap_mean(np.ones((1, 1, 1, 1)))
