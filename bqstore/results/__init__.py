"""What calls return: frozen dataclasses, and lists that know a little more.

May import `config`. Start with `hits.py`: what a search brings. A file each for `outcomes` of writes and upkeep, for
measurements of `recall`, and for `info`.
"""
