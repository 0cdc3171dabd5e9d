"""How a judge is put together and how it rules: by views that say what they are told to, in milliseconds."""

from types import SimpleNamespace

import numpy as np
import pytest

from clearsight.augment import safety
from clearsight.augment.presets import Augmentation
from clearsight.augment.probe import DESCRIPTIONS
from clearsight.augment.randomness import draw_keys, draw_uniforms
from clearsight.augment.safety import (
    LabelProbes,
    Verdict,
    build_probes,
    judge_augmentation,
    judge_ladder,
    judge_transform,
    vary,
)
from clearsight.augment.transforms import STREAMS, augment_rows
from clearsight.augment.views import Evidence
from clearsight.core.intervals import wilson_interval

SCALE = {"low": 0, "high": 255}


def view_of(classes, *, accuracy=1.0, clean=None, kind="surface", evidence=None):
    answers = np.tile(classes, (7, 1)) if clean is None else np.asarray(clean)
    return SimpleNamespace(kind=kind, accuracy=accuracy, clean=answers, answer=lambda *a, **k: evidence)


def judge_by(*views, classes, names="abcdefghij", chance=0.1, strict=False, rows=None):
    rows = np.arange(len(classes)) if rows is None else rows
    return LabelProbes(tuple(views), rows, classes, tuple(names), rows, chance, strict)


def evidence(classes, into, *, sure=None, turned=None, still=None, first=None):
    """What a view answers: `into` by all members, with other words on what is sure, turned or still known."""
    none = np.zeros(len(classes), bool)
    answers = np.tile(into, (7, 1))
    if first is not None:
        answers[0] = first
    return Evidence(
        answers,
        none if sure is None else np.asarray(sure, bool),
        none if turned is None else np.asarray(turned, bool),
        none if still is None else np.asarray(still, bool),
    )


def rule(judge, *, variant="as drawn"):
    images = np.zeros((len(judge.rows), 4, 4, 1), np.uint8)
    return safety._judge_varied(judge, images, name="blur", strength=1.0, variant=variant, **SCALE)


def among(n, *places):
    found = np.zeros(n, bool)
    found[list(places)] = True
    return found


# -- the judge


def test_a_picture_is_clear_if_all_members_of_all_views_name_its_class():
    classes = np.array([0, 1, 0, 1])
    clean = np.tile(classes, (7, 1))
    clean[3, 0] = 1
    other = np.tile(classes, (7, 1))
    other[6, 3] = 0
    judge = judge_by(view_of(classes, clean=clean), view_of(classes, clean=other), classes=classes, names="ab")
    assert judge.clear.tolist() == [False, True, True, False]


@pytest.mark.parametrize(("accuracy", "knows"), [(0.6, True), (0.59, False)])
def test_probes_must_surely_beat_naming_the_largest_class(accuracy, knows):
    """Of 100 pictures, the interval of 60 begins at 0.502, that of 59 at 0.492."""
    classes = np.arange(100) % 2
    judge = judge_by(view_of(classes, accuracy=accuracy), classes=classes, names="ab", chance=0.5)
    assert judge.knows == knows
    assert (judge.blind is None) == knows
    if not knows:
        assert judge.blind == (
            "the probes name 59% of 100 clean pictures rightly, no better than always naming the largest class (50%)"
        )


def test_the_best_view_decides_whether_anything_is_known():
    classes = np.arange(100) % 2
    views = view_of(classes, accuracy=0.9), view_of(classes, accuracy=0.5)
    assert judge_by(*views, classes=classes, names="ab", chance=0.5).knows


@pytest.mark.parametrize(("clear", "knows"), [(20, True), (19, False)])
def test_twenty_clear_pictures_are_needed(clear, knows):
    classes = np.arange(100) % 2
    clean = np.tile(classes, (7, 1))
    clean[2, clear:] = 1 - classes[clear:]
    judge = judge_by(view_of(classes, clean=clean), classes=classes, names="ab", chance=0.5)
    assert judge.knows == knows
    if not knows:
        assert judge.blind == "the probes are sure of 19 clean pictures, and 20 are needed"


