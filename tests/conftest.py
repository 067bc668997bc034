"""What every test needs before the heavy libraries are imported."""

from agent.engine.process import prepare_process

prepare_process()
