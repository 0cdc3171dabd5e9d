"""What evidence leads to which verdict: every limit of label safety, from both sides."""

from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.safety_sets import CASES
from clearsight.augment import safety
from clearsight.augment.presets import Augmentation
from clearsight.augment.safety import LabelProbes, build_probes, judge_ladder, judge_transform, vary
from clearsight.augment.views import Evidence, build_view
from clearsight.pipeline.safety import explain_unknown

CLASSES = 10
COUNT = 400


class Told:
    """A view that says what it is told to."""

    kind, accuracy = "surface", 1.0

    def __init__(self, classes, **shares):
        self.clean = np.tile(classes, (7, 1))
        self.classes, self.shares = classes, shares

    def answer(self, features, classes, *, strict):
        place = np.arange(len(classes)) // CLASSES / (len(classes) // CLASSES)  # the same share of each class
        turned, sure, changed, still = (place < self.shares.get(k, 0) for k in ("turned", "sure", "changed", "still"))
        answers = np.tile(np.where(turned | sure | changed, (classes + 1) % CLASSES, classes), (7, 1))
        return Evidence(answers, turned | sure, turned, still)


def judged(*views, n=COUNT, strict=False):
    classes = np.arange(n) % CLASSES
    images = np.zeros((n, 4, 4, 1), np.uint8)
    told = tuple(Told(classes, **shares) for shares in views)
    judge = LabelProbes(told, np.arange(n), classes, tuple("abcdefghij"), np.arange(n), 0.1, strict)
    return judge_transform(judge, images, Augmentation(cutout=0.2), name="cutout", strength=0.2, low=0, high=255)


@pytest.mark.parametrize(
    ("shares", "level"),
    [
        ({"turned": 0.125}, "unsafe"), ({"turned": 0.1}, "doubtful"), ({"turned": 0.075}, "doubtful"), ({"turned": 0.05}, "safe"),
        ({"sure": 0.175}, "doubtful"), ({"sure": 0.15}, "safe"), ({"changed": 0.525}, "doubtful"), ({"changed": 0.5}, "safe"),
    ],
)  # fmt: skip
def test_a_level_begins_where_its_share_says(shares, level):
    assert judged(shares).level == level


@pytest.mark.parametrize(("hits", "level"), [(17, "unsafe"), (14, "safe")])
def test_one_class_that_surely_turns_by_a_quarter_is_enough(hits, level):
    """Of 40 pictures the interval of 17 begins at 0.286, that of 14 at 0.221; of all 400 they are 4 %."""
    classes = np.arange(COUNT) % CLASSES
    view = Told(classes)
    told = view.answer(None, classes, strict=False)
    turned = (classes == 3) & (np.arange(COUNT) < hits * CLASSES)
    answers = np.tile(np.where(turned, 4, classes), (7, 1))
    view.answer = lambda *a, **k: Evidence(answers, turned, turned, told.still)
    judge = LabelProbes((view,), np.arange(COUNT), classes, tuple("abcdefghij"), np.arange(COUNT), 0.1, False)
    images = np.zeros((COUNT, 4, 4, 1), np.uint8)
    v = judge_transform(judge, images, Augmentation(cutout=0.2), name="cutout", strength=0.2, low=0, high=255)
    assert (v.level, v.worst[:2]) == (level, ("d", "e"))


def test_one_view_may_speak_alone_but_not_against_one_that_still_knows():
    assert judged({"turned": 0.5}, {}).level == "unsafe"  # the other abstains
    assert judged({"turned": 0.5}, {"still": 1.0}).level == "safe"
    assert judged({"turned": 0.5}, {}, strict=True).level == "safe"  # counts need all views
    assert judged({"turned": 0.5}, {"turned": 0.5}, strict=True).level == "unsafe"


@pytest.mark.parametrize(("n", "level"), [(20, "safe"), (10, "unknown")])
def test_few_clear_pictures_leave_it_unknown(n, level):
    v = judged({}, n=n)
    assert v.level == level
    assert v.why == (None if level == "safe" else "the probes are sure of 10 clean pictures, and 20 are needed")


def plain_view(kind, n=200):
    """Two classes at 0 and 10 on the first axis, and 5 axes that say nothing."""
    rng, classes = np.random.default_rng(0), np.arange(n) % 2
    features = rng.normal(size=(n, 6)).astype(np.float32)
    features[:, 0] += 10 * classes
    fold = rng.permutation(n) % 3
    return build_view(kind, features, classes, fold, np.arange(n), 2, rng), features, classes


def moved(kind, along, aside):
    """What a view says of pictures of the first class that are moved towards the second, and aside."""
    view, features, classes = plain_view(kind)
    rows = features.copy()
    rows[classes == 0, 0] += along
    rows[classes == 0, 1] += aside
    told = view.answer(rows, classes, strict=False)
    return {name: float(getattr(told, name)[classes == 0].mean()) for name in ("sure", "turned", "still")}


def test_a_picture_turns_into_another_class_only_where_it_is_like_it():
    assert moved("surface", 10, 0)["turned"] > 0.9
    odd = moved("surface", 10, 8)
    assert odd["sure"] > 0.9
    assert odd["turned"] == 0


