"""Background jobs: scheduling, progress, errors, and one file for each job."""
