"""Our own matrix product equals NumPy's at every size around its tiles, reads no NaN behind B into C, and writes only C."""

import numpy as np
import pytest

from clearsight.engines.dense.product import BLOCK, LANES, multiply

ROWS = (1, 5, 6, 7, 13)
COLUMNS = (1, 15, 16, 17, 50, 64, 65, 130)
DEPTHS = (1, 2, 33, BLOCK, BLOCK + 1, 2 * BLOCK + 3)


@pytest.mark.long
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("columns", COLUMNS)
def test_product_equals_numpys(columns, transposed, dtype):
    rng = np.random.default_rng(columns)
    for rows in ROWS:
        for depth in DEPTHS:
            a = rng.normal(size=(depth, rows) if transposed else (rows, depth)).astype(dtype)
            b = rng.normal(size=(depth, columns)).astype(dtype)
            behind_b = np.concatenate([b.ravel(), np.full(LANES, np.nan, dtype)])
            c = np.full(rows * columns + 2 * LANES, 7, dtype)
            steps = (1, rows) if transposed else (depth, 1)
            multiply(a.ravel(), *steps, behind_b, columns, c[LANES:-LANES], columns, rows, depth, columns)
            expected = (a.T if transposed else a).astype(np.float64) @ b.astype(np.float64)
            tolerance = {"rtol": 1e-4, "atol": 2e-4} if dtype == np.float32 else {"rtol": 1e-10, "atol": 1e-10}
            np.testing.assert_allclose(c[LANES:-LANES].reshape(rows, columns), expected, **tolerance)
            assert (c[:LANES] == 7).all()
            assert (c[-LANES:] == 7).all()


@pytest.mark.long
def test_every_element_is_summed_in_the_order_of_k_whatever_the_tile():
    """One column at a time uses the narrowest tile, one row at a time the lowest: the same bits must come out."""
    rng = np.random.default_rng(0)
    rows, depth, columns = 13, BLOCK + 5, 70
    a, b = rng.normal(size=(rows, depth)).astype(np.float32), rng.normal(size=(depth, columns)).astype(np.float32)
    behind = np.concatenate([b.ravel(), np.zeros(LANES, np.float32)])
    whole, parts = np.zeros(rows * columns, np.float32), np.zeros((rows, columns), np.float32)
    multiply(a.ravel(), depth, 1, behind, columns, whole, columns, rows, depth, columns)
    for i in range(rows):
        for j in range(columns):
            c = np.zeros(1, np.float32)
            multiply(a[i].copy(), depth, 1, behind[j:].copy(), columns, c, 1, 1, depth, 1)
            parts[i, j] = c[0]
    assert np.array_equal(whole.reshape(rows, columns), parts)
