"""What is wrong before the first step: inputs, first weights, signals that explode, vanish or saturate."""

from math import isfinite

from clearsight.diagnose.case import Case
from clearsight.diagnose.finding import Evidence, Finding
from clearsight.diagnose.statistics import (
    measure_first_loss,
    measure_first_rank,
    measure_growth,
    measure_input,
    measure_saturation,
    measure_signal,
    measure_way_back,
)

_KARPATHY = "Karpathy 2019, A recipe for training neural networks: verify the loss at init"
_GLOROT = "Glorot & Bengio 2010, Understanding the difficulty of training deep feedforward neural networks"
_HE = "He et al. 2015, Delving deep into rectifiers"


def find_unscaled_inputs(case: Case) -> Finding | None:
    """The inputs have a root mean square above 3. Scaled pixels have 0.3 to 1.2, pixels of 0 to 16 have 8, and pixels
    of 0 to 255 have 80.

    Severe above 20, where usual rates and first weights no longer fit, unless the training rows are answered well all the same.
    Batch normalisation takes the scale out, so a normalised network is left alone. Source of the range: LeCun et al. 1998,
    Efficient BackProp, section 4.3.
    """
    size = measure_input(case)
    if size is None or size <= 3 or case.choices.normalised or case.choices.head:
        return None
    return Finding(
        code="unscaled-inputs",
        severity="severe" if size > 20 and not case.fits else "warning" if size > 20 or not case.fits else "note",
        confidence=0.95,
        summary=f"Inputs have a size of {size:.3g}; scaled pixels have 0.3 to 1.",
        cause=(
            "The first layer's sums, and the gradients in its weights, grow with the inputs, so first "
            "weights and rate no longer fit."
        ),
        evidence=(Evidence("root mean square of the inputs", size, 3.0, statistic="input"),),
        prescription={"preprocess": {"scale": "unit"}},
        advice="Scale the pixels to 0..1.",
        alternatives=("rate-too-high", "exploding-signal"),
        reference="LeCun et al. 1998, Efficient BackProp, section 4.3",
    )


def find_faint_inputs(case: Case) -> Finding | None:
    """The inputs have a root mean square below 0.02 but are not all 0. Pixels divided by 255 twice have 0.001 to 0.003."""
    size = measure_input(case)
    if size is None or not 0 < size < 0.02 or case.choices.normalised or case.choices.head:
        return None
    return Finding(
        code="faint-inputs",
        severity="warning" if case.fits else "severe",
        confidence=0.9,
        summary=f"Inputs have a size of {size:.2g}; scaled pixels have 0.3 to 1.",
        cause="Pixels were probably scaled twice, so that hardly anything of a picture reaches the first layer.",
        evidence=(Evidence("root mean square of the inputs", size, 0.02, statistic="input"),),
        prescription={"preprocess": {"scale": "standardize"}},
        advice="Scale once, or standardise the pixels.",
        alternatives=("vanishing-signal", "rate-too-low"),
        reference="LeCun et al. 1998, Efficient BackProp, section 4.3",
    )


def find_constant_inputs(case: Case) -> Finding | None:
    """The first layer has nonzero weights but gives the same output for every picture, to within 1/100,000 of its size."""
    layer = next(iter(case.layers(case.first)), None) if case.first else None
    if layer is None or not layer.spread <= 1e-5 * (layer.std or 0.0):  # nan is no sign of it
        return None
    return Finding(
        code="constant-inputs",
        severity="severe",
        confidence=0.97,
        summary="Every picture looks the same to the network.",
        cause=(
            "The inputs do not differ from picture to picture, so nothing can be learnt from them but "
            "how frequent classes are."
        ),
        evidence=(
            Evidence(
                "spread of the first layer's sums from picture to picture", layer.spread, 1e-5 * (layer.std or 0.0)
            ),
        ),
        advice="Look at the pictures with `clearsight data show`.",
    )


def find_symmetric_weights(case: Case) -> Finding | None:
    """The initial weights of a hidden layer are all 0, or a first layer of four or more units has an effective rank
    below 1.05.

    Units that start alike get the same gradient and stay alike. Residual branches that begin at 0 are no such layers: the way
    around them is open. Source: Goodfellow et al. 2016, Deep learning, section 8.4.
    """
    if case.first is None or case.choices.head or case.choices.pretrained:
        return None
    rank, hidden = measure_first_rank(case), case.first.layers[:-1]
    zero = [layer.name for layer in hidden if layer.weight == 0]
    if not (zero if case.choices.dense else len(zero) == len(hidden) > 0) and not (
        rank is not None and rank < 1.05 and len(case.classes) > 2
    ):
        return None
    where = zero[0] if zero else case.first.layers[0].name
    what = "are all 0" if zero else "make all units give the same"
    return Finding(
        code="symmetric-weights",
        severity="severe" if case.learnt < 0.8 else "warning",
        confidence=0.95,
        summary=f"The first weights of {where} {what}.",
        cause="Units that start alike get the same gradient, so they stay alike and count as one.",
        evidence=(Evidence("effective rank of the first layer", rank or 0.0, 1.05, where, statistic="first rank"),),
        prescription={"model": {"init": "auto"}},
        advice="Draw the first weights at random, as He or Xavier do.",
        alternatives=("vanishing-signal", "constant-inputs"),
        reference="Goodfellow et al. 2016, Deep learning, section 8.4",
    )


