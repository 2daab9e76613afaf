"""The published claims, run again: tables of runs from paired seeds, and what they come to."""
