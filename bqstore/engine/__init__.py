"""One open collection at work: its committed states, writes and searches, from checked input to hits and commits.

May import `validate`, `metadata`, `index`, `storage` and what lies below them.
Start with `state.py` (what a search sees), then `publisher.py` (how a write becomes visible) and `search.py`.
"""
