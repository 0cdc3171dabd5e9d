"""Comparisons: against statsmodels and scipy, false alarms in A/A, planted gaps, coverage, and what is refused."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import DescrStatsW

from clearsight.core.intervals import mean_interval
from clearsight.errors import UsageError
from clearsight.evaluation.comparison import compare_answers, compare_runs, find_needed, find_power


def answers(only_a, only_b, both, neither):
    a = np.repeat([True, False, True, False], [only_a, only_b, both, neither])
    b = np.repeat([False, True, True, False], [only_a, only_b, both, neither])
    return a, b


@pytest.mark.parametrize("counts", [(3, 9, 80, 8), (20, 21, 900, 59), (1, 0, 5, 0), (40, 12, 300, 20), (5, 5, 10, 1)])
def test_mcnemar_agrees_with_statsmodels(counts):
    only_a, only_b, both, neither = counts
    found = compare_answers(*answers(*counts))
    wanted = mcnemar([[both, only_a], [only_b, neither]], exact=True)
    assert found.p_value == pytest.approx(wanted.pvalue, rel=1e-9)
    assert found.difference == pytest.approx(found.accuracy_a - found.accuracy_b)


@pytest.mark.parametrize("seed", range(5))
def test_the_plain_paired_test_agrees_with_scipy(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(0.9, 0.01, 12), rng.normal(0.895, 0.01, 12)
    found, wanted = compare_runs(a, b), stats.ttest_rel(a, b)
    assert found.p_value == pytest.approx(wanted.pvalue, rel=1e-9)
    interval = wanted.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_folds_widen_the_interval_as_nadeau_and_bengio_say():
    values = (0.90, 0.92, 0.91, 0.93, 0.89)
    low, high = mean_interval(values, ratio=1 / 4)
    half = stats.t.ppf(0.975, 4) * np.std(values, ddof=1) * np.sqrt(1 / 5 + 1 / 4)
    assert (low, high) == pytest.approx((0.91 - half, 0.91 + half))
    assert high - low == pytest.approx(1.5 * np.subtract(*mean_interval(values)[::-1]))


@pytest.mark.parametrize("effect", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("n", [10, 25, 100])
def test_power_agrees_with_statsmodels(effect, n):
    assert find_power(effect, n) == pytest.approx(TTestPower().power(effect, n, 0.05), abs=1e-6)


@pytest.mark.parametrize("effect", [0.1, 0.3, 0.8])
def test_the_number_of_pairs_needed_agrees_with_statsmodels(effect):
    assert find_needed(effect) == int(np.ceil(TTestPower().solve_power(effect, alpha=0.05, power=0.8)))


def test_no_number_of_pairs_settles_what_the_data_cannot():
    assert find_needed(0.1, ratio=0.25) is None
    assert find_needed(0.0) is None
    assert find_needed(3.0, ratio=0.25) is not None


def compare_several(rng, *, gaps, pairs=12):
    """Every two of some recipes, whose values share a seed's luck in each pair."""
    values = np.array(gaps)[:, None] + rng.normal(0, 0.01, pairs) + rng.normal(0, 0.01, (len(gaps), pairs))
    places = list(combinations(range(len(gaps)), 2))
    return [(a, b, compare_runs(values[a], values[b], comparisons=len(places))) for a, b in places], values


@pytest.mark.parametrize("seed", range(5))
def test_corrected_p_values_and_intervals_agree_with_statsmodels(seed):
    found, values = compare_several(np.random.default_rng(seed), gaps=(0.9, 0.905, 0.91, 0.92))
    plain = [stats.ttest_rel(values[a], values[b]).pvalue for a, b, _ in found]
    wanted = multipletests(plain, method="bonferroni")[1]
    assert [one.p_value for _, _, one in found] == pytest.approx(wanted.tolist(), rel=1e-9)
    for a, b, one in found:
        interval = DescrStatsW(values[a] - values[b]).tconfint_mean(alpha=0.05 / len(found))
        assert (one.low, one.high) == pytest.approx(interval)


@pytest.mark.long
def test_a_corrected_interval_leaves_zero_out_exactly_where_its_p_value_shows_a_difference():
    """With p corrected alone, as it was before, some 5 % of these 1,500 disagree."""
    rng = np.random.default_rng(6)
    found = [one for _ in range(500) for _, _, one in compare_several(rng, gaps=(0.9, 0.91, 0.915))[0]]
    assert 300 < sum(one.shown for one in found) < 1200
    assert all(one.shown == (one.low > 0 or one.high < 0) for one in found)


