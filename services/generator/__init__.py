"""The generator: one attempt at a request, from a prompt to a checked diagram."""
