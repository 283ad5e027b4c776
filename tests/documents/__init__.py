"""That what the documentation shows works as shown."""
