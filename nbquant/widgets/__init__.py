"""The explorer: its state, background jobs, panels, view and front end."""
