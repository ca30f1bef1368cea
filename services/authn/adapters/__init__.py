"""One file for each way to prove who one is, and for each outside system."""
