"""The Optuna dashboard over the studies' database: safe to serve, and with what skiptune knows."""
