"""How right are the answers: recall measured against exact search, and the cheapest settings that reach a target.

May import `engine` and everything below it; only `collection.py` calls it.
Start with `recall_report.py`, then `ground_truth.py` (held-out queries and their exact answers) and `tune.py`.
"""
