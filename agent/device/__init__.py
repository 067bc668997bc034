"""What the device says of itself: pressure, temperature, clock frequency."""