def test_a_view_of_pixels_is_described_and_one_of_a_network_looked_at():
    images = np.random.default_rng(0).integers(0, 256, (3, 6, 6, 1)).astype(np.uint8)
    judge = LabelProbes(
        (), *[np.zeros(0, int)] * 2, (), np.zeros(0, int), 0.5, False, look=lambda pictures: pictures.sum()
    )
    pixels = judge.describe(SimpleNamespace(kind="surface"), images, low=10, high=200)
    np.testing.assert_array_equal(pixels, DESCRIPTIONS["surface"](images, 10, 200))
    assert judge.describe(SimpleNamespace(kind=safety.PRETRAINED), images, **SCALE) == images.sum()
    bare = judge_by(classes=np.zeros(0, int))
    assert (bare.look, bare.missed) == (None, False)


def test_a_verdict_says_how_pictures_were_turned():
    plain = ("rot90", 0.5, "safe", 40, 0.1, 0.05, 0.02, 0.0, 0.1)
    manners = {"as drawn": "", "full": " at full strength", "90": " when turned by 90 degrees"}
    for variant, manner in manners.items():
        assert Verdict(*plain, None, (), variant=variant).manner == manner
    verdict = Verdict(*plain, ("a", "b", 0.25), ((3, "b"),))
    assert verdict.as_dict() == {
        "name": "rot90", "strength": 0.5, "level": "safe", "clear": 40, "changed": 0.1, "sure": 0.05, "turned": 0.02, "low": 0.0,
        "high": 0.1, "worst": ["a", "b", 0.25], "variant": "as drawn", "why": None,
    }  # fmt: skip
    assert Verdict(*plain, None, ()).as_dict()["worst"] is None


# -- how it is put together


@pytest.fixture
def built(monkeypatch):
    """Judges whose views have given accuracies; what they were built of is kept."""
    asked = SimpleNamespace(accuracies={}, described=[], views=[])

    def describe(kind, images, *, low, high, rows):
        asked.described.append((kind, low, high, rows))
        return np.full((len(rows), 2), len(asked.described))

    def build(kind, features, classes, fold, judged, num_classes, rng):
        asked.views.append(SimpleNamespace(**locals()))
        return view_of(classes[judged], accuracy=asked.accuracies.get(kind, 0.0), kind=kind)

    monkeypatch.setattr(safety, "describe", describe)
    monkeypatch.setattr(safety, "build_view", build)

    def put_together(accuracies, *, n=300, side=8, labels=None, class_names=("a", "b"), rows=None, **more):
        asked.accuracies, asked.described, asked.views = accuracies, [], []
        labels = np.arange(n) % 2 if labels is None else labels
        images = np.broadcast_to(np.zeros((1, 1, 1, 1), np.uint8), (len(labels), side, side, 1))
        rows = np.arange(len(labels)) if rows is None else rows
        return build_probes(images, labels, rows, class_names=class_names, **SCALE, **more), asked

    return put_together


def kinds(judge):
    return [view.kind for view in judge.views]


def test_the_best_view_judges_with_every_other_that_tells_nearly_as_well(built):
    judge, _ = built({"blobs": 0.99, "shape and colour": 1.0, "figure": 0.0, "surface": 0.0})
    assert kinds(judge) == ["shape and colour", "blobs"]
    assert kinds(built({"blobs": 0.97, "shape and colour": 0.98})[0]) == ["shape and colour"]
    assert kinds(built({"blobs": 0.98, "shape and colour": 0.98})[0]) == ["blobs", "shape and colour"]
    assert kinds(built({"blobs": 0.979, "shape and colour": 1.0})[0]) == ["shape and colour"]


def test_being_nearly_as_good_begins_two_hundredths_below(built, monkeypatch):
    monkeypatch.setattr(safety, "_ALMOST_ALL", 0.5)
    assert kinds(built({"blobs": 0.8801, "shape and colour": 0.9})[0]) == ["shape and colour", "blobs"]
    assert kinds(built({"blobs": 0.8790, "shape and colour": 0.9})[0]) == ["shape and colour"]


@pytest.mark.parametrize("kind", ["figure", "surface"])
def test_views_that_leave_much_out_are_heard_only_where_they_tell_almost_all(kind, built):
    assert kinds(built({kind: 0.98, "blobs": 0.9})[0]) == [kind]
    assert kinds(built({kind: 0.979, "blobs": 0.9})[0]) == ["blobs"]


