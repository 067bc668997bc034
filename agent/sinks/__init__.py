"""Where results go: a broker, or standard output."""
