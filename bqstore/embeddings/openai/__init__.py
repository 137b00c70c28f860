"""OpenAI's embedding models, or any server that speaks the same API: many texts in, float32 vectors out.

May import the cache and the helpers of `embeddings`, and the SDK when an embedder is made; knows no collection.
Start with `embedder.py` (the public class), then `embedding_task.py` (one call: cache, pack, request, order).
"""
