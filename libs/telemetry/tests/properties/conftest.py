"""
How many examples the property tests try: 1,000 each; `--hypothesis-profile=full` makes that 10,000 new ones.

pytest must be given this folder then: only so is it read before the profile is looked for.
"""

from hypothesis import HealthCheck, settings

_SLOW = (HealthCheck.too_slow, HealthCheck.function_scoped_fixture)

# The same examples every time: a change must not fail for what another one left behind.
settings.register_profile(
    "gate", max_examples=1_000, deadline=None, derandomize=True, database=None, suppress_health_check=_SLOW
)
settings.register_profile("full", max_examples=10_000, deadline=None, database=None, suppress_health_check=_SLOW)
settings.load_profile("gate")
