"""The pure core: no threads, no clock, no input or output. Every call is handed `now_ns`."""
