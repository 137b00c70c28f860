"""Embeddings from OpenAI's API, or from any server with the same API.

Independent of collections. Start with `embedder.py` (the public class), then `embedding_task.py` (one call).
"""