def test_a_judge_takes_at_most_2400_rows_and_judges_up_to_400_small_or_150_large_pictures(built):
    judge, asked = built({"blobs": 1.0}, n=2500)
    assert {len(rows) for _, _, _, rows in asked.described} == {2400}
    assert (len(judge.rows), len(judge.pool)) == (400, 2500)
    for side, count in ((96, 400), (110, 400 * 96 * 96 // (110 * 110)), (157, 150), (400, 150)):
        assert len(built({"blobs": 1.0}, n=600, side=side)[0].rows) == count, side
    assert len(built({"blobs": 1.0}, n=37)[0].rows) == 37


def test_every_description_is_built_of_the_same_rows_and_scale(built):
    rows = np.arange(10, 310)
    judge, asked = built({"blobs": 1.0}, n=400, rows=rows, labels=np.repeat([1, 0], [150, 250]))
    assert [kind for kind, *_ in asked.described] == list(DESCRIPTIONS) == [view.kind for view in asked.views]
    for kind, low, high, described in asked.described:
        assert (low, high) == (0, 255), kind
        np.testing.assert_array_equal(described, rows)
    for number, view in enumerate(asked.views, 1):
        assert view.features[0, 0] == number
        assert view.num_classes == 2
        np.testing.assert_array_equal(view.classes, np.repeat([1, 0], [140, 160]))
        np.testing.assert_array_equal(np.bincount(view.fold), [100, 100, 100])
        np.testing.assert_array_equal(view.judged, np.unique(view.judged))
        assert view.fold is asked.views[0].fold  # and all judge the same pictures
    np.testing.assert_array_equal(judge.rows, rows[asked.views[0].judged])
    np.testing.assert_array_equal(judge.classes, np.repeat([1, 0], [140, 160])[asked.views[0].judged])
    np.testing.assert_array_equal(judge.pool, rows)


def test_a_seed_draws_the_rows(built):
    draws = [tuple(built({"blobs": 1.0}, n=900, **given)[0].rows) for given in ({}, {"seed": 0}, {"seed": 1})]
    assert draws[0] == draws[1] != draws[2]


def test_chance_is_the_share_of_the_largest_class_and_counts_are_judged_strictly(built):
    labels = np.repeat([0, 1], [30, 90])
    judge, _ = built({"blobs": 1.0}, labels=labels)
    assert (judge.chance, judge.strict, judge.names) == (0.75, False, ("a", "b"))
    judge, _ = built({"blobs": 1.0}, labels=labels, class_names=("3", "7"))
    assert (judge.strict, judge.look, judge.missed) == (True, None, False)
    judge, _ = built({"blobs": 1.0}, labels=labels * 0.5, class_names=())
    assert (judge.strict, judge.names) == (False, ("0", "0.5"))


def look_at(pictures):
    return np.random.default_rng(0).normal(size=(len(pictures), 40)).astype(np.float32)


@pytest.mark.parametrize(("accuracy", "asked"), [(0.79, True), (0.8, False)])
def test_a_network_is_asked_where_pixels_tell_fewer_than_four_fifths(accuracy, asked, built):
    calls = []
    judge, _ = built({"blobs": accuracy}, find_look=lambda: calls.append("asked"))
    assert (len(calls) == 1, judge.missed) == (asked, asked)
    assert kinds(judge) == ["blobs"]


def test_a_network_is_not_asked_about_a_single_class(built):
    judge, _ = built({"blobs": 0.1}, labels=np.zeros(50, int), class_names=("a",), find_look=lambda: 1 / 0)
    assert (judge.chance, judge.missed) == (1, False)


def test_a_network_judges_eighty_of_four_hundred_pictures_by_sixteen_numbers(built):
    judge, asked = built({"blobs": 0.5, safety.PRETRAINED: 0.6}, n=1000, find_look=lambda: look_at)
    view = asked.views[-1]
    assert (view.kind, view.features.shape, view.features.dtype) == (safety.PRETRAINED, (400, 16), np.float32)
    assert (len(judge.rows), kinds(judge), judge.missed) == (80, [safety.PRETRAINED], False)
    assert len(view.classes) == 400
    np.testing.assert_array_equal(judge.classes, judge.rows % 2)
    seen = judge.describe(judge.views[0], np.zeros((5, 8, 8, 1)), **SCALE)
    assert (seen.shape, seen.dtype) == ((5, 16), np.float32)


@pytest.mark.parametrize(("network", "kind"), [(0.6, "blobs"), (0.61, "pretrained features")])
def test_a_network_judges_only_where_it_tells_more(network, kind, built):
    judge, _ = built({"blobs": 0.6, safety.PRETRAINED: network}, find_look=lambda: look_at)
    assert kinds(judge) == [kind]
    assert (judge.look is None) == (kind == "blobs")


def test_components_are_the_directions_in_which_features_vary_most():
    rng = np.random.default_rng(0)
    features = (rng.normal(size=(60, 20)) * np.linspace(5, 0.1, 20) + 100 * rng.normal(size=20)).astype(np.float32)
    found = safety._find_components(features)(features)
    _, axes = np.linalg.eigh(np.cov(features.T))
    expected = (features - features.mean(axis=0)) @ axes[:, ::-1][:, :16]
    np.testing.assert_allclose(np.abs(found), np.abs(expected), rtol=1e-2, atol=1e-2)
    few = safety._find_components(features[:10])(features)
    assert few.shape == (60, 10)  # ten pictures bear no more


# -- what is judged


def test_a_quarter_turn_is_judged_by_its_three_angles():
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 1)).astype(np.uint8)
    rows, given = np.array([2, 0]), {"pool": np.arange(3), **SCALE}
    for quarters, variant in enumerate(("90", "180", "270"), 1):
        found = vary(images, rows, Augmentation(rot90=1.0), variant=variant, **given)
        turned = np.rot90(images[rows], quarters, axes=(1, 2))
        back = np.rot90(images[rows], -quarters, axes=(1, 2))
        assert (found == turned).all() or (found == back).all(), variant


