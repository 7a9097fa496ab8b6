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
from gramian.evaluation.stats import difference_interval, share_interval, student_quantile


def test_ranks_agree_with_sorting(generator):
    scores = torch.randn(20, 30, generator=generator)
    target = torch.randint(0, 30, (20,), generator=generator)
    expected = [1 + sorted(row.tolist(), reverse=True).index(row[t].item()) for row, t in zip(scores, target, strict=True)]
    assert ranks(scores, target).expected.tolist() == expected
    one_hot = torch.nn.functional.one_hot(target, 30).bool()
    assert ranks(scores, one_hot).expected.tolist() == expected


def test_constant_scores_give_chance_and_not_success():
    found = ranks(torch.zeros(4, 9), torch.arange(4))
    assert found.expected.tolist() == [5.0] * 4
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
    assert ranks(scores, torch.tensor([0])).expected.tolist() == [3.5]


def test_several_matches_count_by_the_best_and_do_not_push_each_other_down():
    scores = torch.tensor([[0.9, 0.8, 0.7, 0.1]])
    assert ranks(scores, torch.tensor([[False, True, True, False]])).expected.tolist() == [2.0]


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
    with pytest.raises(InputError, match="`k` must be an integer of at least 1"):
        recall_at_k(found, 0)


def wilson(successes, n, z=1.959963984540054):
    """Wilson's interval, as he wrote it: the p with (p̂ − p)² = z² p (1 − p) / n."""
    p = successes / n
    roots = np.roots([1 + z**2 / n, -(2 * p + z**2 / n), p**2])
    return min(roots), max(roots)


@pytest.mark.parametrize(("successes", "n"), [(0, 20), (1, 20), (20, 20), (60, 200), (199, 200), (500, 1000)])
def test_the_interval_of_a_share_is_wilson_s(successes, n):
    interval = share_interval(np.array([1.0] * successes + [0.0] * (n - successes)))
    low, high = wilson(successes, n)
    assert interval.value == successes / n
    # At the ends the roots of the quadratic are good to √ε alone.
    assert interval.low == pytest.approx(low, abs=1e-7) and interval.high == pytest.approx(high, abs=1e-7)
    assert 0 <= interval.low < interval.high <= 1


@pytest.mark.parametrize(("for_it", "against", "n"), [(0, 0, 50), (3, 0, 50), (8, 5, 200), (0, 20, 20)])
def test_the_interval_of_a_paired_difference_is_bonett_and_price_s(for_it, against, n):
    values = np.array([1.0] * for_it + [-1.0] * against + [0.0] * (n - for_it - against))
    interval = difference_interval(values)
    p12, p21 = (for_it + 1) / (n + 2), (against + 1) / (n + 2)
    width = 1.959963984540054 * np.sqrt((p12 + p21 - (p12 - p21) ** 2) / (n + 2))
    assert interval.low == pytest.approx(max(-1, min(p12 - p21 - width, interval.value)), abs=1e-12)
    assert interval.high == pytest.approx(min(1, max(p12 - p21 + width, interval.value)), abs=1e-12)
    assert -1 <= interval.low < interval.high <= 1


def test_rows_of_one_item_tell_no_more_than_one_of_them():
    """Every item 20 times gives the interval of the items, in one stratum and in several with missing entries."""
    generator = np.random.default_rng(1)
    for values in ((generator.random(50) < 0.7).astype(float), (generator.random((3, 50)) < 0.4).astype(float)):
        once = share_interval(values)
        often, items = np.repeat(values, 20, -1), np.repeat(np.arange(50), 20)
        assert share_interval(often, items) == pytest.approx(once)
        assert difference_interval(often - 0.3, items) == pytest.approx(difference_interval(values - 0.3))
        naive = share_interval(often)
        assert once.high - once.low > 4 * (naive.high - naive.low)
    ends = [share_interval(np.full(1000, end), np.repeat(np.arange(50), 20)) for end in (0.0, 1.0)]
    assert [end.percent() for end in ends] == ["0.0 [0.0, 7.1]", "100.0 [92.9, 100.0]"]


def test_the_standard_error_is_that_of_drawing_items():
    """Against a plain bootstrap of whole items with unequal numbers of rows, for several strata with missing entries."""
    generator = np.random.default_rng(2)
    items = generator.integers(0, 60, 400)
    chance = generator.random(60)[items]
    values = (generator.random((3, 400)) < chance).astype(float)
    values[1, generator.random(400) < 0.3] = np.nan
    rows = [np.flatnonzero(items == item) for item in range(60)]
    drawn = []
    for _ in range(2000):
        part = values[:, np.concatenate([rows[item] for item in generator.integers(0, 60, 60)])]
        drawn.append(np.mean([np.nanmean(row) for row in part]))
    interval = share_interval(values, items)
    assert interval.value == pytest.approx(np.mean([np.nanmean(row) for row in values]))
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * np.std(drawn), rel=0.08)
    difference = difference_interval(values - np.roll(values, 7, 1), items)
    assert difference.low <= difference.value <= difference.high