def test_a_picture_that_came_much_nearer_is_like_enough_where_distances_mean_something():
    assert moved("figure", 10, 5)["turned"] > 0.9  # 5 away from the class that was 10 away
    assert moved("figure", 10, 11)["turned"] == 0  # no nearer than it was
    assert moved("surface", 10, 5)["turned"] < 0.5


def test_a_view_still_knows_a_picture_only_as_clearly_as_before():
    assert moved("surface", 0, 0)["still"] > 0.9
    hazy = moved("surface", 3, 0)
    assert hazy["sure"] == 0
    assert hazy["still"] < 0.2


@pytest.mark.long
def test_each_quarter_turn_is_judged_apart_and_the_worst_told():
    case = next(c for c in CASES if c.name == "letters b d p q")
    images, labels = case.make(0)
    judge = build_probes(images, labels, np.arange(len(images)), class_names=case.classes, low=0, high=255)
    v = judge_transform(judge, images, Augmentation(rot90=1.0), name="rot90", strength=1.0, low=0, high=255)
    assert (v.level, v.variant) == ("unsafe", "180")
    assert v.turned > 0.8
    half = vary(images, judge.rows, Augmentation(rot90=1.0), variant="180", pool=judge.pool, low=0, high=255)
    np.testing.assert_array_equal(half, images[judge.rows][:, ::-1, ::-1])


def test_strong_draws_are_not_hidden_among_weak_ones():
    images = np.zeros((100, 4, 4, 1), np.uint8)
    images[:] = 128
    given = {"augmentation": Augmentation(brightness=0.4), "pool": np.arange(100), "low": 0, "high": 255}
    moves = {v: vary(images, np.arange(100), variant=v, **given)[:, 0, 0, 0] - 128.0 for v in ("as drawn", "full")}
    assert np.abs(moves["full"]).mean() > 1.4 * np.abs(moves["as drawn"]).mean()
    assert 30 < (moves["full"] > 0).sum() < 70
    assert np.abs(moves["full"]).max() <= 102  # the same draws as in training, none stronger


def photographs(n=200):
    """Pictures that pixels cannot tell apart, and a network that can."""
    rng, labels = np.random.default_rng(0), np.arange(n) % 2
    images = rng.integers(0, 256, (n, 8, 8, 3)).astype(np.uint8)
    images[:, 0, 0, 0] = labels  # of 255: lost on every description

    def look(pictures):
        noise = np.random.default_rng(len(pictures)).normal(size=(len(pictures), 30))
        noise[:, 0] += 20.0 * (pictures[:, 0, 0, 0] == 1)
        return noise.astype(np.float32)

    return images, labels, look


@pytest.mark.long
def test_a_pretrained_network_is_asked_where_pixels_cannot_tell():
    images, labels, look = photographs()
    given = {"class_names": ("a", "b"), "low": 0, "high": 255}
    blind = build_probes(images, labels, np.arange(200), **given)
    assert blind.missed
    assert not blind.knows
    told = explain_unknown(blind, judge_ladder(blind, images, low=0, high=255, names=("hflip", "blur")))
    assert told.startswith("hflip, blur could not be judged: the probes name ")
    assert told.endswith(
        "add training pictures, or install a pretrained network with `pip install 'clearsight[pretrained]'`."
    )
    judge = build_probes(images, labels, np.arange(200), find_look=lambda: look, **given)
    assert ([view.kind for view in judge.views], judge.missed, judge.knows) == (["pretrained features"], False, True)


@pytest.mark.parametrize(("level", "steps"), [("safe", [2]), ("doubtful", [1, 2])])
def test_a_network_climbs_no_further_than_it_must(level, steps, monkeypatch):
    def told(*args, strength, **options):
        return SimpleNamespace(level=level, strength=strength)

    monkeypatch.setattr(safety, "judge_transform", told)
    judge, images = SimpleNamespace(look=len), np.zeros((1, 4, 4, 1), np.uint8)
    found = judge_ladder(judge, images, low=0, high=255, names=("blur",))
    assert [v.strength for v in found] == steps


def test_a_surface_that_tells_only_some_of_the_pictures_says_nothing():
    """Tones name nine of ten, and changing tones is not changing what is shown; shapes tell nothing here."""
    rng, labels = np.random.default_rng(0), np.arange(300) % 2
    levels = np.where(rng.random(300) < 0.9, labels, 1 - labels) * 60 + 90
    images = np.clip(levels[:, None, None, None] + rng.normal(0, 20, (300, 12, 12, 1)), 0, 255).astype(np.uint8)
    judge = build_probes(images, labels, np.arange(300), class_names=("a", "b"), low=0, high=255)
    assert not {view.kind for view in judge.views} & {"figure", "surface"}


def test_a_network_is_not_asked_where_pixels_suffice(monkeypatch):
    case = next(c for c in CASES if c.name == "left and right")
    images, labels = case.make(0)

    def never():
        raise AssertionError("asked")

    judge = build_probes(
        images, labels, np.arange(len(images)), class_names=case.classes, low=0, high=255, find_look=never
    )
    assert judge.knows
    assert safety.PRETRAINED not in [view.kind for view in judge.views]


