"""Where frames come from: one source a file, each with the contract of `interfaces.Source`."""
