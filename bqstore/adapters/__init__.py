"""What the stores of frameworks share: their collection, adding texts in batches, async forms of calls, relevances.

May import everything of a local or remote collection; knows no framework, and is used by public names only.
Start with `on_collection.py` (the base of a store), then `async_calls.py` (how an event loop goes on beside calls).
"""
