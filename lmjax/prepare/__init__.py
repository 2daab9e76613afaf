"""Preparation of photographs from their official archives, behind `lmjax prepare`."""
