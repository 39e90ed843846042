"""Adapter directories: what they hold, what can be carried, how they are read and written."""
