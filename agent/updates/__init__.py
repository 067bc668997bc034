"""Model updates: signatures, downloads, and the folder that outlives a power cut at any byte."""
