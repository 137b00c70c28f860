"""Documents, ids and metadata fields: the filter grammar, the columns it is evaluated on, the JSON that is stored.

May import `kernels.metadata`, `storage` (its row type), `results`, `arguments` and below; knows no vectors and no SQL.
Start with `filter_grammar.py` (a dict becomes a `filter_tree`), then `evaluate.py` (a tree becomes a bitmap).
"""
