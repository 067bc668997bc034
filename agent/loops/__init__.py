"""The loops: each owns one thread and says when it last made progress."""