@pytest.mark.long
@pytest.mark.parametrize("name", ["letters M W", "lines / and \\", "small and large discs", "sharp and blurred clouds"])
def test_what_used_to_be_doubtful_is_refused(name):
    case = next(c for c in CASES if c.name == name)
    images, labels = case.make(0)
    judge = build_probes(images, labels, np.arange(len(images)), class_names=case.classes, low=0, high=255)
    for truth, level in (("harmful", "unsafe"), ("harmless", "safe")):
        for transform, strength in getattr(case, truth).items():
            given = {"name": transform, "strength": strength, "low": 0, "high": 255}
            v = judge_transform(judge, images, Augmentation(**{transform: strength}), **given)
            assert v.level == level, (truth, transform)


def test_the_benchmark_has_enough_pairs_in_each_half():
    for half, harmful in (("tune", 20), ("report", 12)):
        cases = [case for case in CASES if case.half == half]
        assert len(cases) >= 10
        assert sum(len(case.harmful) for case in cases) >= harmful
        assert sum(len(case.harmless) for case in cases) >= 49
        assert not any(
            set(case.harmful) & set(case.harmless) - {"zoom", "brightness", "blur", "noise"} for case in cases
        )


def test_strengths_rise_by_these_steps(monkeypatch):
    """`data safety` says up to which of these a transform is safe."""
    monkeypatch.setattr(safety, "judge_transform", lambda *args, name, strength, **more: (name, strength))
    found = judge_ladder(SimpleNamespace(look=None), np.zeros((1, 4, 4, 3)), low=0, high=255)
    judged = {name: tuple(strength for one, strength in found if one == name) for name, _ in found}
    assert judged == {
        "hflip": (1.0,), "vflip": (1.0,), "rot90": (1.0,),
        "rotate": (5, 10, 15, 30, 45), "shear": (5, 10, 20, 30), "zoom": (0.05, 0.1, 0.2, 0.3, 0.5),
        "shift": (0.03, 0.06, 0.1, 0.2, 0.3), "crop": (0.06, 0.12, 0.25, 0.4), "brightness": (0.1, 0.2, 0.4),
        "contrast": (0.2, 0.4, 0.8), "color": (0.2, 0.5, 0.9), "blur": (0.5, 1, 2), "noise": (0.05, 0.1, 0.2),
        "cutout": (0.2, 0.35, 0.5),
    }  # fmt: skip


def test_many_numbers_become_eight_ranges_and_few_stay():
    few, names = safety._as_classes(np.array([3.0, 1.5, 3.0]), ())
    assert (few.tolist(), names) == ([1, 0, 1], ("1.5", "3"))
    eight, names = safety._as_classes(np.arange(8.0), ())
    assert (eight.tolist(), names) == (list(range(8)), tuple("01234567"))
    labels = np.repeat(np.arange(16.0), 5)
    many, names = safety._as_classes(labels, ())
    assert names == (
        "0..1.875",
        "1.875..3.75",
        "3.75..5.625",
        "5.625..7.5",
        "7.5..9.375",
        "9.375..11.25",
        "11.25..13.125",
        "13.125..15",
    )
    assert np.bincount(many).tolist() == [10] * 8
    at_edge, names = safety._as_classes(np.repeat([0.0, 1, 2, 3, 4, 5, 6, 7, 8], [2, 1, 1, 1, 1, 1, 1, 1, 9]), ())
    assert names[-1] == "8..8"
    assert at_edge.tolist()[-9:] == [len(names) - 1] * 9  # a number at an edge belongs to the range above


def test_features_are_brought_to_components_of_what_varies():
    rng = np.random.default_rng(0)
    features = np.array([100.0, -7, 3, 0]) + rng.normal(size=(50, 4)) * np.array([0.1, 5, 1, 0.01])
    found = safety._find_components(features)(features)
    assert np.abs(found.mean(axis=0)).max() < 1e-4
    assert np.argmax(found.std(axis=0)) == 0
    np.testing.assert_allclose(np.abs(found[:, 0]), np.abs(features[:, 1] - features[:, 1].mean()), atol=0.6)
    wide = safety._find_components(rng.normal(size=(20, 300)))(rng.normal(size=(5, 300)))
    assert wide.shape == (5, min(20, safety._COMPONENTS))


@pytest.mark.parametrize("channels", [1, 3])
def test_colour_is_judged_on_colour_pictures_alone(channels, monkeypatch):
    asked = []
    monkeypatch.setattr(
        safety, "judge_transform", lambda *args, name, **more: asked.append(name) or SimpleNamespace(level="safe")
    )
    judge_ladder(SimpleNamespace(look=None), np.zeros((2, 4, 4, channels)), low=0, high=255)
    assert ("color" in asked) == (channels == 3)
    assert len(asked) == sum(len(steps) for name, steps in safety.LADDER.items() if name != "color" or channels == 3)
