"""Where messages wait on disk."""
