"""For every setting: a value, a context in which it must matter, and one in which it cannot and must be refused or told.

A context holds settings as `section.key`; data sets are made by `build_place`. Contexts are light: 60 pictures, two epochs.
"""

import numpy as np
from PIL import Image

import clearsight

MLP = {"model.family": "mlp", "data.source": "grey.npz", "train.epochs": 2}
CNN = {**MLP, "model.family": "cnn", "model.widths": [4], "model.depths": [1]}
RESNET = {**MLP, "model.family": "resnet8", "preprocess.image_size": 32, "train.epochs": 1}
COLOUR = {**MLP, "data.source": "colour", "preprocess.image_size": 8, "data.test_fraction": 0.0}
NUMBERS = {**MLP, "data.task": "regression"}
SPLIT = {**MLP, "data.source": "split.npz"}
FEATURES = {**MLP, "data.source": "features.npz"}
PRETRAINED = {
    **COLOUR, "model.family": "resnet18", "model.pretrained": True, "model.weights": "a.safetensors", "train.epochs": 1,
    "preprocess.image_size": 32, "train.batch_size": 32, "train.l2": 0.01,
}  # fmt: skip
WHOLE = {**PRETRAINED, "model.finetune": "all", "augment.preset": "none"}
LITE = {key: value for key, value in PRETRAINED.items() if key != "model.weights"}
LITE |= {
    "model.family": "efficientnet_lite0",
    "model.pretrained": False,
    "preprocess.scale": "symmetric",
    "train.l2": 0.0,
}
DENSE = {**MLP, "train.engine": "dense"}
FREE = {**MLP, "augment.unsafe": "ignore"}
STOPPING = {**MLP, "train.epochs": 12, "train.lr": 0.5, "train.patience": 1}
EVERYWHERE = None  # there is no context in which it cannot matter