@pytest.mark.long  # loads compiled code
def test_pictures_as_drawn_are_those_of_trainings_first_epoch():
    images = np.random.default_rng(0).integers(0, 256, (6, 5, 5, 1)).astype(np.uint8)
    given = {"augmentation": Augmentation(brightness=0.4, noise=0.1), "pool": np.arange(6), "low": 0, "high": 200}
    rows = np.array([4, 1])
    trained = augment_rows(images, rows, seed=0, epoch=0, **given).images
    np.testing.assert_array_equal(vary(images, rows, variant="as drawn", **given), trained)


@pytest.mark.parametrize("name", ["brightness", "blur"])
def test_full_strength_is_the_strongest_of_eight_draws_upwards_for_one_half(name, monkeypatch):
    kept = {}
    monkeypatch.setattr(safety, "augment_rows", lambda *args, **more: kept.update(more) or SimpleNamespace(images=0))
    rows = np.arange(400)
    vary(None, rows, Augmentation(**{name: 0.4}), variant="full", pool=rows, **SCALE)
    draws = np.array([
        draw_uniforms(draw_keys(rows, seed=0, epoch=0, uses=np.full(400, use)), STREAMS[name]) for use in range(8)
    ])  # fmt: skip
    uses = np.array(kept["uses"])
    chosen = draws[uses, rows]
    highest, lowest = chosen == draws.max(axis=0), chosen == draws.min(axis=0)
    assert (highest | lowest).all()
    assert (kept["seed"], kept["epoch"], kept["low"], kept["high"]) == (0, 0, 0, 255)
    if name == "blur":  # nothing is weaker than none
        assert highest.all()
    else:
        assert 160 < highest.sum() < 240
        above = draws[:, highest].mean() - draws[:, lowest].mean()
        assert abs(above) < 0.03  # whichever half a row is in has nothing to do with its draws


@pytest.fixture
def variants(monkeypatch):
    """The variants that are judged, each with a verdict that is given by its name."""
    seen = SimpleNamespace(levels={}, asked=[], pictures=[])

    def varied(images, rows, augmentation, *, variant, pool, low, high):
        seen.pictures.append((variant, low, high))
        return variant

    def judged(judge, pictures, *, name, strength, variant, low, high):
        assert pictures == variant
        seen.asked.append((name, strength, variant, low, high))
        level, turned, changed = seen.levels.get(variant, ("safe", 0.0, 0.0))
        return Verdict(name, strength, level, 40, changed, 0, turned, 0, 1, None, (), variant)

    monkeypatch.setattr(safety, "vary", varied)
    monkeypatch.setattr(safety, "_judge_varied", judged)
    return seen


