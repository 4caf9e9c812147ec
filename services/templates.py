"""Which words the models are asked with: the version of the generator's prompt templates.

The generator says with each answer which version drew it; the scheduler gives an answer again only if it is this one.
"""

VERSION = 1
"""Rises with every change of a template (a test holds their digest): an answer to other words is another answer."""
