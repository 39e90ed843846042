"""What the workflow looks up: configuration, stages, rows of tables, needs of its jobs."""
