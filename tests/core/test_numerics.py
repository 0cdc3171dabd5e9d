"""Arithmetic beyond all bounds: it ends in infinite numbers or NaN, and warns nobody."""

import numpy as np
import pytest

from clearsight.core.numerics import allow_infinities, log_softmax, softmax


@pytest.mark.parametrize("function", [softmax, log_softmax])
@pytest.mark.parametrize("logits", [[[np.inf, 1.0]], [[np.inf, -np.inf]], [[np.nan, 0.0]]])
def test_logits_that_are_not_finite_give_nan_without_a_warning(function, logits):
    assert np.isnan(function(np.array(logits, np.float32))).any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_huge_finite_logits_have_probabilities_and_logarithms(dtype):
    z = np.array([[0.9 * np.finfo(dtype).max, 0.0], [-3e4, -3e4]], dtype)
    np.testing.assert_array_equal(softmax(z), [[1, 0], [0.5, 0.5]])
    np.testing.assert_allclose(log_softmax(z)[1], np.log(0.5), rtol=1e-6)


def test_what_overflows_inside_warns_nobody_and_outside_somebody():
    large = np.full(2, 1e308)
    with allow_infinities():
        assert np.isinf(large * 10).all()
    with pytest.warns(RuntimeWarning, match="overflow"):
        large * 10
