"""Measurements: what is timed here is never a test."""
