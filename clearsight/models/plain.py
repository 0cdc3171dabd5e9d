"""cnn and vgg: plain stages of convolutions. It must not know how a network is trained."""

from itertools import pairwise

from torch import Tensor, nn

from clearsight.config.families import find_family
from clearsight.models.convnet import ConvNet
from clearsight.models.layers import Activation, BatchNorm1d, BatchNorm2d, Dropout, Pad, PoolPlaces


class PlainNet(nn.Module):
    """cnn and vgg: stages of convolutions with a 2x2 pool after each, then one pool over all places or hidden layers."""

    def __init__(self, net: ConvNet, dropout: float) -> None:
        super().__init__()
        features: list[nn.Module] = [Pad(net.pad_to)] if net.pad_to else []
        height, width = (net.pad_to,) * 2 if net.pad_to else net.input_shape[:2]
        channels, flat = net.input_shape[2], find_family(net.family).flat
        for stage, (units, depth) in enumerate(zip(net.widths, net.depths, strict=True)):
            for k in range(depth):
                features.append(
                    nn.Conv2d(channels, units, net.kernel, padding=net.kernel // 2, bias=net.norm == "none")
                )
                if k == depth - 1 and (flat or stage < len(net.widths) - 1):
                    features.append(nn.MaxPool2d(2))
                    height, width = height // 2, width // 2
                features += [BatchNorm2d(units)] if net.norm == "batch" else []
                features.append(Activation(net.activation))
                channels = units
        self.features = nn.Sequential(*features)
        sizes = (channels * height * width, *net.hidden) if flat else (channels,)
        head: list[nn.Module] = [nn.Flatten() if flat else PoolPlaces(net.pooling)]
        if net.pooling == "mean" and not flat and net.norm == "batch":
            head.append(BatchNorm1d(channels))  # means of many places differ little, yet that is what counts
        for k, (fan_in, units) in enumerate(pairwise(sizes)):
            head += [nn.Linear(fan_in, units), Activation(net.activation), Dropout(dropout, k)]
        head += [] if flat and net.hidden else [Dropout(dropout, 0)]
        self.classifier = nn.Sequential(*head, nn.Linear(sizes[-1], net.outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(n, H, W, C) to (n, K)."""
        out: Tensor = self.classifier(self.features(x.permute(0, 3, 1, 2)))
        return out
