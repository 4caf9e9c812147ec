"""A stand-in for the Claude Messages API that enforces real limits, for demos and tests."""
