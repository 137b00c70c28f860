"""The arithmetic on arrays: bits, heaps, records and scans, compiled by numba.

Only this package imports numba. Callers use :mod:`bqstore.kernels.api` and the tuples of
:mod:`bqstore.kernels.layout`; importing this package itself costs nothing.
"""
