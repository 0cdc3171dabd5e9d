"""Whether the augmentation of a configuration keeps the labels of its data: measured, told, and refused where it does not.

It must not know training.
"""

from clearsight.augment.safety import DOUBTFUL, LabelProbes, Verdict, build_probes, judge_augmentation, judge_ladder
from clearsight.config.schema import RunConfig
from clearsight.core.progress import MeterBuilder, Note, SilentMeter
from clearsight.core.threads import one_blas_thread
from clearsight.data.dataset import Dataset
from clearsight.data.preprocess import find_range
from clearsight.errors import UsageError
from clearsight.pipeline.data import build_split, resolve_augmentation
from clearsight.pipeline.features import build_look


def measure_safety(
    config: RunConfig, dataset: Dataset, *, meter: MeterBuilder = SilentMeter
) -> tuple[LabelProbes, list[Verdict]]:
    """Whether transforms keep labels, measured on the training rows: those in use, or if there are none, all at rising strengths.

    Raises:
        UsageError: rows of features. See `resolve_augmentation`.
    """
    if dataset.picture_shape[0] == 1:
        raise UsageError("augment must go with pictures, got rows of features. Leave it out.")
    augmentation, _ = resolve_augmentation(config, dataset)
    rows = build_split(config, dataset).train
    low, high = find_range(dataset, rows)
    with one_blas_thread():  # its products are small: threads would wait for each other
        judge = build_probes(
            dataset.images, dataset.labels, rows, class_names=dataset.class_names, low=low, high=high,
            find_look=lambda: build_look(low=low, high=high),
        )  # fmt: skip
        if augmentation.active():
            return judge, judge_augmentation(judge, dataset.images, augmentation, low=low, high=high)
        return judge, judge_ladder(judge, dataset.images, low=low, high=high, meter=meter)


def render_unsafe(verdicts: list[Verdict], level: str = "unsafe") -> list[str]:
    """A sentence for each verdict of a level."""
    found = []
    for v in verdicts:
        if v.level == level:
            what = "all transforms together" if v.strength is None else f"{v.name} {v.strength:g}"
            becomes = f", most of all {v.worst[0]} into {v.worst[1]} ({v.worst[2]:.0%})" if v.worst else ""
            share = f"{v.turned:.0%} of {v.clear} clear pictures turn into another class"
            if level == "doubtful" and v.turned <= DOUBTFUL["turned"]:
                share, becomes = f"{v.changed:.0%} of {v.clear} clear pictures are no longer recognised", ""
            found.append(f"{what}: {share}{becomes}{v.manner and ','}{v.manner}")
    return found


def explain_unknown(judge: LabelProbes, verdicts: list[Verdict]) -> str | None:
    """What could not be judged, why, and what to do about it; None where all could be."""
    unknown = [v for v in verdicts if v.level == "unknown"]
    if not unknown:
        return None
    names = dict.fromkeys("all transforms together" if v.strength is None else v.name for v in unknown)
    more = ", or install a pretrained network with `pip install 'clearsight[pretrained]'`" if judge.missed else ""
    return (
        f"{', '.join(names)} could not be judged: {unknown[0].why}. To judge "
        f"{'it' if len(names) == 1 else 'them'}, add training pictures{more}."
    )


def refuse_unsafe(
    config: RunConfig, dataset: Dataset, *, note: Note, meter: MeterBuilder = SilentMeter
) -> list[Verdict]:
    """Measure whether the augmentation keeps labels; refuse or warn as the configuration says."""
    if not resolve_augmentation(config, dataset)[0].active() or config.augment.unsafe == "ignore":
        return []
    judge, verdicts = measure_safety(config, dataset, meter=meter)
    unsafe = render_unsafe(verdicts)
    if unsafe and config.augment.unsafe == "refuse":
        raise UsageError(
            f"augment must keep labels, got transforms that change them on {dataset.name}: {'; '.join(unsafe)}. Set them to 0, "
            "choose another preset, or --set augment.unsafe=warn; `clearsight data safety` shows pictures."
        )
    for level in ("unsafe", "doubtful"):
        for text in render_unsafe(verdicts, level):
            note(f"augmentation is {level}, {text}")
    if unknown := explain_unknown(judge, verdicts):
        note(unknown)
    return verdicts
