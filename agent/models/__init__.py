"""Model folders: the manifest, the way in to the model and the proof that it works here."""
