import numpy as np
import pytest
import scipy.stats
import torch

from gramian.errors import InputError
from gramian.evaluation.metrics import (
    Ranks,
    antipodal_share,
    effective_rank,
    hits_at_k,
    hubness,
    mean_reciprocal_rank,
    median_rank,
    modality_gap,
    ranks,
    recall_at_k,
    uniformity,
)
from gramian.evaluation.stats import bootstrap_mean, student_quantile


def test_ranks_agree_with_sorting(generator):
    scores = torch.randn(20, 30, generator=generator)
    target = torch.randint(0, 30, (20,), generator=generator)
    expected = [1 + sorted(row.tolist(), reverse=True).index(row[t].item()) for row, t in zip(scores, target, strict=True)]
    assert ranks(scores, target).mean.tolist() == expected
    one_hot = torch.nn.functional.one_hot(target, 30).bool()
    assert ranks(scores, one_hot).mean.tolist() == expected


def test_constant_scores_give_chance_and_not_success():
    found = ranks(torch.zeros(4, 9), torch.arange(4))
    assert found.mean.tolist() == [5.0] * 4
    for k in (1, 5, 9, 20):
        assert recall_at_k(found, k) == pytest.approx(min(k / 9, 1))
    assert mean_reciprocal_rank(found) == pytest.approx(np.mean(1 / np.arange(1, 10)))


def test_ties_are_broken_at_random_in_expectation():
    """Against shuffling the candidates and sorting stably."""
    generator = np.random.default_rng(0)
    scores, target = np.array([0.3, 0.7, 0.3, 0.1, 0.3, 0.9]), 2
    places = []
    for _ in range(20_000):
        order = generator.permutation(6)
        places.append(1 + list(order[np.argsort(-scores[order], kind="stable")]).index(target))
    found = ranks(torch.tensor(scores)[None], torch.tensor([target]))
    for k in (1, 2, 3, 4, 5, 6):
        assert hits_at_k(found, k)[0] == pytest.approx(np.mean(np.array(places) <= k), abs=0.015)
    assert mean_reciprocal_rank(found) == pytest.approx(np.mean(1 / np.array(places)), abs=0.01)


def test_unfindable_items_rank_behind_all_findable_ones():
    scores = torch.tensor([[-torch.inf, 0.1, -torch.inf, 0.2]])
    assert ranks(scores, torch.tensor([0])).mean.tolist() == [3.5]


def test_several_matches_count_by_the_best_and_do_not_push_each_other_down():
    scores = torch.tensor([[0.9, 0.8, 0.7, 0.1]])
    assert ranks(scores, torch.tensor([[False, True, True, False]])).mean.tolist() == [2.0]


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
    found = Ranks(np.array([0, 1, 9, 0]), np.array([0, 0, 0, 1]))
    assert recall_at_k(found, 1) == (1 + 0 + 0 + 0.5) / 4
    assert recall_at_k(found, 2) == 0.75
    assert median_rank(found) == 1.75
    assert mean_reciprocal_rank(found) == pytest.approx((1 + 1 / 2 + 1 / 10 + (1 + 1 / 2) / 2) / 4)
    none = Ranks(np.array([], dtype=int), np.array([], dtype=int))
    assert np.isnan(recall_at_k(none, 1))
    assert np.isnan(mean_reciprocal_rank(none))
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
    """Against a plain bootstrap by indices, for several strata with missing entries."""
    generator = np.random.default_rng(1)
    values = (generator.random((3, 40)) < 0.4).astype(float)
    values[1, :10] = np.nan
    drawn = []
    for _ in range(4000):
        part = values[:, generator.integers(0, 40, 40)]
        drawn.append(np.mean([np.nanmean(part[stratum]) for stratum in range(3)]))
    interval = bootstrap_mean(values, resamples=20_000)
    assert interval.value == pytest.approx(np.mean([np.nanmean(values[s]) for s in range(3)]))
    assert interval.low == pytest.approx(np.quantile(drawn, 0.025), abs=0.012)
    assert interval.high == pytest.approx(np.quantile(drawn, 0.975), abs=0.012)