@pytest.mark.long
def test_corrected_intervals_hold_together_as_often_as_stated():
    """All six of four recipes, 1,000 times; intervals that are each for itself hold together in some 80 %."""
    rng, gaps = np.random.default_rng(7), (0.9, 0.9, 0.905, 0.92)
    held = [
        all(one.low <= gaps[a] - gaps[b] <= one.high for a, b, one in compare_several(rng, gaps=gaps)[0])
        for _ in range(1000)
    ]
    assert 0.94 <= np.mean(held) <= 0.99


def test_shared_training_rows_widen_the_test_and_its_interval_alike():
    """Nadeau and Bengio 2003, equation 10, from scipy's plain test: t shrinks by sqrt((1/n + ratio) / (1/n))."""
    rng = np.random.default_rng(6)
    a, b, ratio = rng.normal(0.9, 0.01, 12), rng.normal(0.893, 0.01, 12), 1 / 9
    plain, grown = stats.ttest_rel(a, b), np.sqrt((1 / 12 + ratio) / (1 / 12))
    found = compare_runs(a, b, ratio=ratio)
    assert found.p_value == pytest.approx(2 * stats.t.sf(abs(plain.statistic) / grown, 11), rel=1e-9)
    half = np.diff(plain.confidence_interval(0.95))[0] / 2 * grown
    assert (found.low, found.high) == pytest.approx(((a - b).mean() - half, (a - b).mean() + half))
    assert found.ratio == ratio


def test_a_smaller_loss_is_a_win_and_makes_the_next_one_likely():
    rng = np.random.default_rng(7)
    gains = rng.normal(0.02, 0.01, 15)
    as_accuracy, as_loss = compare_runs(gains, 0 * gains), compare_runs(-gains, 0 * gains, better=-1)
    assert as_loss.difference == -as_accuracy.difference < 0
    assert (as_loss.wins, as_loss.ties, as_loss.p_value) == (as_accuracy.wins, 0, as_accuracy.p_value)
    assert as_loss.wins == (gains > 0).sum()
    assert as_loss.probability == pytest.approx(as_accuracy.probability)
    assert as_accuracy.probability > 0.9


@pytest.mark.long
def test_the_probability_of_one_more_win_is_right_in_the_long_run():
    """Seen from the pair that comes next, it must be uniform: that pair lies above a tenth of all places a tenth of the time."""
    rng = np.random.default_rng(8)
    drawn = rng.normal(0.3, 2, (3000, 11))
    stated = [compare_runs(row[:10] - row[10], np.zeros(10)).probability for row in drawn]
    assert stats.kstest(stated, "uniform").pvalue > 0.01


def test_more_comparisons_need_more_pairs():
    rng = np.random.default_rng(9)
    differences = rng.normal(0.01, 0.02, 20)
    effect = differences.mean() / differences.std(ddof=1)
    for comparisons in (1, 3, 10):
        found = compare_runs(differences, np.zeros(20), comparisons=comparisons).needed
        assert found == int(np.ceil(TTestPower().solve_power(effect, alpha=0.05 / comparisons, power=0.8)))


@pytest.mark.parametrize("ratio", [0.02, 0.1])
def test_shared_rows_need_more_pairs(ratio):
    """Their number is the least whose power, of statsmodels with the deviation made larger for the ratio, is four in five."""
    rng = np.random.default_rng(10)
    differences = rng.normal(0.03, 0.02, 12)
    effect, needed = (
        differences.mean() / differences.std(ddof=1),
        compare_runs(differences, np.zeros(12), ratio=ratio).needed,
    )
    power = [TTestPower().power(effect / np.sqrt(1 + n * ratio), n, 0.05) for n in (needed - 1, needed)]
    assert power[0] < 0.8 <= power[1]


@pytest.mark.long
def test_equal_models_rarely_look_different():
    """1,000 times two models of 0.9 on 2,000 rows that fail on different rows: at most 5 % false alarms, with room for luck."""
    rng = np.random.default_rng(1)
    found = [compare_answers(rng.random(2000) < 0.9, rng.random(2000) < 0.9, seed=k) for k in range(1000)]
    assert sum(one.shown for one in found) <= 50 + 2 * np.sqrt(1000 * 0.05 * 0.95)
    assert 0.93 <= np.mean([one.low <= 0 <= one.high for one in found]) <= 0.97


@pytest.mark.long
def test_equal_recipes_rarely_look_different():
    rng = np.random.default_rng(2)
    found = [compare_runs(rng.normal(0.9, 0.01, 10), rng.normal(0.9, 0.01, 10)) for _ in range(1000)]
    assert sum(one.shown for one in found) <= 50 + 2 * np.sqrt(1000 * 0.05 * 0.95)
    assert 0.93 <= np.mean([one.low <= 0 <= one.high for one in found]) <= 0.97


