"""The services of kubegate, their operator CLI and the embedded development cluster."""
