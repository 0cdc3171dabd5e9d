"""What the kernel needs and Numba lacks: BLAS with a place for its result, an exp that vectorises, a hash.

Numba's cache watches only the file of the function it holds: after a change here, touch `kernel.py` too.
"""

import math

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import get_cython_function_address, intrinsic, overload

for _name in ("sgemm", "dgemm"):  # give BLAS a name that cached machine code can be linked against
    llvmlite.binding.add_symbol(f"clearsight_{_name}", get_cython_function_address("scipy.linalg.cython_blas", _name))


@intrinsic
def gemm(typingctx, trans_a, trans_b, m, n, k, a, lda, b, ldb, c, ldc):  # type: ignore[no-untyped-def]
    """C (m, n) = op(A) op(B) in BLAS's column-major terms; arrays may be any contiguous shape, trans is 'N' or 'T' as a code."""
    kind = {types.float32: ("clearsight_sgemm", ir.FloatType()), types.float64: ("clearsight_dgemm", ir.DoubleType())}
    name, real = kind[c.dtype]
    signature = types.void(trans_a, trans_b, m, n, k, a, lda, b, ldb, c, ldc)

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        def pointer(value, type_):  # type: ignore[no-untyped-def]
            slot = cgutils.alloca_once(builder, type_)
            builder.store(builder.trunc(value, type_) if isinstance(type_, ir.IntType) else value, slot)
            return slot

        def data(i):  # type: ignore[no-untyped-def]
            return context.make_array(sig.args[i])(context, builder, args[i]).data

        byte, integer = ir.IntType(8), ir.IntType(32)
        blas = [byte.as_pointer()] * 2 + [integer.as_pointer()] * 3
        blas += [real.as_pointer(), real.as_pointer(), integer.as_pointer(), real.as_pointer(), integer.as_pointer()]
        blas += [real.as_pointer(), real.as_pointer(), integer.as_pointer()]
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(ir.VoidType(), blas), name)
        one, zero = pointer(real(1.0), real), pointer(real(0.0), real)
        ta, tb = pointer(args[0], byte), pointer(args[1], byte)
        ints = [pointer(args[i], integer) for i in (2, 3, 4, 6, 8, 10)]
        builder.call(
            function,
            [ta, tb, *ints[:3], one, data(5), ints[3], data(7), ints[4], zero, data(9), ints[5]],
        )
        return context.get_dummy_value()

    return signature, codegen


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
    """The finaliser of SplitMix64, as in `reference`."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
