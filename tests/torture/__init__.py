"""Minutes of damage and crashes; run by `make torture`."""
