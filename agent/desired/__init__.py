"""Settings from afar: accepted, kept, watched, taken back."""