def judged_by(variants, augmentation, *, accuracy=1.0, strict=False, **levels):
    variants.levels = {key.replace("as_drawn", "as drawn").removeprefix("t"): value for key, value in levels.items()}
    variants.asked.clear()
    classes = np.arange(40) % 2
    judge = judge_by(view_of(classes, accuracy=accuracy), classes=classes, names="ab", strict=strict)
    return judge_transform(judge, None, augmentation, name="it", strength=0.3, low=1, high=9)


def test_the_worst_variant_counts_by_level_then_by_what_turned_then_by_what_changed(variants):
    turn = Augmentation(rot90=1.0)
    found = judged_by(variants, turn, t90=("doubtful", 0.9, 0.9), t180=("unsafe", 0.1, 0.1), t270=("unknown", 1, 1))
    assert (found.variant, [v[2] for v in variants.asked]) == ("180", ["90", "180", "270"])
    assert variants.asked[0] == ("it", 0.3, "90", 1, 9)
    assert judged_by(variants, turn, t90=("safe", 0.1, 0.9), t180=("safe", 0.2, 0.1)).variant == "180"
    assert judged_by(variants, turn, t90=("safe", 0.1, 0.1), t270=("safe", 0.1, 0.2)).variant == "270"


@pytest.mark.parametrize(
    ("given", "full"),
    [({}, True), ({"accuracy": 0.98}, True), ({"accuracy": 0.979}, False), ({"strict": True}, False)],
)
def test_full_strength_is_judged_where_views_name_almost_all_pictures_that_are_no_counts(given, full, variants):
    judged_by(variants, Augmentation(brightness=0.3), **given)
    assert [v[2] for v in variants.asked] == (["as drawn", "full"] if full else ["as drawn"])


def test_full_strength_is_that_of_one_transform_that_has_strengths(variants):
    for augmentation in (Augmentation(hflip=1.0), Augmentation(brightness=0.3, blur=1.0), Augmentation()):
        judged_by(variants, augmentation)
        assert [v[2] for v in variants.asked] == ["as drawn"]


def test_full_strength_counts_only_where_it_is_unsafe(variants):
    bright = Augmentation(brightness=0.3)
    assert judged_by(variants, bright, full=("doubtful", 0.9, 0.9)).variant == "as drawn"
    assert judged_by(variants, bright, full=("unsafe", 0.0, 0.0), as_drawn=("doubtful", 0.9, 0.9)).variant == "full"


# -- the ruling


CLASSES = np.arange(400) % 10
NEXT = (CLASSES + 1) % 10


def shares_of(**counts):
    """A ruling on 400 pictures, of which so many are turned, sure or changed, spread evenly over the classes."""
    which = {key: np.arange(400) < count for key, count in counts.items()}
    into = np.where(np.any(list(which.values()), axis=0), NEXT, CLASSES)
    sure = which.get("turned", np.zeros(400, bool)) | which.get("sure", np.zeros(400, bool))
    told = evidence(CLASSES, into, sure=sure, turned=which.get("turned"))
    return judge_by(view_of(CLASSES, evidence=told), classes=CLASSES)


@pytest.mark.parametrize(
    ("counts", "level"),
    [
        ({"turned": 43}, "unsafe"), ({"turned": 42}, "doubtful"),  # of 400: the interval begins at 0.081 and at 0.079
        ({"turned": 21}, "doubtful"), ({"turned": 20}, "safe"), ({"sure": 61}, "doubtful"), ({"sure": 60}, "safe"),
        ({"changed": 201}, "doubtful"), ({"changed": 200}, "safe"),
    ],
)  # fmt: skip
def test_limits_are_exact(counts, level):
    found = rule(shares_of(**counts))
    assert found.level == level
    assert (found.low, found.high) == wilson_interval(counts.get("turned", 0), 400)


