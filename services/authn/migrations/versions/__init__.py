"""One file per step. A step that is published is never changed."""
