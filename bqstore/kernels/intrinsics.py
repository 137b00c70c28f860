"""Instructions that numba does not offer, each as LLVM code and in Python.

An intrinsic cannot be interpreted, so the Python function of the same name is used under ``NUMBA_DISABLE_JIT=1``.
"""

from __future__ import annotations

import platform
import struct
from typing import Any, TypeAlias

import numba
import numpy as np
import numpy.typing as npt

Words: TypeAlias = npt.NDArray[np.uint64]

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
        """Prefetch the cache line of ``array[row, column]``; interpreted, do nothing."""

    def prefetch_item(array: npt.NDArray[Any], place: int) -> None:
        """Prefetch the cache line of ``array[place]``; interpreted, do nothing."""

    def _distance(words: Words, row: int, planes: Words, shifts: Words | None, width: int, count: int) -> int:
        total = 0
        for w in range(width):
            word, shift = int(words[row, w]), 0 if shifts is None else int(shifts[w])
            for p in range(count):
                total += (word ^ int(planes[p, w])).bit_count() << (p + shift)
        return total

    def distance_1(words: Words, row: int, planes: Words, shifts: Words | None, width: int) -> int:
        """Return popcount(words[row, w] ^ planes[p, w]) << (p + shifts[w]), summed over p < 1 and ``width`` words."""
        return _distance(words, row, planes, shifts, width, 1)

    def distance_2(words: Words, row: int, planes: Words, shifts: Words | None, width: int) -> int:
        """Return popcount(words[row, w] ^ planes[p, w]) << (p + shifts[w]), summed over p < 2 and ``width`` words."""
        return _distance(words, row, planes, shifts, width, 2)

    def distance_4(words: Words, row: int, planes: Words, shifts: Words | None, width: int) -> int:
        """Return popcount(words[row, w] ^ planes[p, w]) << (p + shifts[w]), summed over p < 4 and ``width`` words."""
        return _distance(words, row, planes, shifts, width, 4)

    def distance_8(words: Words, row: int, planes: Words, shifts: Words | None, width: int) -> int:
        """Return popcount(words[row, w] ^ planes[p, w]) << (p + shifts[w]), summed over p < 8 and ``width`` words."""
        return _distance(words, row, planes, shifts, width, 8)

    def byte_plane(levels: npt.NDArray[np.uint8], start: int, mask: int) -> np.uint64:
        """Return the word whose bit j is 1 iff ``levels[start + j] & mask``, j < 64."""
        return np.uint64(sum(1 << j for j in range(64) if int(levels[start + j]) & mask))

    def keyed_sum(records: npt.NDArray[np.uint32], row: int, factor: int, ahead: int) -> np.uint64:
        """Return the sum over words j of ((factor * (j + 1)) mod 2^32 | 1) * records[row, j], mod 2^64."""
        words = records[row].tolist()
        total = sum(((factor * (j + 1)) & 0xFFFF_FFFF | 1) * word for j, word in enumerate(words))
        return np.uint64(total & 0xFFFF_FFFF_FFFF_FFFF)

    def count_below(keys: npt.NDArray[np.int64], start: int, stop: int, key: np.int64) -> int:
        """Return how many of ``keys[start:stop]`` are below ``key``; up to 7 more are read, which must not be below."""
        stop = start + -(-(stop - start) // 8) * 8
        return sum(1 for i in range(start, stop) if keys[i] < key)

    def widen_halves(halves: npt.NDArray[np.uint16], start: int, out: npt.NDArray[np.float32]) -> int:
        """Write the float16 values of ``halves[start:]`` to ``out``; return how many, from the first on."""
        return 0

    def move_up(keys: npt.NDArray[np.int64], place: int, count: int) -> None:
        """Move ``keys[place : place + count]`` up by one place."""
        keys[place + 1 : place + count + 1] = keys[place : place + count].copy()

else:
    from llvmlite import ir
    from llvmlite.binding import get_host_cpu_features
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

    def _data(context: Any, builder: Any, signature: Any, args: Any, place: int) -> Any:
        """The address of the first item of the array argument at this index."""
        return make_array(signature.args[place])(context, builder, args[place]).data

    def _splat(builder: Any, kind: Any, value: Any) -> Any:
        """A vector with the value in all lanes."""
        i32, none = ir.IntType(32), ir.Constant(kind, ir.Undefined)
        single = builder.insert_element(none, value, ir.Constant(i32, 0))
        return builder.shuffle_vector(single, none, ir.Constant(ir.VectorType(i32, kind.count), [0] * kind.count))

    def _sum_lanes(builder: Any, vector: Any) -> Any:
        """The sum of the lanes of a vector of 64-bit integers."""
        name = f"llvm.vector.reduce.add.v{vector.type.count}i64"
        shape = ir.FunctionType(ir.IntType(64), [vector.type])
        return builder.call(cgutils.get_or_insert_function(builder.module, shape, name), [vector])

    def _emit_prefetch(builder: Any, address: Any) -> None:
        byte, i32 = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, i32, i32, i32])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        read, keep, data = ir.Constant(i32, 0), ir.Constant(i32, 3), ir.Constant(i32, 1)
        builder.call(function, [builder.bitcast(address, byte), read, keep, data])

    @intrinsic
    def prefetch(typingctx: Any, array: Any, row: Any, column: Any) -> Any:
        """Prefetch the cache line of ``array[row, column]``, C-order; a wrong address does no harm."""

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            matrix = make_array(signature.args[0])(context, builder, args[0])
            width = builder.extract_value(matrix.shape, 1)
            address = builder.gep(matrix.data, [builder.add(builder.mul(args[1], width), args[2])])
            _emit_prefetch(builder, address)
            return context.get_dummy_value()

        return types.void(array, types.int64, types.int64), codegen

    def _distance_of(builder: Any, code: Any, query: Any, shifts: Any, many: Any, count: int) -> Any:
        """The distance of a code from a query of ``count`` planes: by eight words, whose lanes are summed at the end.

        Otherwise LLVM unrolls the loop for more words than a code of 24 has, and processes the remainder word by word.
        Eight words are one register of AVX-512, two of AVX2 and four of NEON; LLVM splits wider vectors. The planes of
        a code are contiguous and treated as one row of words, so that the remainder is small.

        code, shifts : addresses of words; ``shifts`` may be None. query : the matrix of planes. many : how many words
        """
        i64 = ir.IntType(64)
        stride = builder.extract_value(query.shape, 1)

        def piece(lanes: int, at: Any) -> Any:
            """The weighted popcounts of ``lanes`` words from ``at`` on, one sum per lane."""
            kind = ir.VectorType(i64, lanes) if lanes > 1 else i64

            def load(base: Any, offset: Any) -> Any:
                address = builder.gep(base, [offset])
                return builder.load(builder.bitcast(address, kind.as_pointer()), align=8)

            word, total = load(code, at), None
            for p in range(count - 1, -1, -1):
                plane = load(query.data, builder.add(builder.mul(ir.Constant(i64, p), stride), at))
                name = f"llvm.ctpop.v{lanes}i64" if lanes > 1 else "llvm.ctpop.i64"
                shape = ir.FunctionType(kind, [kind])
                ctpop = cgutils.get_or_insert_function(builder.module, shape, name)
                bits = builder.call(ctpop, [builder.xor(word, plane)])
                # Horner's rule in the weights 1, 2, 4 ...
                total = bits if total is None else builder.add(builder.add(total, total), bits)
            return total if shifts is None else builder.shl(total, load(shifts, at))

        zeros = ir.Constant(ir.VectorType(i64, 8), [0] * 8)
        sums = cgutils.alloca_once_value(builder, zeros)
        eights = builder.and_(many, ir.Constant(i64, -8))
        with cgutils.for_range_slice(builder, ir.Constant(i64, 0), eights, ir.Constant(i64, 8)) as (at, _):
            builder.store(builder.add(builder.load(sums), piece(8, at)), sums)
        for lanes in (4, 2, 1):  # the rest, at most one of each, into the first lanes: added up once, at the end
            left = builder.trunc(builder.lshr(many, ir.Constant(i64, lanes.bit_length() - 1)), ir.IntType(1))
            with builder.if_then(left):
                found = piece(lanes, builder.and_(many, ir.Constant(i64, -2 * lanes)))
                if lanes == 1:
                    wide = builder.insert_element(zeros, found, ir.Constant(ir.IntType(32), 0))
                else:
                    places = list(range(lanes)) + [lanes] * (8 - lanes)
                    mask = ir.Constant(ir.VectorType(ir.IntType(32), 8), places)
                    wide = builder.shuffle_vector(found, ir.Constant(found.type, [0] * lanes), mask)
                builder.store(builder.add(builder.load(sums), wide), sums)
        return builder.trunc(_sum_lanes(builder, builder.load(sums)), ir.IntType(32))

    def _make_distance(count: int) -> Any:
        def distance(typingctx: Any, words: Any, row: Any, planes: Any, shifts: Any, width: Any) -> Any:
            def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
                matrix = make_array(signature.args[0])(context, builder, args[0])
                query = make_array(signature.args[2])(context, builder, args[2])
                code = builder.gep(matrix.data, [builder.mul(args[1], builder.extract_value(matrix.shape, 1))])
                plain = isinstance(shifts, types.NoneType)
                weights = None if plain else _data(context, builder, signature, args, 3)
                return _distance_of(builder, code, query, weights, args[4], count)

            return types.int32(words, types.int64, planes, shifts, types.int64), codegen

        distance.__name__ = distance.__qualname__ = f"distance_{count}"
        distance.__doc__ = (
            f"Return popcount(words[row, w] ^ planes[p, w]) << (p + shifts[w]), summed over p < {count} and ``width`` "
            "words; ``shifts`` may be None, for none."
        )
        return intrinsic(distance)

    distance_1, distance_2, distance_4, distance_8 = (_make_distance(count) for count in (1, 2, 4, 8))

    @intrinsic
    def prefetch_item(typingctx: Any, array: Any, place: Any) -> Any:
        """Prefetch the cache line of ``array[place]``; a wrong address does no harm."""

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            _emit_prefetch(builder, builder.gep(_data(context, builder, signature, args, 0), [args[1]]))
            return context.get_dummy_value()

        return types.void(array, types.int64), codegen

    @intrinsic
    def byte_plane(typingctx: Any, levels: Any, start: Any, mask: Any) -> Any:
        """Return the word whose bit j is 1 iff ``levels[start + j] & mask``, j < 64, by one compare of a register."""

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            byte = ir.IntType(8)
            row = ir.VectorType(byte, 64)
            data = _data(context, builder, signature, args, 0)
            address = builder.bitcast(builder.gep(data, [args[1]]), row.as_pointer())
            masks = _splat(builder, row, builder.trunc(args[2], byte))
            hit = builder.icmp_unsigned(
                "!=", builder.and_(builder.load(address, align=1), masks), ir.Constant(row, [0] * 64)
            )
            return builder.bitcast(hit, ir.IntType(64))

        return types.uint64(levels, types.int64, types.int64), codegen

    @intrinsic
    def move_up(typingctx: Any, keys: Any, place: Any, count: Any) -> Any:
        """Move ``keys[place : place + count]`` up by one place."""

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            i64, byte = ir.IntType(64), ir.IntType(8).as_pointer()
            source = builder.gep(_data(context, builder, signature, args, 0), [args[1]])
            target = builder.gep(source, [ir.Constant(i64, 1)])
            kind = ir.FunctionType(ir.VoidType(), [byte, byte, i64, ir.IntType(1)])
            function = cgutils.get_or_insert_function(builder.module, kind, "llvm.memmove.p0.p0.i64")
            size = builder.mul(args[2], ir.Constant(i64, 8))
            builder.call(
                function,
                [builder.bitcast(target, byte), builder.bitcast(source, byte), size, ir.Constant(ir.IntType(1), 0)],
            )
            return context.get_dummy_value()

        return types.void(keys, types.int64, types.int64), codegen

    @intrinsic
    def count_below(typingctx: Any, keys: Any, start: Any, stop: Any, key: Any) -> Any:
        """Return how many of ``keys[start:stop]`` are below ``key``; up to 7 more are read, which must not be below."""

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            i64 = ir.IntType(64)
            kind = ir.VectorType(i64, 8)
            data = _data(context, builder, signature, args, 0)
            wanted = _splat(builder, kind, args[3])
            sums = cgutils.alloca_once_value(builder, ir.Constant(kind, [0] * 8))
            with cgutils.for_range_slice(builder, args[1], args[2], ir.Constant(i64, 8)) as (at, _):
                address = builder.bitcast(builder.gep(data, [at]), kind.as_pointer())
                below = builder.icmp_signed("<", builder.load(address, align=8), wanted)
                builder.store(builder.sub(builder.load(sums), builder.sext(below, kind)), sums)
            return _sum_lanes(builder, builder.load(sums))

        return types.int64(keys, types.int64, types.int64, types.int64), codegen

    @intrinsic
    def keyed_sum(typingctx: Any, records: Any, row: Any, factor: Any, ahead: Any) -> Any:
        """Return the sum over words j of ((factor * (j + 1)) mod 2^32 | 1) * records[row, j], mod 2^64.

        Sixteen words at a time: two multiplications of eight 32-bit halves each. A row has a multiple of eight words.
        """

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            i32, i64 = ir.IntType(32), ir.IntType(64)
            matrix = make_array(signature.args[0])(context, builder, args[0])
            width = builder.extract_value(matrix.shape, 1)
            base = builder.gep(matrix.data, [builder.mul(args[1], width)])
            coming = builder.gep(matrix.data, [builder.mul(args[3], width)])
            factor = builder.trunc(args[2], i32)
            sixteens = builder.and_(width, ir.Constant(i64, -16))
            total = cgutils.alloca_once_value(builder, ir.Constant(i64, 0))
            for lanes, first, last in ((16, ir.Constant(i64, 0), sixteens), (8, sixteens, width)):
                narrow, wide = ir.VectorType(i32, lanes), ir.VectorType(i64, lanes // 2)
                factors = _splat(builder, narrow, factor)
                steps = builder.mul(factors, ir.Constant(narrow, list(range(1, lanes + 1))))
                begin = builder.add(steps, _splat(builder, narrow, builder.mul(factor, builder.trunc(first, i32))))
                stride = builder.mul(factors, ir.Constant(narrow, [lanes] * lanes))
                keys = cgutils.alloca_once_value(builder, begin)
                low = cgutils.alloca_once_value(builder, ir.Constant(wide, [0] * (lanes // 2)))
                high = cgutils.alloca_once_value(builder, ir.Constant(wide, [0] * (lanes // 2)))
                half = ir.Constant(wide, [32] * (lanes // 2))
                mask = ir.Constant(wide, [0xFFFF_FFFF] * (lanes // 2))
                with cgutils.for_range_slice(builder, first, last, ir.Constant(i64, lanes)) as (at, _):
                    address = builder.bitcast(builder.gep(base, [at]), narrow.as_pointer())
                    words = builder.bitcast(builder.load(address, align=4), wide)
                    _emit_prefetch(builder, builder.gep(coming, [at]))
                    now = builder.load(keys)
                    odd = builder.bitcast(builder.or_(now, ir.Constant(narrow, [1] * lanes)), wide)
                    one = builder.mul(builder.and_(words, mask), builder.and_(odd, mask))
                    two = builder.mul(builder.lshr(words, half), builder.lshr(odd, half))
                    builder.store(builder.add(builder.load(low), one), low)
                    builder.store(builder.add(builder.load(high), two), high)
                    builder.store(builder.add(now, stride), keys)
                found = _sum_lanes(builder, builder.add(builder.load(low), builder.load(high)))
                builder.store(builder.add(builder.load(total), found), total)
            return builder.load(total)

        return types.uint64(records, types.int64, types.int64, types.int64), codegen

    # Without this instruction LLVM calls a function of the compiler runtime, which this process may lack.
    _WIDENS = platform.machine().lower() in ("arm64", "aarch64") or get_host_cpu_features().get("f16c", False)

    @intrinsic
    def widen_halves(typingctx: Any, halves: Any, start: Any, out: Any) -> Any:
        """Write the float16 values of ``halves[start:]`` to ``out``; return how many, from the first on.

        Sixteen at a time by the processor's own instruction, if it has one; the caller converts the rest.
        """

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            i64 = ir.IntType(64)
            if not _WIDENS:
                return ir.Constant(i64, 0)
            narrow, wide = ir.VectorType(ir.HalfType(), 16), ir.VectorType(ir.FloatType(), 16)
            source = builder.gep(_data(context, builder, signature, args, 0), [args[1]])
            target = make_array(signature.args[2])(context, builder, args[2])
            sixteens = builder.and_(builder.extract_value(target.shape, 0), ir.Constant(i64, -16))
            with cgutils.for_range_slice(builder, ir.Constant(i64, 0), sixteens, ir.Constant(i64, 16)) as (at, _):
                address = builder.bitcast(builder.gep(source, [at]), narrow.as_pointer())
                place = builder.bitcast(builder.gep(target.data, [at]), wide.as_pointer())
                builder.store(builder.fpext(builder.load(address, align=2), wide), place, align=4)
            return sixteens

        return types.int64(halves, types.int64, out), codegen