def test_full_strength_is_unsafe_only_by_a_class_that_surely_turns():
    assert rule(shares_of(turned=60), variant="as drawn").level == "unsafe"
    assert rule(shares_of(turned=60), variant="full").level == "doubtful"
    told = evidence(CLASSES, np.where(CLASSES == 3, 4, CLASSES), sure=CLASSES == 3, turned=CLASSES == 3)
    found = rule(judge_by(view_of(CLASSES, evidence=told), classes=CLASSES), variant="full")
    assert (found.level, found.worst) == ("unsafe", ("d", "e", 1.0))


def test_shares_are_of_clear_pictures_alone():
    clean = np.tile(CLASSES, (7, 1))
    clean[5, :200] = NEXT[:200]
    told = evidence(
        CLASSES, np.where(np.arange(400) < 210, NEXT, CLASSES), sure=np.arange(400) < 208, turned=np.arange(400) < 204
    )
    found = rule(judge_by(view_of(CLASSES, clean=clean, evidence=told), classes=CLASSES))
    assert (found.clear, found.turned, found.sure, found.changed) == (200, 4 / 200, 8 / 200, 10 / 200)
    assert len(found.examples) == 200


@pytest.mark.parametrize(("n", "level"), [(15, "unknown"), (16, "safe")])
def test_too_few_pictures_to_rule_out_a_fifth_leave_it_unknown(n, level, monkeypatch):
    """None of 15 may still be 0.204, none of 16 is at most 0.194."""
    monkeypatch.setattr(safety, "_MIN_CLEAR", 5)
    classes = np.arange(n) % 2
    found = rule(judge_by(view_of(classes, evidence=evidence(classes, classes)), classes=classes, names="ab"))
    assert found.level == level
    assert found.why == ("of 15 pictures of which the probes are sure, up to 20% may turn" if n == 15 else None)


def test_nothing_clear_is_unknown_and_no_fault():
    clean = np.tile(NEXT, (7, 1))
    found = rule(judge_by(view_of(CLASSES, clean=clean, evidence=evidence(CLASSES, CLASSES)), classes=CLASSES))
    assert (found.level, found.clear, found.low, found.high, found.worst, found.examples) == (
        "unknown",
        0,
        0,
        1,
        None,
        (),
    )
    assert (found.changed, found.sure, found.turned) == (0, 0, 0)


def test_examples_are_of_the_pictures_that_turned_the_worst_pair_first():
    rows = np.arange(400) + 1000
    into = CLASSES.copy()
    turned = among(400, 5, 7, 17, 27, 37, 47, *range(101, 400, 10))
    into[turned] = NEXT[turned]
    into[17] = 2  # of the class of 7, but into another
    into[5] = 8  # of another class, into the same
    told = evidence(CLASSES, into, sure=turned, turned=turned)
    found = rule(judge_by(view_of(CLASSES, evidence=told), classes=CLASSES, rows=rows))
    ones = [*range(101, 400, 10)]
    assert found.worst == ("b", "c", len(ones) / 40)
    assert found.level == "unsafe"
    expected = [*ones, 5, 7, 17, 27, 37, 47]
    assert [row for row, _ in found.examples] == [1000 + k for k in expected]
    names = "abcdefghij"
    assert [name for _, name in found.examples] == [names[into[k]] for k in expected]


def test_examples_are_of_what_changed_if_doubtful_and_of_all_clear_pictures_if_safe():
    assert [row for row, _ in rule(shares_of(changed=201)).examples] == list(range(201))
    kept = [row for row, _ in rule(shares_of(turned=12)).examples]
    assert kept == [0, 10, *range(1, 10), *range(11, 400)]  # a and b turned twice each, and a is told


def test_the_worst_pair_is_of_what_turned_or_else_of_what_was_sure():
    assert rule(shares_of(sure=70)).worst == ("a", "b", 7 / 40)
    assert rule(shares_of(sure=70, turned=1)).worst == ("a", "b", 1 / 40)
    assert rule(shares_of(sure=50)).worst is None
    assert rule(shares_of(changed=201)).worst is None