@pytest.mark.parametrize(("spread", "items"), [(0.05, 2000), (0.02, 100), (0.0, 100)])
def test_intervals_of_three_runs_cover_the_truth(spread, items):
    """Where the runs differ most, where the items do, and both: 95 % within what 300 draws can tell (and no more than wide)."""
    generator = np.random.default_rng(0)
    covered = 0
    for trial in range(300):
        chance = 0.3 + spread * generator.standard_normal((3, 1, 1))
        values = (generator.random((3, 2, items)) < chance).astype(float)
        interval = bootstrap_mean(values, resamples=300, seed=trial)
        covered += interval.low <= 0.3 <= interval.high
    assert covered / 300 >= 0.92


@pytest.mark.parametrize(
    ("p", "degrees", "expected"), [(0.975, 1, 12.7062), (0.975, 2, 4.30265), (0.95, 4, 2.13185), (0.5, 3, 0)]
)
def test_student_quantiles_are_those_of_the_tables(p, degrees, expected):
    assert student_quantile(p, degrees) == pytest.approx(expected, rel=1e-4)


def test_student_quantile_refuses():
    with pytest.raises(InputError, match=r"`p` must lie in \[0.5, 1\)"):
        student_quantile(1.0, 2)


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


def _unit(n, d, generator):
    return torch.nn.functional.normalize(torch.randn(n, d, generator=generator, dtype=torch.float64), dim=1)


def test_uniformity_against_loops_and_extremes(generator):
    z = _unit(12, 5, generator)
    pairs = [np.exp(-2 * float((z[i] - z[j]).square().sum())) for i in range(12) for j in range(i)]
    assert uniformity(z) == pytest.approx(np.log(np.mean(pairs)))
    assert uniformity(z[:1].repeat(5, 1)) == pytest.approx(0, abs=1e-9)
    assert uniformity(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])) == pytest.approx(-8)
    assert uniformity(_unit(400, 64, generator)) == pytest.approx(-4, abs=0.15)


def test_effective_rank_counts_directions(generator):
    basis = torch.linalg.qr(torch.randn(9, 9, generator=generator, dtype=torch.float64)).Q
    assert effective_rank(basis[:4]) == pytest.approx(4)
    assert effective_rank(basis[:1].repeat(6, 1)) == pytest.approx(1, abs=1e-6)
    weights = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)
    assert effective_rank(weights[:, None] * basis[:3]) == pytest.approx(2**1.5)


def test_gap_and_antipodes_by_hand(generator):
    a, shift = _unit(50, 8, generator), torch.zeros(8, dtype=torch.float64)
    shift[0] = 0.25
    assert modality_gap(a, a) == 0
    assert modality_gap(a, a + shift) == pytest.approx(0.25)
    assert (antipodal_share(a, a), antipodal_share(a, -a)) == (0, 1)
    assert antipodal_share(a, torch.cat([a[:20], -a[20:]])) == 0.6


def test_hubness_is_the_skewness_of_the_occurrences(generator):
    scores = torch.randn(60, 25, generator=generator)
    counts = np.zeros(25)
    for row in scores.numpy():
        counts[np.argsort(-row)[:3]] += 1
    assert hubness(scores, k=3) == pytest.approx(scipy.stats.skew(counts))
    assert hubness(scores, k=99) == 0
    assert hubness(scores + 9 * torch.nn.functional.one_hot(torch.tensor(4), 25), k=1) > 4


def test_shape_metrics_do_not_see_a_rotation(generator):
    z, other = _unit(20, 6, generator), _unit(20, 6, generator)
    Q = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64)).Q
    for metric in (uniformity, effective_rank):
        assert metric(z @ Q) == pytest.approx(metric(z))
    for metric in (modality_gap, antipodal_share):
        assert metric(z @ Q, other @ Q) == pytest.approx(metric(z, other))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: uniformity(torch.eye(1)), r"`vectors` must be .* n ≥ 2"),
        (lambda: effective_rank(torch.arange(3)), r"`vectors` must be floating point of shape \(n, d\)"),
        (lambda: modality_gap(torch.eye(2), torch.zeros(0, 2)), r"`vectors` must be .* n ≥ 1"),
        (lambda: antipodal_share(torch.eye(2), torch.eye(3)), "`first` and `second` must have one shape"),
        (lambda: hubness(torch.eye(2), k=0), "`k` be at least 1"),
    ],
)
def test_shape_metrics_refuse(call, message):
    with pytest.raises(InputError, match=message):
        call()
