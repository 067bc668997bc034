"""Model outputs become payloads, one decoder a file; each checks its options and the outputs at load."""
