"""Builds the demo model and the demo clip from public packages."""
