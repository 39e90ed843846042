"""Linear algebra, low-rank factors and threads: functions over arrays."""
