"""Recall measured against exact search, what it says of the settings in use, and the fastest settings for a target.

May import `engine` and everything below it; `collection.py`, `opening.py` and `remote` call it.
Start with `recall_report.py` and `verdict.py`, then `ground_truth.py` (queries and their exact answers) and `tune.py`;
`calibrate.py` and `keeper.py` keep the target recall in the background.
"""
