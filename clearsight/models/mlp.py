"""The fully connected network as a description: sizes, activations, biases, and where each lies in one flat vector.

It must not know how the network is trained, nor what the numbers mean.
"""

from dataclasses import dataclass
from math import prod
from typing import Any, get_args

from numpy.typing import NDArray

from clearsight.config.schema import Activation, Bias
from clearsight.errors import UsageError

ACTIVATIONS: tuple[str, ...] = get_args(Activation)
BIASES: tuple[str, ...] = get_args(Bias)
LEAK = 0.01  # slope of leaky_relu for z < 0 (Maas et al. 2013)
OUTPUTS = ("softmax", "identity")
TRAINED = "trained"
Layout = dict[str, tuple[tuple[int, ...], str]]
"""Name, shape and kind of each tensor, in the order of the flat vector."""


def cut(params: NDArray[Any], layout: Layout) -> dict[str, NDArray[Any]]:
    """Views into flat vectors (..., values) by name: (..., *shape) each."""
    found, at = {}, 0
    for name, (shape, _) in layout.items():
        found[name] = params[..., at : at + prod(shape)].reshape(*params.shape[:-1], *shape)
        at += prod(shape)
    return found


@dataclass(frozen=True, slots=True)
class MLP:
    """A dense network of `len(sizes) - 1` layers, its parameters kept in one flat vector `W1 b1 W2 b2 ...`.

    Args:
        sizes: units of each layer, input first and output last, for example `(784, 128, 10)`.
        activations: one name per hidden layer, so `len(sizes) - 2` of them.
        bias: `unit` (one per unit), `shared` (one number for all units of a layer) or `none`.
        output: `softmax` for class probabilities, `identity` for regression.

    Raises:
        UsageError: a size is not positive, a name is unknown, or the lengths do not fit.
    """

    sizes: tuple[int, ...]
    activations: tuple[str, ...]
    bias: str = "unit"
    output: str = "softmax"

    def __post_init__(self) -> None:
        if len(self.sizes) < 2 or min(self.sizes) < 1:
            raise UsageError(f"sizes must be two or more positive numbers, got {list(self.sizes)}. Check model.hidden.")
        if len(self.activations) != len(self.sizes) - 2:
            raise UsageError(
                f"activations must be one per hidden layer ({len(self.sizes) - 2}), got {len(self.activations)}. "
                "Give one name for all layers, or a list as long as model.hidden."
            )
        for name, value, known in (
            *(("activation", a, ACTIVATIONS) for a in self.activations),
            ("bias", self.bias, BIASES),
            ("output", self.output, OUTPUTS),
        ):
            if value not in known:
                raise UsageError(f"{name} must be one of {', '.join(known)}, got {value!r}. Choose one of them.")

    @property
    def num_layers(self) -> int:
        """Number of weight matrices."""
        return len(self.sizes) - 1

    @property
    def num_parameters(self) -> int:
        """Length of the flat parameter vector."""
        return int(self.slices()[-1][1].stop)

    def num_biases(self, layer: int) -> int:
        """How many bias numbers the layer owns: its units, one, or none."""
        return {"unit": self.sizes[layer + 1], "shared": 1, "none": 0}[self.bias]

    def slices(self) -> list[tuple[slice, slice]]:
        """For each layer, where its weights (in, out) and its biases lie in the flat vector."""
        found, at = [], 0
        for layer in range(self.num_layers):
            end = at + self.sizes[layer] * self.sizes[layer + 1]
            stop = end + self.num_biases(layer)
            found.append((slice(at, end), slice(end, stop)))
            at = stop
        return found

    @property
    def num_values(self) -> int:
        """Length of the flat vector: all of it is trained."""
        return self.num_parameters

    @property
    def num_inputs(self) -> int:
        """Pixel values of a picture."""
        return self.sizes[0]

    @property
    def outputs(self) -> int:
        """Units of the last layer."""
        return self.sizes[-1]

    @property
    def family(self) -> str:
        """Always `mlp`."""
        return "mlp"

    @property
    def label(self) -> str:
        """The units of all layers."""
        return "-".join(map(str, self.sizes))

    def layout(self) -> Layout:
        """All of it is trained."""
        found: Layout = {}
        for i in range(self.num_layers):
            found[f"layers.{i}.weight"] = self.sizes[i : i + 2], TRAINED
            found[f"layers.{i}.bias"] = (self.num_biases(i),), TRAINED
        return found

    def tensors(self, params: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Views into the flat vector, named `layers.0.weight`, `layers.0.bias` and so on; see `cut`."""
        return cut(params, self.layout())

    def describe(self) -> dict[str, Any]:
        """Plain values that `build_net` reads back."""
        return {
            "family": "mlp", "sizes": list(self.sizes), "activations": list(self.activations), "bias": self.bias,
            "output": self.output,
        }  # fmt: skip

    def layers(self, params: NDArray[Any]) -> list[tuple[NDArray[Any], NDArray[Any]]]:
        """Views into the flat vector: for each layer its weights (in, out) and its biases (units,), (1,) or (0,)."""
        return [
            (params[weights].reshape(self.sizes[i], self.sizes[i + 1]), params[biases])
            for i, (weights, biases) in enumerate(self.slices())
        ]
