"""The parts of the demo `ask_the_manual.py`: passages, embedders, store, frameworks, report."""
