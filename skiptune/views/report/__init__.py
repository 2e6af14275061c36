"""A report of a study that one can send: one file that needs no network."""