def resample(rng, *, splits=10, rows=150, judged=30):
    """Accuracies of two nearest-mean classifiers, equally good, each on its own 6 features, over splits of the same rows."""
    labels = np.arange(rows) % 2
    features = rng.normal(0, 1, (rows, 12)) + 0.35 * labels[:, None]
    scores = np.empty((2, splits))
    for s in range(splits):
        order = rng.permutation(rows)
        test, train = order[:judged], order[judged:]
        for m, part in enumerate((slice(0, 6), slice(6, 12))):
            means = [features[train][labels[train] == k][:, part].mean(0) for k in (0, 1)]
            apart = [((features[test][:, part] - mean) ** 2).sum(1) for mean in means]
            scores[m, s] = np.mean((apart[1] < apart[0]) == (labels[test] == 1))
    return scores


@pytest.mark.long
def test_the_correction_keeps_false_alarms_rare_where_splits_share_rows():
    """Without it, the same 1,000 A/A comparisons raise several times as many."""
    rng = np.random.default_rng(3)
    pairs = [resample(rng) for _ in range(1000)]
    corrected = sum(compare_runs(a, b, ratio=30 / 120).shown for a, b in pairs)
    plain = sum(compare_runs(a, b).shown for a, b in pairs)
    assert corrected <= 50 + 2 * np.sqrt(1000 * 0.05 * 0.95)
    assert plain > 2 * corrected


@pytest.mark.long
def test_a_planted_point_is_found_as_often_as_promised():
    rng = np.random.default_rng(4)
    n = find_needed(0.01 / 0.012)
    found = [compare_runs(0.01 + rng.normal(0.9, 0.012, n), np.full(n, 0.9)) for _ in range(1000)]
    assert 0.77 <= np.mean([one.shown for one in found]) <= 0.86
    assert 0.93 <= np.mean([one.low <= 0.01 <= one.high for one in found]) <= 0.97


@pytest.mark.long
def test_the_bootstrap_covers_a_planted_gap():
    rng, covered = np.random.default_rng(5), []
    for k in range(1000):
        draw = rng.random(3000)
        a, b = draw >= 0.05, (draw < 0.02) | (draw >= 0.08)  # wrong on 5 % and on 6 %
        found = compare_answers(a, b, seed=k)
        covered.append(found.low <= 0.01 <= found.high)
    assert 0.93 <= np.mean(covered) <= 0.97


def test_counts_of_a_comparison_are_those_of_its_rows():
    found = compare_answers(*answers(3, 9, 80, 8))
    assert (found.n, found.only_a, found.only_b, found.accuracy_a, found.accuracy_b) == (100, 3, 9, 0.83, 0.89)
    assert found.difference == pytest.approx(-0.06)
    assert found.as_dict()["shown"] is found.shown is False
    assert compare_answers(*answers(30, 2, 80, 8)).shown
    again, other = (compare_answers(*answers(3, 9, 80, 8), seed=seed) for seed in (0, 1))
    assert (again.low, again.high) == (found.low, found.high)
    assert (other.low, other.high) == pytest.approx((found.low, found.high), abs=0.011)


@pytest.mark.parametrize("counts", [(12, 30, 200, 58), (40, 12, 300, 20)])
def test_the_interval_of_models_is_that_of_resampled_rows(counts):
    """Rows drawn with replacement one by one, 4,000 times, and their percentiles."""
    a, b = answers(*counts)
    found, rng = compare_answers(a, b), np.random.default_rng(11)
    apart = a.astype(int) - b
    drawn = [apart[rng.integers(0, len(apart), len(apart))].mean() for _ in range(4000)]
    assert (found.low, found.high) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.004)


def test_wins_and_ties_are_counted_and_json_holds_them():
    a, b = np.array([2.0, 1, 3, 1, 1, 4, 1, 1, 1, 1, 0]), np.ones(11)
    found = compare_runs(a, b)
    assert (found.wins, found.ties) == (3, 7)
    assert found.differences == tuple((a - b).tolist())
    plain = found.as_dict()
    assert (plain["n"], plain["wins"], plain["ties"], plain["shown"], plain["ratio"]) == (11, 3, 7, False, 0.0)


def test_equal_pairs_that_all_win_by_as_much_have_wins_and_no_interval():
    found = compare_runs(np.full(10, 0.9), np.full(10, 0.8), ratio=0.1)
    assert (found.wins, found.ties, found.needed, found.high, found.ratio) == (10, 0, None, None, 0.1)
    assert found.difference == pytest.approx(0.1)
    assert compare_runs(np.full(10, 0.5), np.full(10, 0.5)).ties == 10
    tiny = compare_runs(np.linspace(0, 1e-6, 10), np.zeros(10))  # small is not constant
    assert tiny.p_value is not None


