"""Matrix products of the shapes that dense layers have, written as tiles that LLVM keeps in vector registers.

C = A B is cut into tiles of up to 6 rows and 4 vectors of 16 columns, or 1 vector where the machine has fewer registers. A
tile's sums stay in registers while k runs; at each k one row of B is loaded and, for each row of the tile, one element of A is
multiplied with all of it. Small nets are too small for a general BLAS, whose packing and dispatch cost as much as the product;
here nothing is packed. Rows of B are read in whole vectors, so up to 15 elements behind its end must be readable (they are never
used). Each element of C is summed in the order of k, by fused multiply-adds where the processor has them (x86 since 2013,
Arm), so the tile changes no bit. Source of the scheme:
Goto & van de Geijn 2008, "Anatomy of high-performance matrix multiplication", its inner kernel.
"""

import platform
from typing import Any

from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16  # elements a vector; LLVM splits them where the machine's are narrower
ROWS = 6
# A tile's sums must fit in the registers: with AVX-512, 32 of 16 numbers; else, 16 of 8 (AVX2) or 32 of 4 (Arm). BLOCK is k's
# part that is run through at a time, so that the part of B in use stays in the second-level cache, or in the first where
# tiles are narrow.
_FEATURES = get_host_cpu_features()
VECTORS, BLOCK = (4, 1024) if _FEATURES.get("avx512f") else (1, 256)
CAN_FUSE = bool(_FEATURES.get("fma")) or platform.machine().lower() in ("aarch64", "arm64")


def _make_tile(rows: int, vectors: int) -> Any:
    """A tile of fixed size: C[r, :width] (+)= sum over k < depth of A[r, k] B[k, :width]."""

    @intrinsic
    def tile(typingctx, a, a_at, a_row, a_k, b, b_at, b_k, depth, c, c_at, c_row, width, add):  # type: ignore[no-untyped-def]
        def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
            a_data, b_data, c_data = (
                context.make_array(sig.args[i])(context, builder, args[i]).data for i in (0, 4, 8)
            )
            a_at, a_row, a_k, b_at, b_k, depth, c_at, c_row, width, add = (
                args[i] for i in (1, 2, 3, 5, 6, 7, 9, 10, 11, 12)
            )
            real, size, index = context.get_value_type(sig.args[8].dtype), sig.args[8].dtype.bitwidth // 8, depth.type
            vector, lanes = ir.VectorType(real, LANES), ir.VectorType(ir.IntType(32), LANES)
            fused = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fma.v{LANES}f{8 * size}"
            )

            def multiply_add(x, y, z):  # type: ignore[no-untyped-def]
                return builder.call(fused, [x, y, z]) if CAN_FUSE else builder.fadd(builder.fmul(x, y), z)

            def number(value):  # type: ignore[no-untyped-def]
                return ir.Constant(index, value)

            def place(pointer, start, vector_number):  # type: ignore[no-untyped-def]
                offset = builder.add(start, number(vector_number * LANES))
                return builder.bitcast(builder.gep(pointer, [offset]), vector.as_pointer())

            last = number((vectors - 1) * LANES)
            whole = builder.icmp_signed("==", width, number(vectors * LANES))
            sums = [[cgutils.alloca_once(builder, vector) for _ in range(vectors)] for _ in range(rows)]
            aside = cgutils.alloca_once(builder, vector, size=rows)
            aside_start = builder.bitcast(aside, real.as_pointer())

            def row_of_c(r):  # type: ignore[no-untyped-def]
                return builder.add(c_at, builder.mul(c_row, r))

            def copy_tails(inwards):  # type: ignore[no-untyped-def]
                """Each row's last columns from C to `aside`, or back, one by one."""
                tail = builder.sub(width, last)
                with (
                    cgutils.for_range(builder, number(rows), intp=index) as row,
                    cgutils.for_range(builder, tail, intp=index) as lane,
                ):
                    at_c = builder.add(builder.add(row_of_c(row.index), last), lane.index)
                    at_aside = builder.add(builder.mul(row.index, number(LANES)), lane.index)
                    places = builder.gep(c_data, [at_c]), builder.gep(aside_start, [at_aside])
                    source, target = places if inwards else places[::-1]
                    builder.store(builder.load(source), target)

            def each_sum(move, inwards):  # type: ignore[no-untyped-def]
                """`move(sum, place in C)` for each whole vector, and through `aside` for the last ones where they are not."""
                for r in range(rows):
                    for v in range(vectors - 1):
                        move(sums[r][v], place(c_data, row_of_c(number(r)), v), size)
                with builder.if_else(whole) as (yes, no):
                    with yes:
                        for r in range(rows):
                            move(sums[r][-1], place(c_data, row_of_c(number(r)), vectors - 1), size)
                    with no:
                        if inwards:
                            copy_tails(inwards)
                        for r in range(rows):
                            move(sums[r][-1], builder.gep(aside, [number(r)]), None)
                        if not inwards:
                            copy_tails(inwards)

            def fetch(room, there, align):  # type: ignore[no-untyped-def]
                builder.store(builder.load(there, align=align), room)

            def put(room, there, align):  # type: ignore[no-untyped-def]
                builder.store(builder.load(room), there, align=align)

            for row in sums:
                for room in row:
                    builder.store(ir.Constant(vector, None), room)
            with builder.if_then(builder.icmp_signed("!=", add, ir.Constant(add.type, 0))):
                each_sum(fetch, inwards=True)
            with cgutils.for_range(builder, depth, intp=index) as loop:
                row_of_b = builder.add(b_at, builder.mul(loop.index, b_k))
                column_of_a = builder.add(a_at, builder.mul(loop.index, a_k))
                loaded = [builder.load(place(b_data, row_of_b, v), align=size) for v in range(vectors)]
                for r in range(rows):
                    element = builder.load(
                        builder.gep(a_data, [builder.add(column_of_a, builder.mul(a_row, number(r)))])
                    )
                    one = builder.insert_element(ir.Constant(vector, ir.Undefined), element, ir.IntType(32)(0))
                    splat = builder.shuffle_vector(one, one, ir.Constant(lanes, [0] * LANES))
                    for v in range(vectors):
                        builder.store(multiply_add(splat, loaded[v], builder.load(sums[r][v])), sums[r][v])
            each_sum(put, inwards=False)
            return context.get_dummy_value()

        signature = types.void(a, a_at, a_row, a_k, b, b_at, b_k, depth, c, c_at, c_row, width, add)
        return signature, codegen

    return tile