def find_exploding_signal(case: Case) -> Finding | None:
    """Before the first step, the loss is more than 4 times that of a blind guess, or not finite, and larger inputs do
    not explain it.

    A healthy network begins near 1, 1.5 at most; weights from N(0, 1) give 40 and more. Severe above 10, unless the training rows
    are answered well in the end. Source: Karpathy 2019; the size of weights that keeps signals: He et al. 2015.
    """
    ratio, growth, size = measure_first_loss(case), measure_growth(case), measure_input(case)
    if ratio is None or ratio <= 4 * max(1.0, size or 1.0) or case.first is None or (size or 0) > 20:  # nan is exploded
        return None
    sure = case.first.sure
    size_of_loss = f"{ratio:.3g} times that of a blind guess" if isfinite(ratio) else "not finite"
    seen = f", {sure:.0%} of the answers are sure beyond 99 %" if sure is not None and sure > 0.3 else ""
    return Finding(
        code="exploding-signal",
        severity="severe" if not ratio <= 10 and not case.fits else "warning",
        confidence=0.95,
        summary=f"Before the first step the loss is {size_of_loss}{seen}.",
        cause=(
            "The first weights are too large: each layer makes the signal larger, so the softmax is "
            "saturated from the start."
        ),
        evidence=(
            Evidence("first loss over the blind loss", ratio, 4.0, statistic="first loss"),
            Evidence(
                "spread of the largest layer over the first",
                growth if growth is not None else "unknown",
                10.0,
                statistic="growth",
            ),
        ),
        prescription={"model": {"init": "auto"}},
        advice="Let He or Xavier choose the size of the first weights.",
        alternatives=("unscaled-inputs", "rate-too-high"),
        reference=f"{_KARPATHY}; {_HE}",
    )


def find_vanishing_signal(case: Case) -> Finding | None:
    """Before the first step, the spread of a layer's outputs between pictures is below 0.003 of the deviation of the inputs.

    The layer that is named is the first of them. Healthy dense and convolutional networks of this package keep 0.05 or more;
    deep stacks of sigmoids are told by `vanishing-gradient`. Severe unless the network learnt all the same.
    """
    share = measure_signal(case)
    if share is None or share >= 3e-3 or case.first is None or case.choices.pretrained or _is_squashed(case):
        return None
    layers, size = case.layers(case.first), case.first.layers[0].x_std
    dies = next(layer for layer in layers if layer.spread < 3e-3 * size)
    return Finding(
        code="vanishing-signal",
        severity="severe" if case.learnt < 0.8 else "warning" if not case.fits else "note",
        confidence=0.93,
        summary=f"The signal dies at {dies.name}: what it gives hardly differs from picture to picture.",
        cause=(
            "The first weights are too small for so many layers: each makes the signal smaller, until "
            "only biases speak."
        ),
        evidence=(
            Evidence(
                "spread of the weakest layer, as a share of the inputs'", share, 3e-3, dies.name, statistic="signal"
            ),
            Evidence("loss before the first step (nats)", case.first.loss, case.blind_loss),
        ),
        prescription={"model": {"init": "orthogonal"}, "train": {"optimizer": "adam", "lr": 0.001}},
        advice="Use orthogonal first weights, or He's, and Adam.",
        alternatives=("vanishing-gradient", "rate-too-low"),
        reference=f"{_GLOROT}; {_HE}",
    )


def find_vanishing_gradient(case: Case) -> Finding | None:
    """The hidden layers are sigmoid or tanh, and the gradient of the first layer, relative to its weights, is below
    1/100 of that of the last hidden layer.

    A sigmoid's slope is a quarter at most, so each layer takes a factor of four or more of the gradient (Glorot & Bengio 2010).
    """
    back, share = measure_way_back(case), measure_signal(case)
    if back is None or not _is_squashed(case) or (back >= 1e-2 and (share is None or share >= 1e-3)):
        return None
    name = next(one for one in case.choices.activations if one in ("sigmoid", "tanh"))
    return Finding(
        code="vanishing-gradient",
        severity="severe" if case.learnt < 0.5 else "warning" if not case.fits else "note",
        confidence=0.93,
        summary=(
            f"The gradient that reaches the first layer is {back:.2g} of that in the last hidden one, as "
            "shares of their weights."
        ),
        cause=(
            f"The slope of {name} is small everywhere, and {len(case.choices.hidden)} layers multiply their slopes."
        ),
        evidence=(
            Evidence("gradient over weights, first layer over last hidden one", back, 1e-2, statistic="way back"),
        ),
        prescription={"model": {"activation": "relu"}},
        advice="Use ReLU in the hidden layers, or fewer of them.",
        alternatives=("vanishing-signal", "rate-too-low"),
        reference=_GLOROT,
    )


def _is_squashed(case: Case) -> bool:
    """Whether most hidden layers are sigmoid or tanh, with first weights of a usual size."""
    names = case.choices.activations
    squashed = sum(name in ("sigmoid", "tanh") for name in names)
    return (
        case.choices.dense
        and len(names) > 1
        and 2 * squashed > len(names)
        and case.choices.init not in ("normal", "uniform")
    )


def find_saturated_units(case: Case) -> Finding | None:
    """Before the first step, more than half of the inputs of a sigmoid or tanh lie on its flat ends (absolute value
    above 4 or 2).

    Source: the limits are DeepDiagnosis's (Wardat et al. 2022: beyond 5 in half of the units), by the slope that is left.
    """
    share = measure_saturation(case)
    if share is None or share <= 0.5:
        return None
    return Finding(
        code="saturated-units",
        severity="warning" if case.fits else "severe",
        confidence=0.93,
        summary=(
            f"{share:.0%} of the inputs of a hidden layer's activations lie on their flat ends before the first step."
        ),
        cause="The first weights are too large for activations that saturate, so hardly any gradient passes.",
        evidence=(Evidence("share of sums where the slope is nearly 0", share, 0.5, statistic="saturation"),),
        prescription={"model": {"init": "auto"}},
        advice="Let Xavier choose the size of the first weights.",
        alternatives=("exploding-signal", "rate-too-low"),
        reference=_GLOROT,
    )