@pytest.mark.parametrize("runs", [3, 5, 10])
@pytest.mark.parametrize(("spread", "items", "alike"), [(0.05, 500, 0.5), (0.02, 100, 0.9), (0.0, 100, 0.0)])
def test_intervals_of_several_runs_cover_the_truth(runs, spread, items, alike):
    """Where the runs differ most, where the items do, and where neither: 95 % within what 300 draws can tell, and not more."""
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(300):
        chance = 0.3 + spread * generator.standard_normal((runs, 1, 1))
        easy = generator.random(items) < 0.3  # found in every run
        own = generator.random((runs, 2, items)) < chance
        values = np.where(generator.random(items) < alike, easy, own).astype(float)
        interval = share_interval(values)
        covered += interval.low <= 0.3 <= interval.high
    assert 0.92 <= covered / 300 <= 0.985


def literal_crossed(values):
    """(runs, items): Hillis's variance and degrees of freedom, from the covariance of each two runs by the jackknife."""
    runs, items = values.shape
    left = np.array([[np.delete(row, i).mean() for i in range(items)] for row in values])
    pairs = [(r, s) for r in range(runs) for s in range(runs) if r != s]
    jackknife = [((left[r] - left[r].mean()) * (left[s] - left[s].mean())).sum() * (items - 1) / items for r, s in pairs]
    between = values.mean(1).var(ddof=1) / runs
    shared = max(0.0, np.mean(jackknife)) * (items - 1) / items  # as of a ratio: without the jackknife's n/(n − 1)
    return between + shared, (runs - 1) * ((between + shared) / between) ** 2


@pytest.mark.parametrize("alike", [0.0, 0.7])
def test_the_interval_over_runs_is_hillis_s(alike):
    generator = np.random.default_rng(5)
    shared = generator.random(200) < 0.4
    hits = np.where(generator.random((4, 200)) < alike, shared, generator.random((4, 200)) < 0.4).astype(float)
    variance, degrees = literal_crossed(hits)
    t, p = scipy.stats.t.ppf(0.975, degrees), hits.mean()
    n = p * (1 - p) / variance
    centre, width = p + t * t / (2 * n), t * np.sqrt(p * (1 - p) / n + t * t / (4 * n * n))
    assert share_interval(hits[:, None])[1:] == pytest.approx(
        [(centre - width) / (1 + t * t / n), (centre + width) / (1 + t * t / n)]
    )


@pytest.mark.parametrize("chance", [0.01, 0.02, 0.5, 0.99])
def test_intervals_cover_the_truth_near_the_ends_too(chance):
    """Captions of 40 films, four each, that agree: 95 % within what 600 draws can tell."""
    generator = np.random.default_rng(3)
    items = np.repeat(np.arange(40), 4)
    shares, differences = 0, 0
    for _ in range(600):
        first, second = (np.repeat((generator.random(40) < chance).astype(float), 4) for _ in range(2))
        share, difference = share_interval(first, items), difference_interval(first - second, items)
        shares += share.low <= chance <= share.high
        differences += difference.low <= 0 <= difference.high
    assert shares / 600 >= 0.92 and differences / 600 >= 0.93


def test_runs_that_differ_near_an_end_stay_within_it():
    values = np.zeros((3, 1, 100))
    values[0, 0, :5] = 1
    interval = share_interval(values)
    assert interval.value == pytest.approx(0.05 / 3)
    assert 0 <= interval.low < interval.value < 0.05 < interval.high < 0.3
    wide = difference_interval(np.stack([np.ones((1, 9)), -np.ones((1, 9))]))
    assert (wide.low, wide.value, wide.high) == (-1, 0, 1)


@pytest.mark.parametrize("p", [0.5, 0.6, 0.975, 0.999])
@pytest.mark.parametrize("degrees", [1, 1.3, 2, 2.7, 3, 4, 7, 30, 101.5])
def test_student_quantiles_are_scipy_s(p, degrees):
    assert student_quantile(p, degrees) == pytest.approx(scipy.stats.t.ppf(p, degrees), rel=1e-9, abs=1e-12)


def test_student_quantile_refuses():
    with pytest.raises(InputError, match=r"`p` must lie in \[0.5, 1\)"):
        student_quantile(1.0, 2)


def test_intervals_of_nothing_and_of_one_item():
    for interval in (share_interval, difference_interval):
        assert np.isnan(interval(np.full((2, 3), np.nan)).value)
        assert np.isnan(interval(np.empty(0)).value)
        low, high = interval(np.array([1.0, np.nan]))[1:]
        assert high - low > 0.5


@pytest.mark.parametrize("interval", [share_interval, difference_interval])
def test_intervals_refuse(interval):
    with pytest.raises(InputError, match="`level` must lie"):
        interval(np.ones(3), level=95)
    with pytest.raises(InputError, match="`values` must have 1 to 3 axes"):
        interval(np.ones((1, 1, 1, 1)))
    with pytest.raises(InputError, match=r"`values` must lie in \[.*, 1\]; got 1.5"):
        interval(np.full(3, 1.5))
    with pytest.raises(InputError, match=r"`items` must name the item of each of 3 rows; got shape \(2,\)"):
        interval(np.ones(3), np.arange(2))


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
    assert modality_gap(a[:1], -a[:1]) == pytest.approx(2)
    assert (antipodal_share(a, a), antipodal_share(a, -a)) == (0, 1)
    assert antipodal_share(torch.eye(2), torch.eye(2).flip(0)) == 0  # orthogonal
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
