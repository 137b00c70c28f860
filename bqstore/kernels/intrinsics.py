"""The single instructions that numba does not offer, each beside its twin for ``NUMBA_DISABLE_JIT=1``.

An intrinsic cannot run interpreted, so its twin takes its name there.
"""

from __future__ import annotations

import struct
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

if getattr(numba.config, "DISABLE_JIT", 0):

    def popcount(word: np.uint64) -> int:
        """Return the number of set bits of a uint64, as int32."""
        return int(word).bit_count()

    def wrapping_add(a: np.uint64, b: np.uint64) -> np.uint64:
        """Return a + b mod 2^64."""
        return np.uint64((int(a) + int(b)) & 0xFFFF_FFFF_FFFF_FFFF)

    def as_float32(bits: np.uint32) -> np.float32:
        """Return the float32 whose bits are given."""
        return np.float32(struct.unpack("<f", struct.pack("<I", int(bits)))[0])

    def as_int32(value: np.float32) -> int:
        """Return the bits of a float32 as int32."""
        return int(struct.unpack("<i", struct.pack("<f", float(value)))[0])

    def prefetch(array: npt.NDArray[Any], row: int, column: int) -> None:
        """Ask for the cache line of ``array[row, column]``; here, nothing."""

else:
    from llvmlite import ir
    from numba import types
    from numba.core import cgutils
    from numba.extending import intrinsic
    from numba.np.arrayobj import make_array

    @intrinsic
    def popcount(typingctx: Any, word: Any) -> Any:
        """Return the number of set bits of a uint64, as int32: unsigned, it would turn sums into float64."""

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.trunc(builder.ctpop(args[0]), ir.IntType(32))

        return types.int32(types.uint64), codegen

    @intrinsic
    def wrapping_add(typingctx: Any, a: Any, b: Any) -> Any:
        """Return a + b mod 2^64. Plain ``+`` does the same compiled; interpreted it warns of overflow."""

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.add(args[0], args[1])

        return types.uint64(types.uint64, types.uint64), codegen

    @intrinsic
    def as_float32(typingctx: Any, bits: Any) -> Any:
        """Return the float32 whose bits are given as uint32."""

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.bitcast(args[0], ir.FloatType())

        return types.float32(types.uint32), codegen

    @intrinsic
    def as_int32(typingctx: Any, value: Any) -> Any:
        """Return the bits of a float32 as int32."""

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.bitcast(args[0], ir.IntType(32))

        return types.int32(types.float32), codegen

    @intrinsic
    def prefetch(typingctx: Any, array: Any, row: Any, column: Any) -> Any:
        """Ask for the cache line of ``array[row, column]``, C-order; a wrong address does no harm."""

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            matrix = make_array(signature.args[0])(context, builder, args[0])
            width = builder.extract_value(matrix.shape, 1)
            address = builder.gep(matrix.data, [builder.add(builder.mul(args[1], width), args[2])])
            byte, i32 = ir.IntType(8).as_pointer(), ir.IntType(32)
            kind = ir.FunctionType(ir.VoidType(), [byte, i32, i32, i32])
            function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
            read, keep, data = ir.Constant(i32, 0), ir.Constant(i32, 3), ir.Constant(i32, 1)
            builder.call(function, [builder.bitcast(address, byte), read, keep, data])
            return context.get_dummy_value()

        return types.void(array, types.int64, types.int64), codegen