def test_answers_are_the_majoritys_or_those_of_the_best_view_that_is_sure():
    """Of three views the best knows nothing of picture 0, and each of 1 to 3 is told by the first that says so."""
    n = 40
    classes = np.zeros(n, int)
    first, second = among(n, 1), among(n, 1, 2)
    best = evidence(classes, np.where(first, 1, 0), sure=first, turned=first)
    next_best = evidence(classes, np.where(second, 2, 0), sure=second, turned=second)
    third = evidence(classes, np.where(among(n, 2, 3), 3, 0), sure=among(n, 2, 3))
    views = [view_of(classes, evidence=told) for told in (best, next_best, third)]
    found = rule(judge_by(*views, classes=classes, names="abcd"))
    answers = dict(found.examples)
    assert [answers[k] for k in range(4)] == ["a", "b", "c", "d"]
    assert (found.turned, found.sure, found.changed) == (2 / n, 3 / n, 3 / n)


def test_the_majority_answers_where_members_are_not_sure():
    classes = np.zeros(40, int)
    told = evidence(classes, np.where(np.arange(40) < 10, 1, 0), first=classes)  # six of seven members name another
    found = rule(judge_by(view_of(classes, evidence=told), classes=classes, names="ab"))
    assert (found.changed, found.sure, found.turned) == (10 / 40, 0, 0)


def test_a_view_that_still_knows_a_picture_outweighs_one_that_says_it_turned():
    classes, hit = np.zeros(40, int), np.arange(40) < 20
    one = evidence(classes, hit.astype(int), sure=hit, turned=hit)
    other = evidence(classes, classes, still=np.arange(40) < 15)
    found = rule(
        judge_by(view_of(classes, evidence=one), view_of(classes, evidence=other), classes=classes, names="ab")
    )
    assert (found.turned, found.sure) == (5 / 40, 5 / 40)


def test_a_number_has_turned_where_every_view_is_sure_and_one_says_so():
    classes = np.zeros(40, int)
    one = evidence(classes, np.ones(40, int), sure=np.arange(40) < 30, turned=np.arange(40) < 20)
    other = evidence(classes, np.ones(40, int), sure=np.arange(40) >= 10, still=np.ones(40, bool))
    views = view_of(classes, evidence=one), view_of(classes, evidence=other)
    found = rule(judge_by(*views, classes=classes, names="ab", strict=True))
    assert (found.turned, found.sure) == (10 / 40, 20 / 40)


# -- the worst class


def find_worst(classes, clear, turned, into, names="abc"):
    judge = judge_by(view_of(classes), classes=np.array(classes), names=names)
    return safety._find_worst(judge, np.array(clear, bool), np.array(turned, bool), np.array(into))


def test_the_worst_class_is_that_of_the_largest_share_into_one_other():
    classes = [0] * 10 + [1] * 4
    turned = [1] * 6 + [0] * 4 + [1, 1, 0, 0]
    into = [1, 1, 1, 2, 2, 2, 0, 0, 0, 0, 2, 2, 1, 1]
    assert find_worst(classes, [1] * 14, turned, into)[0] == (1, 2, 0.5)  # three of ten, two of four
    into[3] = 1
    assert find_worst(classes, [1] * 14, turned, into)[0] == (1, 2, 0.5)
    into[4] = into[5] = 1
    assert find_worst(classes, [1] * 14, turned, into)[0] == (0, 1, 0.6)
    clear = [1] * 12 + [0, 0]
    assert find_worst(classes, clear, turned, into)[0] == (1, 2, 1.0)  # of clear ones alone
    assert find_worst(classes, [1] * 14, [0] * 14, into) == (None, False)


def test_the_first_of_two_equally_bad_classes_is_told():
    assert find_worst([0, 0, 1, 1], [1] * 4, [1, 0, 1, 0], [2, 0, 2, 1])[0] == (0, 2, 0.5)


@pytest.mark.parametrize(("n", "certain"), [(8, True), (7, False)])
def test_a_class_needs_eight_clear_pictures_to_be_certain(n, certain):
    assert find_worst([0] * n, [1] * n, [1] * n, [1] * n)[1] == certain


@pytest.mark.parametrize(("hits", "certain"), [(9, True), (8, False)])
def test_a_class_is_certain_where_more_than_a_quarter_surely_turn_into_one_other(hits, certain):
    """Of 20 pictures the interval of 9 begins at 0.258, that of 8 at 0.219."""
    turned = [1] * hits + [0] * (20 - hits)
    assert find_worst([0] * 20, [1] * 20, turned, [1] * 20)[1] == certain
    split = [1, 2] * 10
    assert find_worst([0] * 20, [1] * 20, [1] * 20, split)[1]  # ten into each
    assert not find_worst([0] * 20, [1] * 20, [1] * 16 + [0] * 4, split)[1]  # eight into each