# key: value, where it matters, where it cannot; a context without the key takes the same value
CASES = {
    "data.source": ("split.npz", MLP, EVERYWHERE),
    "data.task": ("regression", MLP, EVERYWHERE),
    "data.label_column": ("last", {**MLP, "data.source": "table.csv"}, MLP),
    "data.skip_bad": (True, {**MLP, "data.source": "copies.npz"}, FEATURES),
    "data.follow_links": (True, {**COLOUR, "data.source": "links"}, MLP),
    "data.max_megapixels": (0.0002, {**COLOUR, "data.skip_bad": True}, MLP),
    "data.relabel": ("fix.csv", COLOUR, EVERYWHERE),
    "data.check": (False, {**MLP, "data.source": "conflict.npz"}, EVERYWHERE),
    "data.valid_fraction": (0.3, MLP, SPLIT),
    "data.test_fraction": (0.3, MLP, SPLIT),
    "data.train_per_class": (5, MLP, {**MLP, "data.folds": 2}),
    "data.valid_per_class": (3, {**MLP, "data.train_per_class": 5}, MLP),
    "data.test_per_class": (3, {**MLP, "data.train_per_class": 5}, MLP),
    "data.train_fraction": (0.5, MLP, EVERYWHERE),
    "data.shuffle_split": (False, MLP, SPLIT),
    "data.pool": (True, SPLIT, MLP),
    "data.split_seed": (1, MLP, SPLIT),
    "data.folds": (2, MLP, EVERYWHERE),
    "data.fold": (1, {**MLP, "data.folds": 2}, MLP),
    "data.fold_seed": (1, {**MLP, "data.folds": 2}, MLP),
    "data.group_by": (r"(\d)\.png", COLOUR, {**COLOUR, "data.group_by": r"\d\d"}),
    "preprocess.image_size": (8, MLP, FEATURES),
    "preprocess.resize": ("crop", COLOUR, MLP),
    "preprocess.channels": ("grey", COLOUR, MLP),
    "preprocess.background": ("black", COLOUR, MLP),
    "preprocess.scale": ("standardize", MLP, EVERYWHERE),
    "augment.preset": ("light", FREE, FEATURES),
    "augment.hflip": (0.5, FREE, FEATURES),
    "augment.vflip": (0.5, FREE, FEATURES),
    "augment.rot90": (0.5, FREE, FEATURES),
    "augment.rotate": (30.0, FREE, FEATURES),
    "augment.shear": (20.0, FREE, FEATURES),
    "augment.zoom": (0.3, FREE, FEATURES),
    "augment.shift": (0.3, FREE, FEATURES),
    "augment.crop": (0.3, FREE, FEATURES),
    "augment.brightness": (0.3, FREE, FEATURES),
    "augment.contrast": (0.3, FREE, FEATURES),
    "augment.color": (0.5, {**COLOUR, "augment.unsafe": "ignore"}, MLP),
    "augment.blur": (1.0, FREE, FEATURES),
    "augment.noise": (0.1, FREE, FEATURES),
    "augment.cutout": (0.3, FREE, FEATURES),
    "augment.mixup": (1.0, FREE, PRETRAINED),
    "augment.cutmix": (1.0, FREE, PRETRAINED),
    "augment.fill": ("reflect", {**FREE, "augment.shift": 0.3}, {**FREE, "augment.hflip": 0.5}),
    "augment.unsafe": ("warn", {**MLP, "data.source": "digits", "augment.vflip": 1.0, "train.epochs": 1}, MLP),
    "model.family": ("cnn", MLP, EVERYWHERE),
    "model.inputs": (35, MLP, EVERYWHERE),
    "model.outputs": (4, MLP, EVERYWHERE),
    "model.hidden": ([5], MLP, CNN),
    "model.widths": ([5], CNN, MLP),
    "model.depths": ([2], CNN, MLP),
    "model.kernel": (5, CNN, MLP),
    "model.norm": ("none", CNN, MLP),
    "model.pooling": ("mean", CNN, MLP),
    "model.stem": ("large", RESNET, CNN),
    "model.pad_to": (8, CNN, MLP),
    "model.activation": ("tanh", MLP, {**MLP, "model.hidden": []}),
    "model.bias": ("none", MLP, CNN),
    "model.init": ("xavier", MLP, PRETRAINED),
    "model.init_std": (0.2, {**MLP, "model.init": "normal"}, MLP),
    "model.bias_init": ("normal", MLP, {**MLP, "model.bias": "none"}),
    "model.start_from": ("start/model.clearsight", MLP, EVERYWHERE),
    "model.pretrained": (True, LITE, MLP),
    "model.weights": ("b.safetensors", PRETRAINED, MLP),
    "model.finetune": ("last", PRETRAINED, MLP),
    "train.engine": ("reference", MLP, {**PRETRAINED, "train.engine": "torch"}),
    "train.device": ("mps", CNN, DENSE),
    "train.precision": ("bfloat16", CNN, DENSE),
    "train.compile": (True, CNN, DENSE),
    "train.accumulate": (2, CNN, DENSE),
    "train.ema": (0.9, CNN, DENSE),
    "train.lookahead": (2, CNN, DENSE),
    "train.loss": ("huber", NUMBERS, MLP),
    "train.huber_delta": (0.1, {**NUMBERS, "train.loss": "huber"}, NUMBERS),
    "train.epochs": (3, MLP, EVERYWHERE),
    "train.batch_size": (16, MLP, EVERYWHERE),
    "train.shuffle": (False, MLP, {**MLP, "train.sampling": "balanced"}),
    "train.sampling": ("balanced", MLP, NUMBERS),
    "train.optimizer": ("sgd", MLP, EVERYWHERE),
    "train.lr": (0.01, MLP, EVERYWHERE),
    "train.momentum": (0.5, {**MLP, "train.optimizer": "momentum"}, MLP),
    "train.rho": (0.5, {**MLP, "train.optimizer": "rmsprop"}, MLP),
    "train.beta1": (0.5, MLP, {**MLP, "train.optimizer": "sgd"}),
    "train.beta2": (0.9, MLP, {**MLP, "train.optimizer": "sgd"}),
    "train.eps": (1e-3, MLP, {**MLP, "train.optimizer": "sgd"}),
    "train.schedule": ("cosine", MLP, EVERYWHERE),
    "train.schedule_unit": ("epoch", {**MLP, "train.schedule": "cosine"}, MLP),
    "train.warmup_epochs": (1.0, MLP, EVERYWHERE),
    "train.step_epochs": (1, {**MLP, "train.schedule": "step"}, MLP),
    "train.step_gamma": (0.5, {**MLP, "train.schedule": "step", "train.step_epochs": 1}, MLP),
    "train.reduction": ("sum", {**MLP, "train.optimizer": "sgd"}, EVERYWHERE),
    "train.l1": (0.01, MLP, EVERYWHERE),
    "train.l2": (0.01, MLP, EVERYWHERE),
    "train.layer_decay": (0.3, WHOLE, MLP),
    "train.weight_decay": (0.1, MLP, EVERYWHERE),
    "train.dropout": (0.5, MLP, PRETRAINED),
    "train.label_smoothing": (0.1, MLP, NUMBERS),
    "train.class_weights": ([1.0, 2.0, 1.0], MLP, NUMBERS),
    "train.clip_norm": (0.1, {**MLP, "train.optimizer": "sgd"}, EVERYWHERE),
    "train.patience": (2, STOPPING, {**MLP, "data.valid_fraction": 0.0}),
    "train.monitor": ("train_loss", STOPPING, MLP),
    "train.seed": (1, MLP, EVERYWHERE),
    "train.checkpoint_steps": (1, MLP, EVERYWHERE),
    "train.keep_steps": (1, MLP, EVERYWHERE),
    "train.weight_history": (True, MLP, EVERYWHERE),
    "eval.calibrate": (False, MLP, {**MLP, "data.valid_fraction": 0.0}),
    "eval.mistakes": (0, {**MLP, "train.epochs": 1}, NUMBERS),
    "eval.floor": (0.01, MLP, NUMBERS),
}  # fmt: skip
REFUSING = {
    "data.check", "augment.unsafe", "model.inputs", "model.outputs", "train.device",
}  # which matter by what they refuse  # fmt: skip


