"""What `.ci/dashboards` checks: an empty board, or an alert that can never fire, looks like a healthy server."""
