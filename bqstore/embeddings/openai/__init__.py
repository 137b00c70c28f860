"""OpenAI's embedding models, or any server that speaks the same API: many texts in, float32 vectors out.

Knows no collection. Start with `embedder.py` (the public class), then `embedding_task.py` (one call).
"""
