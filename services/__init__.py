"""Headgate: a fair, honest queue between a site's users and the Claude API."""
