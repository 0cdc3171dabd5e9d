"""A setting that others leave without effect is refused, so that none is ignored in silence."""

import re

import pytest

from clearsight.combinations import check_used
from clearsight.config import build_config
from clearsight.errors import UsageError


@pytest.mark.parametrize(
    ("settings", "message", "partner"),
    [
        (
            {"train": {"schedule_unit": "epoch"}},
            "schedule_unit must go with a schedule or warmup_epochs, got epoch without. Leave it out or add that.",
            {"train": {"schedule_unit": "epoch", "schedule": "cosine"}},
        ),
        (
            {"model": {"activation": "tanh", "hidden": []}},
            "activation must go with a hidden layer, or model cnn or vgg, got tanh without. Leave it out or add that.",
            {"model": {"activation": "tanh", "hidden": [4]}},
        ),
    ],
    ids=["schedule_unit", "activation"],
)
def test_a_setting_without_effect_is_refused_and_taken_where_it_has_one(settings, message, partner):
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        check_used(build_config(settings))
    check_used(build_config(partner))
    check_used(build_config({"model": {"activation": [], "hidden": []}}))  # as the small format writes it
    check_used(build_config({"train": {"schedule_unit": "epoch", "warmup_epochs": 2}}))
