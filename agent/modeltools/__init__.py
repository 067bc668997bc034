"""Work on models at a desk or on a device, never while the agent runs: verify, inspect, quantise.

Nothing but the command `edgebeat model` imports this room; what needs the extra `tools` (onnx, rich) stays in it.
"""
