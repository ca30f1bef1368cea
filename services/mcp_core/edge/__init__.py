"""Step 0: what is checked of an HTTP request before anybody is asked who sent it."""
