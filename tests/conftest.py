"""What holds for every test."""

from hypothesis import HealthCheck, settings

# No test asserts a duration (R27), and that goes for the time an example takes to be made or run.
settings.register_profile("kubegate", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("kubegate")
