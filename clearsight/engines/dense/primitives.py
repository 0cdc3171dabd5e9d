"""The kernel's building blocks besides products: an exp that vectorises, a hash, a transpose that stays in the cache, loops."""

import math

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, overload


@intrinsic
def two_to_the(typingctx, n):  # type: ignore[no-untyped-def]
    """2**n as float32 for an int32 -126 <= n <= 127, by writing the exponent's bits."""

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        biased = builder.add(args[0], ir.IntType(32)(127))
        return builder.bitcast(builder.shl(biased, ir.IntType(32)(23)), ir.FloatType())

    return types.float32(types.int32), codegen


def exp(x: float) -> float:
    """e to the power x, in compiled code alone."""
    raise NotImplementedError


@overload(exp)
def _exp_overload(x):  # type: ignore[no-untyped-def]
    """exp that vectorises in float32 (relative error below 2e-7; Cody & Waite 1980), and the exact one in float64."""
    if x == types.float64:
        return lambda x: math.exp(x)

    def exp32(x):  # type: ignore[no-untyped-def]
        x = np.float32(-87.0) if x < np.float32(-87.0) else x  # a NaN passes both tests and stays a NaN
        x = np.float32(88.0) if x > np.float32(88.0) else x
        n = np.floor(x * np.float32(1.44269504) + np.float32(0.5))
        r = x - n * np.float32(0.693359375) + n * np.float32(2.12194440e-4)
        p = np.float32(1.9875691500e-4)
        p = p * r + np.float32(1.3981999507e-3)
        p = p * r + np.float32(8.3334519073e-3)
        p = p * r + np.float32(4.1665795894e-2)
        p = p * r + np.float32(1.6666665459e-1)
        p = p * r + np.float32(5.0000001201e-1)
        return (p * r * r + r + np.float32(1.0)) * two_to_the(np.int32(n))

    return exp32


@njit(nogil=True)
def mix(x):  # type: ignore[no-untyped-def]
    """The finaliser of SplitMix64, as in `randomness`."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@njit(nogil=True)
def transpose(w, fan_in, units, out):  # type: ignore[no-untyped-def]
    """W (fan_in, units) as (units, fan_in) in the flat `out`, by squares of 16."""
    for i in range(0, fan_in, 16):
        for j in range(0, units, 16):
            for k in range(i, min(i + 16, fan_in)):
                for m in range(j, min(j + 16, units)):
                    out[m * fan_in + k] = w[k * units + m]


@njit(nogil=True)
def penalise(w, g, l1, l2):  # type: ignore[no-untyped-def]
    """g += l1 sign(w) + l2 w"""
    zero, l1, l2 = w.dtype.type(0), w.dtype.type(l1), w.dtype.type(l2)
    for i in range(w.size):
        sign = l1 if w[i] > zero else (-l1 if w[i] < zero else zero)
        g[i] += sign + l2 * w[i]


@njit(nogil=True)
def square_sum(g):  # type: ignore[no-untyped-def]
    """The sum of g * g in float64: four partial sums, because a single one must wait for each addition."""
    a, b, c, d = 0.0, 0.0, 0.0, 0.0
    whole = g.size - g.size % 4
    for i in range(0, whole, 4):
        a += np.float64(g[i]) * np.float64(g[i])
        b += np.float64(g[i + 1]) * np.float64(g[i + 1])
        c += np.float64(g[i + 2]) * np.float64(g[i + 2])
        d += np.float64(g[i + 3]) * np.float64(g[i + 3])
    for i in range(whole, g.size):
        a += np.float64(g[i]) * np.float64(g[i])
    return (a + b) + (c + d)


@njit(nogil=True)
def scale_by(a, b):  # type: ignore[no-untyped-def]
    """a *= b, element by element."""
    for i in range(a.size):
        a[i] *= b[i]
