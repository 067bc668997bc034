"""What a stream does with a decoded result before it is sent: filters, tracks, zones, lines, presence, changes."""
