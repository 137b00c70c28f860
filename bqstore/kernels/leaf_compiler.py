"""A compiler for leaves, which keeps them as LLVM code until a root links them.

numba makes three things of every function that it compiles: wrappers for Python and C, code that LLVM has optimized
together with all that it calls, and machine code. Nobody needs them of a leaf: it is called by kernels alone, and the
root that links it is optimized as a whole. Without them all kernels compile in half the time, to the same code.

This uses internals of numba. Where they differ, leaves are compiled as any other function.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


def _unknown(function: Any, **options: Any) -> Any:
    """Compile a leaf as any other function: the internals that this file uses are not those of this numba."""
    return numba.njit(**options)(function)


compile_leaf: Callable[..., Any] = _unknown

try:
    from numba.core.codegen import JITCodeLibrary
    from numba.core.compiler import CompilerBase, DefaultPassBuilder
    from numba.core.compiler_machinery import register_pass
    from numba.core.registry import CPUDispatcher
    from numba.core.typed_passes import NativeLowering

    class _LeafLibrary(JITCodeLibrary):
        """Code that is linked into others and never runs by itself."""

        def _optimize_final_module(self) -> None:
            pass

        def _finalize_final_module(self) -> None:
            self._finalize_dynamic_globals()
            self._finalized = True

    @register_pass(mutates_CFG=True, analysis_only=False)
    class _LeafLowering(NativeLowering):
        _name = "bqstore_leaf_lowering"

        def run_pass(self, state: Any) -> bool:
            context = state.targetctx
            state.library = _LeafLibrary(context.codegen(), state.func_id.func_qualname)
            state.library.enable_object_caching()

            def entry(library: Any, fndesc: Any, env: Any) -> Any:
                library._ensure_finalized()
                return [].append  # a builtin of its own: the dispatcher wants one, and nobody calls it

            context.get_executable = entry  # on the instance, for this lowering
            try:
                return bool(NativeLowering.run_pass(self, state))
            finally:
                del context.get_executable

    class _LeafCompiler(CompilerBase):
        def define_pipelines(self) -> list[Any]:
            builder = DefaultPassBuilder.define_nopython_pipeline(self.state)
            builder.passes = [(_LeafLowering if step is NativeLowering else step, why) for step, why in builder.passes]
            builder.finalize()
            return [builder]

    class _Leaf(CPUDispatcher):
        """A leaf. Called from Python, as tests do, it is compiled a second time, as any other function."""

        def __call__(self, *args: Any) -> Any:
            if self.plain is None:
                self.plain = numba.njit(**self.plain_options)(self.py_func)
            return self.plain(*args)

    def _compile_leaf(function: Any, **options: Any) -> Any:
        wrappers = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
        known = {**options, **wrappers, "nopython": True, "boundscheck": None}
        leaf = _Leaf(function, targetoptions=known, pipeline_class=_LeafCompiler)
        leaf.plain, leaf.plain_options = None, options
        return leaf

    compile_leaf = _compile_leaf
except (ImportError, AttributeError):
    pass
