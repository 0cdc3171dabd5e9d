"""Imported by the process from which others are forked: what commands and workers use, PyTorch and the compiled engine too."""

import filelock  # noqa: F401
import numpy as np
import safetensors.numpy  # noqa: F401
import scipy.optimize
import scipy.spatial  # noqa: F401
import torch.distributed.run  # noqa: F401

import clearsight.actions.train
import clearsight.cli.train
import clearsight.engines.torch_engine
import clearsight.search.jobs  # noqa: F401
from clearsight.engines.dense import kernel

kernel.warm_up(np.dtype(np.uint8))
