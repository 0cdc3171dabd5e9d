"""The registry of networks: what a family says of itself is so, nothing else knows families by name, and one file adds one."""

import ast
import os
import re
import sys
from pathlib import Path
from subprocess import PIPE
from typing import get_args

import numpy as np
import pytest
import torch
from processes import LIMIT_SECONDS

from clearsight.config.build import build_config
from clearsight.config.families import FAMILIES, TIMM, find_family, is_dense, render_takers
from clearsight.config.rules import check_used
from clearsight.config.schema import Scaling
from clearsight.data.read.load import load_data
from clearsight.engines.torch_tools import build_bound
from clearsight.errors import UsageError
from clearsight.models.convnet import ConvNet, Tail
from clearsight.models.initialize import initialize
from clearsight.models.modules import build_module, find_layers, trace_shapes
from clearsight.pipeline.prepare import prepare

PACKAGE = Path(__file__).parents[2] / "clearsight"
REGISTRY = PACKAGE / "config" / "families.py"
CONV = [name for name, family in FAMILIES.items() if not family.dense]
PUBLISHED = [name for name, family in FAMILIES.items() if family.published]
SETTINGS = sorted(set().union(*(family.settings for family in FAMILIES.values())))
OTHER = {
    "activation": "tanh", "bias": "none", "bias_init": "normal", "init": "normal", "init_std": 0.3, "kernel": 5, "norm": "none",
    "pad_to": 72, "stem": "large", "hidden": (7,),
}  # fmt: skip


def data():
    rng = np.random.default_rng(0)
    return load_data(rng.integers(0, 256, (20, 64, 64, 3)).astype(np.uint8), np.arange(20) % 5)


def narrow(family):
    """Settings that make a network of a family small."""
    sizes = {"widths": (4,) * len(family.widths), "depths": (1,) * len(family.depths), "hidden": (6,)}
    return {"family": family.name} | {key: value for key, value in sizes.items() if key in family.settings}


def change(family, setting):
    """Another value than the usual one."""
    values = OTHER | {
        "widths": (6,) * len(family.widths) or (6,),
        "depths": (2,) * len(family.depths) or (2,),
        "pooling": "max" if family.pooling == "mean" else "mean",
    }
    return {setting: values[setting]}


def look(model):
    """The tensors of an untrained network, and what it says of some pictures."""
    parts = {"valid_fraction": 0.0, "test_fraction": 0.0}
    prepared = prepare(build_config({"model": model, "data": parts}), data())
    return prepared.net.layout(), prepared.engine.logits(np.arange(20)).tolist()


def is_name(node, *, begins=False):
    """Whether an expression is the name of a family, or holds one; `begins`: how one or more begin."""
    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        return any(is_name(one, begins=begins) for one in node.elts)
    if not isinstance(node, ast.Constant) or not isinstance(node.value, str) or not node.value:
        return False
    names = [*FAMILIES, TIMM.name]
    return any(name.startswith(node.value) for name in names) if begins else node.value in names


