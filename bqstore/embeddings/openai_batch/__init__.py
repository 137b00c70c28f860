"""OpenAI's Batch API: the same vectors at half the price, within a day, in a job that survives its process.

Start with `batch.py` (submit, status, collect), then `job.py` (the state on disk) and `server.py` (the requests).
"""
