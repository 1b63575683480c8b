"""The rows of panels of each dashboard, one module per dashboard."""
