"""Edgebeat: an edge inference agent that bounds the age of every result it publishes."""

__version__ = "0.1.0"
