"""What every test needs before the heavy libraries are imported."""

import os

from hypothesis import settings

from agent.engine.process import prepare_process

prepare_process()

# At a desk each run looks for new counterexamples; in CI the same commit gives the same verdict.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")