def build_place(place):
    """All data sets, weights and models that the contexts name, in a folder."""
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    grey = rng.integers(0, 160, (60, 6, 6)).astype(np.uint8)
    for k in range(3):
        grey[labels == k, 2 * k : 2 * k + 2] += 60
    np.savez(place / "grey.npz", x=grey, y=labels)
    np.savez(place / "features.npz", x=grey.reshape(60, 36).astype(np.float32) + 0.5, y=labels)
    parts = {"train": slice(0, 36), "valid": slice(36, 48), "test": slice(48, 60)}
    np.savez(
        place / "split.npz",
        **{f"x_{s}": grey[rows] for s, rows in parts.items()},
        **{f"y_{s}": labels[rows] for s, rows in parts.items()},
    )
    np.savez(place / "copies.npz", x=np.concatenate([grey, grey[:9]]), y=np.r_[labels, labels[:9]])
    np.savez(place / "conflict.npz", x=np.concatenate([grey, grey[:3]]), y=np.r_[labels, labels[1:3], labels[0]])
    header = ",".join(["first", *(f"p{k}" for k in range(36)), "label", "last"])
    rows = [[labels[k], *grey[k].ravel(), labels[k], k % 2] for k in range(60)]
    (place / "table.csv").write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    for k in range(24):
        folder = place / "colour" / "ab"[k % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 160, (20, 20, 4) if k == 5 else (9, 12, 4)).astype(np.uint8)
        pixels[..., k % 2] += 60
        pixels[:, 0, 3] = 0  # transparent at the left
        pixels[:, 1:, 3] = 255
        Image.fromarray(pixels).save(folder / f"{k:02}.png")
    (place / "fix.csv").write_text("row,name,label,new_label\n0,a/00.png,a,b\n")
    for k, name in enumerate(sorted((place / "colour").rglob("*.png"))):
        folder = place / "links" / name.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        if k % 4:
            (folder / name.name).write_bytes(name.read_bytes())
        else:
            (folder / name.name).symlink_to(name)
    clearsight.train(place / "grey.npz", epochs=1, family="mlp", seed=9, out=place / "start")