def _make_strip(rows: int, most: int) -> Any:
    """Tiles of `rows` rows and 1 to `most` vectors, chosen by their number."""
    tile = _make_tile(rows, most)
    narrower = _make_strip(rows, most - 1) if most > 1 else None

    if narrower is None:

        @njit(nogil=True)
        def strip(vectors, a, a_at, a_row, a_k, b, b_at, b_k, depth, c, c_at, c_row, width, add):  # type: ignore[no-untyped-def]
            tile(a, a_at, a_row, a_k, b, b_at, b_k, depth, c, c_at, c_row, width, add)

    else:

        @njit(nogil=True)
        def strip(vectors, a, a_at, a_row, a_k, b, b_at, b_k, depth, c, c_at, c_row, width, add):  # type: ignore[no-untyped-def]
            if vectors == most:
                tile(a, a_at, a_row, a_k, b, b_at, b_k, depth, c, c_at, c_row, width, add)
            else:
                narrower(vectors, a, a_at, a_row, a_k, b, b_at, b_k, depth, c, c_at, c_row, width, add)

    return strip


_many_rows, _one_row = _make_strip(ROWS, VECTORS), _make_strip(1, VECTORS)


@njit(nogil=True)
def multiply(a, a_row, a_k, b, b_k, c, c_row, rows, depth, columns):  # type: ignore[no-untyped-def]
    """C (rows, columns) = A (rows, depth) B (depth, columns).

    Args:
        a, b, c: contiguous arrays of one dtype, read from their first element; b with 15 readable elements behind it.
        a_row, a_k: steps of A's rows and columns, so that a transposed A needs no copy; b_k, c_row: of B's and C's rows.
    """
    for k in range(0, depth, BLOCK):
        part = min(BLOCK, depth - k)
        more = k > 0
        for j in range(0, columns, VECTORS * LANES):
            width = min(VECTORS * LANES, columns - j)
            vectors = (width + LANES - 1) // LANES
            i = 0
            while i < rows:
                at, to, start = i * a_row + k * a_k, i * c_row + j, k * b_k + j
                if rows - i >= ROWS:
                    _many_rows(vectors, a, at, a_row, a_k, b, start, b_k, part, c, to, c_row, width, more)
                    i += ROWS
                else:
                    _one_row(vectors, a, at, a_row, a_k, b, start, b_k, part, c, to, c_row, width, more)
                    i += 1
