"""A platform service of your own that asks kubegate; see docs/integrating.md."""
