"""What stands on each dashboard: one file each."""
