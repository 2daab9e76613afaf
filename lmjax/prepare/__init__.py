"""Photographs from their official archives, in the form that training reads: what `lmjax prepare` runs."""