def test_one_certain_class_among_others_is_enough():
    classes = [0] * 20 + [1] * 20
    for lead in (0, 1):
        turned = [1] * 20 + [1] * 2 + [0] * 18 if lead == 0 else [1] * 2 + [0] * 18 + [1] * 20
        assert find_worst(classes, [1] * 40, turned, [2] * 40)[1]


# -- several transforms


@pytest.fixture
def transforms(monkeypatch):
    asked = []

    def judged(judge, images, augmentation, *, name, strength, low, high):
        asked.append((name, strength, augmentation, low, high))
        return SimpleNamespace(level=levels.get(name, "safe"), name=name, strength=strength)

    levels = {}
    monkeypatch.setattr(safety, "judge_transform", judged)
    return SimpleNamespace(asked=asked, levels=levels)


def test_transforms_in_use_are_judged_alone_and_together_without_mixing(transforms):
    wanted = Augmentation(hflip=0.5, blur=1.0, mixup=0.4, fill="reflect")
    found = judge_augmentation(None, None, wanted, low=1, high=9)
    assert [(v.name, v.strength) for v in found] == [("hflip", 0.5), ("blur", 1.0), ("all", None)]
    alone = [wanted.alone("hflip"), wanted.alone("blur")]
    together = Augmentation(hflip=0.5, blur=1.0, fill="reflect")
    assert [a[2] for a in transforms.asked] == [*alone, together]
    assert {a[3:] for a in transforms.asked} == {(1, 9)}


def test_one_transform_needs_no_verdict_on_all(transforms):
    found = judge_augmentation(None, None, Augmentation(blur=1.0, mixup=0.4), low=1, high=9)
    assert [v.name for v in found] == ["blur"]
    assert judge_augmentation(None, None, Augmentation(mixup=0.4), low=1, high=9) == []


def climb(transforms, *, look=None, channels=3, **more):
    steps, told = [], []

    class Meter:
        def __init__(self, text, total, unit):
            told.append((text, total, unit))

        def __enter__(self):
            return steps.append

        def __exit__(self, *args):
            return None

    transforms.asked.clear()
    images = np.zeros((1, 2, 2, channels))
    found = judge_ladder(SimpleNamespace(look=look), images, low=1, high=9, meter=Meter, **more)
    return [(v.name, v.strength) for v in found], steps, told[0]


def test_pixels_judge_every_strength_and_say_how_far_they_are(transforms):
    found, steps, told = climb(transforms, names=("zoom", "hflip"), fill="reflect")
    assert found == [*(("zoom", s) for s in (0.05, 0.1, 0.2, 0.3, 0.5)), ("hflip", 1.0)]
    assert (steps, told) == ([1] * 6, ("measuring transforms", 6, "steps"))
    assert transforms.asked[1] == ("zoom", 0.1, Augmentation(zoom=0.1, fill="reflect"), 1, 9)
    climb(transforms, names=("zoom",))
    assert transforms.asked[0][2].fill == "edge"


def test_a_network_judges_the_last_strength_and_one_from_the_middle_if_that_is_not_safe(transforms):
    names = ("zoom", "crop", "blur", "hflip")
    assert climb(transforms, look=len, names=names)[0] == [("zoom", 0.5), ("crop", 0.4), ("blur", 2), ("hflip", 1.0)]
    transforms.levels.update(dict.fromkeys(names, "doubtful"))
    found, steps, _ = climb(transforms, look=len, names=names)
    assert found == [
        ("zoom", 0.2),
        ("zoom", 0.5),
        ("crop", 0.12),
        ("crop", 0.4),
        ("blur", 1),
        ("blur", 2),
        ("hflip", 1.0),
    ]
    assert steps == [1] * 7


def test_every_transform_is_on_the_ladder_but_colour_only_for_colours(transforms):
    for channels in (1, 2, 3, 4):
        names = {name for name, _ in climb(transforms, channels=channels)[0]}
        assert names == set(safety.LADDER) - (set() if channels == 3 else {"color"})
