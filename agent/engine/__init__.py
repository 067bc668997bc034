"""Runs models: ONNX Runtime inside the CPUs that were given."""
