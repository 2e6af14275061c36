"""Programs that made the bundled networks: not installed, run from a checkout."""
