"""What every test needs before the heavy libraries are imported."""

import os

from hypothesis import HealthCheck, settings

from agent.engine.process import prepare_process

prepare_process()

# At a desk each run looks for new counterexamples; in CI the same commit gives the same verdict. How long an example
# takes is the machine's business: a busy one must not fail a test.
settings.register_profile("desk", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", parent=settings.get_profile("desk"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "desk")
