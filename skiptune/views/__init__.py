"""Tables and text for a terminal: what a person sees, made from plain data."""
