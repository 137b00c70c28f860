"""One open collection at work: its committed states, writes and searches, from checked input to hits and commits.

May import `metadata`, `index`, `storage` and what lies below them; nothing here checks what a user passes in.
Start with `state.py` (what a search sees), then `publisher.py` (how a write becomes visible) and `search.py`.
"""
