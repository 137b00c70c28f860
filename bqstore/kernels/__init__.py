"""Compiled kernels (numba) on arrays: encode vectors, scan codes, walk and link the graph, match metadata.

May import numpy, numba and modules that import nothing of bqstore. No other package imports numba; importing this
package does not import it either.
Start with `layout.py` (the arguments), `api.py` (the entry points), then `scan.py` and `walk.py` (the two searches).
"""
