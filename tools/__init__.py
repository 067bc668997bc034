"""Tools for the desk; nothing here runs on a device."""