@pytest.mark.parametrize("shapes", [((0,), (0,)), ((3, 1), (3, 1)), ((4,), (3,))])
def test_answers_to_no_or_other_rows_are_refused(shapes):
    with pytest.raises(UsageError, match=r"answers must be of the same rows, one or more, got \("):
        compare_answers(*(np.ones(shape, bool) for shape in shapes))


def test_runs_of_other_shapes_are_refused():
    for a, b in ((np.zeros((12, 2)), np.zeros((12, 2))), (np.zeros(12), np.zeros(11))):
        with pytest.raises(UsageError, match="pairs of runs must be 10 or more, got"):
            compare_runs(a, b)


@pytest.mark.parametrize(("effect", "n"), [(6.0, 2), (4.0, 3), (20.0, 10), (-0.5, 25)])
def test_power_of_large_and_negative_effects_is_finite_and_right(effect, n):
    drawn = stats.nct.sf(stats.t.ppf(0.975, n - 1), n - 1, abs(effect) * np.sqrt(n))
    assert find_power(effect, n) == pytest.approx(drawn, abs=1e-3)
    assert find_power(effect, n, level=0.01) < find_power(effect, n) or find_power(effect, n) > 0.9999


def test_the_least_number_of_pairs_is_two_and_the_most_a_hundred_thousand():
    assert find_needed(1e6) == 2
    edge = (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) / np.sqrt(100_000)
    assert find_needed(edge * 1.001) == pytest.approx(100_000, rel=0.003)
    assert find_needed(edge * 0.999) is None
    assert find_needed(-0.3) == find_needed(0.3)


def test_models_that_answer_alike_show_no_difference():
    found = compare_answers(*answers(0, 0, 50, 10))
    assert (found.p_value, found.difference, found.low, found.high, found.shown) == (1.0, 0.0, 0.0, 0.0, False)


def test_pairs_that_do_not_vary_have_no_interval():
    found = compare_runs(np.full(10, 0.9), np.full(10, 0.8))
    assert (found.low, found.p_value, found.probability, found.shown) == (None, None, None, False)
    assert compare_runs(np.full(10, 0.9), np.full(10, 0.9)).p_value == 1.0


def test_nine_pairs_and_other_rows_are_refused():
    with pytest.raises(UsageError, match=r"pairs of runs must be 10 or more, got 9 and 9\. Run more seeds"):
        compare_runs(np.zeros(9), np.zeros(9))
    with pytest.raises(UsageError, match=r"answers must be of the same rows, one or more, got \(3,\) and \(4,\)"):
        compare_answers(np.ones(3, bool), np.ones(4, bool))


def test_the_probability_of_one_more_win_is_that_of_a_new_draw():
    """Student's t of the mean over the deviation of one more pair, which is not yet in the mean: s sqrt(1 + 1 / n)."""
    differences = np.array([3.0, 1, -1, 2, 0, 4, 1, 2, -2, 3])
    found = compare_runs(differences, np.zeros(10))
    t = differences.mean() / (differences.std(ddof=1) * np.sqrt(1 + 1 / 10))
    assert found.probability == pytest.approx(stats.t(9).cdf(t))
    assert compare_runs(differences, np.zeros(10), better=-1).probability == pytest.approx(stats.t(9).sf(t))


def test_an_effect_of_one_deviation_needs_ten_pairs_and_no_effect_more_than_there_are():
    assert find_needed(1.0) == np.ceil(TTestPower().solve_power(1.0, alpha=0.05, power=0.8)) == 10
    assert find_needed(0.0) is None
    assert find_needed(1e-4) is None


def test_runs_that_differ_by_the_same_each_time_are_no_sample():
    same = compare_runs(np.full(10, 0.5), np.full(10, 0.25))
    assert (same.difference, same.low, same.p_value, same.probability, same.needed) == (0.25, None, None, None, None)
    nearly = compare_runs(np.full(10, 1e9) + np.array([0, 1e-4] * 5), np.zeros(10))  # rounding of numbers so large
    assert nearly.p_value is None
    small = compare_runs(np.array([1e-9, 2e-9] * 5), np.zeros(10))
    assert small.p_value < 1e-3


def test_a_difference_is_shown_below_the_level_and_not_at_it():
    found = compare_runs(np.array([3.0, 1, -1, 2, 0, 4, 1, 2, -2, 3]), np.zeros(10))
    for p_value, shown in ((0.0499, True), (0.05, False), (None, False)):
        assert replace(found, p_value=p_value).shown is shown
    one = compare_answers(*answers(3, 9, 80, 8))
    assert [replace(one, p_value=p_value).shown for p_value in (0.0499, 0.05)] == [True, False]