def find_choices(tree):
    """Lines that choose by the name of a family."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            found = any(is_name(one) for one in (node.left, *node.comparators))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            found = node.func.attr == "startswith" and any(is_name(one, begins=True) for one in node.args)
        elif isinstance(node, ast.Dict):
            found = any(is_name(key) for key in node.keys)
        elif isinstance(node, ast.Subscript):
            found = is_name(node.slice) and not (isinstance(node.value, ast.Name) and node.value.id == "Literal")
        else:
            found = isinstance(node, ast.MatchValue) and is_name(node.value)
        if found:
            yield node.lineno if hasattr(node, "lineno") else 0


def test_only_the_registry_knows_families_by_name():
    found = [
        f"{path.relative_to(PACKAGE)}:{line}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if path != REGISTRY
        for line in find_choices(ast.parse(path.read_text()))
    ]
    assert not found, "ask `find_family(name)` for what depends on the family"


@pytest.mark.parametrize(
    "line",
    [
        "f == 'cnn'",
        "f in ('a', 'vgg')",
        "f.startswith(('x', 'resnet'))",
        "f.startswith('timm:')",
        "{'mlp': 1}",
        "t['vgg']",
    ],
)
def test_the_search_for_names_finds(line):
    assert list(find_choices(ast.parse(line))) == [1]


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_has_layers_and_a_sentence_and_takes_settings_that_there_are(name):
    family = find_family(name)
    assert family.name == name
    assert len(family.title) > 20
    assert issubclass(find_layers(family.layers), torch.nn.Module)
    assert family.settings <= set(type(build_config({}).model).model_fields)
    assert family.scale in get_args(Scaling)
    assert family.dense == is_dense(name) == (family.widths == ())


@pytest.mark.long
@pytest.mark.parametrize("name", FAMILIES)
def test_every_setting_that_a_family_takes_changes_what_comes_out(name):
    family = find_family(name)
    plain = look(narrow(family))
    assert np.shape(plain[1]) == (20, 5)
    assert np.isfinite(plain[1]).all()
    for setting in sorted(family.settings):
        context = narrow(family) | ({"init": "normal"} if setting == "init_std" else {})
        check_used(build_config({"model": context | change(family, setting)}))
        before = look(context) if setting == "init_std" else plain
        assert look(context | change(family, setting)) != before, setting


@pytest.mark.parametrize("name", [*FAMILIES, "timm:test_resnet"])
def test_every_setting_that_a_family_does_not_take_is_refused(name):
    family = find_family(name)
    for setting in sorted({*SETTINGS} - family.settings):
        with pytest.raises(
            UsageError, match=rf"^{setting} must go with .+, got .+ without\. Leave it out or add that\.$"
        ):
            check_used(build_config({"model": {"family": name, **change(family, setting)}}))
    if not family.published:
        with pytest.raises(UsageError, match=f"^pretrained must go with model {', '.join(PUBLISHED)}, timm:NAME, got"):
            check_used(build_config({"model": {"family": name, "pretrained": True}}))


@pytest.mark.parametrize(
    ("setting", "takers"),
    [
        ("hidden", "model mlp or vgg"),
        ("bias", "model mlp"),
        ("init", "a network of our own"),
        ("widths", "a convolutional model of our own"),
        ("depths", "model cnn, vgg, a resnet or efficientnet_lite0"),
        ("kernel", "model cnn or vgg"),
        ("norm", "model cnn or vgg"),
        ("pooling", "model cnn, a resnet or efficientnet_lite0"),
        ("stem", "a resnet"),
        ("pad_to", "a convolutional model of our own"),
    ],
)
def test_sentences_name_the_families_that_take_a_setting(setting, takers):
    assert render_takers(setting) == takers


def test_no_convolutional_net_is_described_by_the_name_of_a_dense_one():
    with pytest.raises(UsageError, match=r"^family must be one of mlp, .*, got 'mlp'\. Choose one of them\.$"):
        ConvNet("mlp", (8, 8, 1), 2)


@pytest.mark.long
@pytest.mark.parametrize("name", CONV)
def test_pictures_may_be_as_small_as_a_family_says_and_no_smaller(name):
    small = ConvNet(name, (64, 64, 3), 5, widths=narrow(find_family(name))["widths"])
    side = small.least_side
    net = ConvNet(name, (side, side, 3), 5, widths=small.widths)
    module = build_bound(net, initialize(net, init="auto", seed=0).astype(np.float32))
    found = module(torch.rand(2, side, side, 3))
    assert found.shape == (2, 5)
    assert torch.isfinite(found).all()
    with pytest.raises(UsageError, match=rf"^pictures must be {side}x{side} or more for {name} of .* stages, got"):
        ConvNet(name, (side - 1, side - 1, 3), 5, widths=small.widths)


@pytest.mark.long
@pytest.mark.parametrize("name", CONV)
@pytest.mark.parametrize("side", [32, 96])
def test_no_map_is_larger_than_a_family_says(name, side):
    net = ConvNet(name, (side, side, 3), 5)
    module, sizes = build_module(net), []
    for part in module.modules():
        if isinstance(part, torch.nn.Conv2d | torch.nn.Linear):
            part.register_forward_hook(lambda part, inputs, output: sizes.append(output.shape[1:].numel()))
    trace_shapes(module, net.input_shape)
    assert max(sizes) <= net.largest_map


@pytest.mark.long
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_family_with_published_weights_can_be_parted(name):
    net = ConvNet(name, (64, 64, 3), 5)
    depths = {key: net.stage_depth(key) for key in net.layout()}
    assert depths["fc.weight"] == 0 < min(depth for key, depth in depths.items() if not key.startswith("fc."))
    late = set(Tail(net).layout())
    assert late < set(depths)
    assert max(depths[key] for key in late) < max(depths.values())
    maps = trace_shapes(build_module(net), net.input_shape, part="early")
    assert trace_shapes(build_module(Tail(net)), maps) == (5,)


TOY = '''
"""One convolution and one mean."""
from torch import nn
from clearsight.config.families import FAMILIES, Family

FAMILIES["toy"] = Family(
    "toy", "one convolution and one mean", "toy:Toy", least_side=3, widths=(4,),
    settings=frozenset({"widths", "init", "init_std", "bias_init"}),
)

class Toy(nn.Module):
    def __init__(self, net, dropout):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(net.input_shape[2], net.widths[0], 3), nn.Linear(net.widths[0], net.outputs)

    def forward(self, x):
        return self.fc(self.conv(x.permute(0, 3, 1, 2)).relu().mean((2, 3)))
'''
USE = """
import sys, toy, clearsight
from clearsight.report import html
html.write_report = lambda path: path
from clearsight.cli.main import main
from clearsight.errors import UsageError
run = clearsight.train("digits", family="toy", widths=[6], epochs=1, out=sys.argv[1] + "/run")
print(clearsight.load(run.path).net.describe()["family"], clearsight.evaluate(run.path).n)
for values in ({"kernel": 5}, {"hidden": [3]}, {"pretrained": True}):
    try:
        clearsight.train("digits", family="toy", **values, root=sys.argv[1])
    except UsageError as error:
        print(error)
sys.argv = ["clearsight", "models"]
main()
"""


@pytest.mark.long
def test_one_file_adds_a_family(tmp_path, processes):
    (tmp_path / "toy.py").write_text(TOY)
    paths = os.pathsep.join([str(tmp_path), str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": paths}
    process = processes.start([sys.executable, "-c", USE, tmp_path], env=environment, stdout=PIPE, stderr=PIPE)
    out, err = process.communicate(timeout=LIMIT_SECONDS)
    assert process.returncode == 0, err
    first, kernel, hidden, pretrained, *listed = out.splitlines()
    assert first == "toy 359"
    assert kernel == "kernel must go with model cnn or vgg, got 5 without. Leave it out or add that."
    assert hidden.startswith("hidden must go with model mlp or vgg, got (3,) without")
    assert pretrained.startswith("pretrained must go with model resnet18")
    assert any(re.match(r"toy +\d+ +[\d,]+ +one convolution and one mean$", line) for line in listed)
