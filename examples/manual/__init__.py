"""The parts of the demo `ask_the_manual.py`: passages, offline embedder, store, query engine, report."""
